"""Cuts the test pictures from the photographs that were kept out: ground truths, and their inputs reduced 4 x by area.

Writes OUT/NAME.png (truth) and OUT/NAME_low.png. Three more kept-out photographs (friends, ladybird, wine) are looked at while
training, and are therefore no part of the test.
"""
import argparse
import pathlib

from PIL import Image

# Position of the cut in each photograph, as fractions of the remaining range, on its subject; a short name.
PLACES = {
    "brushes": ("brushes", 0.5, 0.5), "eveningglow": ("eveningglow", 0.4, 0.9), "kleiber": ("nuthatch", 0.5, 0.5),
    "life": ("creek", 0.5, 0.6), "ja-san-miguel---qquvawq-0": ("spaniel", 0.5, 0.42), "roman-colosseum": ("colosseum", 0.8, 0.45),
    "seondol-son-skcd9onunjw": ("burano", 0.7, 0.55), "kait-herzog-8242": ("sign", 0.28, 0.45),
    "oakland-zoo-otters": ("otter", 0.4, 0.75), "mike-castro-demaria-94buerwdfp8": ("rose", 0.5, 0.45),
    "olena-ivanova-jkb0efemilk": ("leaves", 0.55, 0.5), "singaporean-cityscape": ("skyline", 0.55, 0.55)}
# Width and height of the cuts, in turn.
SIZES = ((768, 512), (640, 416), (576, 384))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--scale", type=int, default=4)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for index, (photo, (name, fx, fy)) in enumerate(PLACES.items()):
        path = args.work / "photos" / "heldout" / f"{photo}.png"
        if not path.exists():
            print("not there:", photo)
            continue
        image = Image.open(path)
        w, h = SIZES[index % len(SIZES)]
        x, y = int(fx * (image.width - w)), int(fy * (image.height - h))
        truth = image.crop((x, y, x + w, y + h))
        truth.save(args.out / f"{name}.png")
        truth.resize((w // args.scale, h // args.scale), Image.BOX).save(args.out / f"{name}_low.png")
        print(name, truth.size)


if __name__ == "__main__":
    main()
