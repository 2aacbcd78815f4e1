"""Cuts the held-out test pictures: ground truths, and their inputs reduced 4 x by area.

Writes OUT/NAME.png (truth, 1024 px square or as near as the photograph allows) and OUT/NAME_low.png.
"""
import argparse
import pathlib

from PIL import Image

# Position of the crop in each photograph, as fractions of the remaining range; on its subject.
PLACES = {"brushes": (0.5, 0.5), "eveningglow": (0.4, 0.9), "friends": (0.5, 0.25), "kleiber": (0.5, 0.5),
          "ladybird": (0.6, 0.5), "life": (0.5, 0.6), "wine": (0.5, 0.75)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--scale", type=int, default=4)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, (fx, fy) in PLACES.items():
        image = Image.open(args.work / "photos" / "heldout" / f"{name}.png")
        unit = args.scale * 8
        w, h = (min(args.side, n // unit * unit) for n in image.size)
        x, y = int(fx * (image.width - w)), int(fy * (image.height - h))
        truth = image.crop((x, y, x + w, y + h))
        truth.save(args.out / f"{name}.png")
        truth.resize((w // args.scale, h // args.scale), Image.BOX).save(args.out / f"{name}_low.png")
        print(name, truth.size)


if __name__ == "__main__":
    main()
