"""Cuts the pictures on which the strength of sharpening, grain, fidelity and coherence is chosen, none of which is part of the test:
the middles of the three kept-out photographs that training looks at, and of fifteen that it sees.

    strength.py --work WORK --out WORK/strength
    cupscale-fast WORK/strength/NAME_low.png -o OURS/NAME.png --sharpen 0.8 --grain 1.25      # each of them, with each strength
    evaluate.py WORK/strength ours=OURS
"""
import argparse
import pathlib
import random

from PIL import Image

from common import LOOKED_AT

WIDTH, HEIGHT, SCALE = 640, 416, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    photos = args.work / "photos"
    paths = [photos / "heldout" / f"{name}.png" for name in LOOKED_AT]
    paths += random.Random(1).sample(sorted((photos / "train").glob("*.png")), 15)
    for path in paths:
        image = Image.open(path).convert("RGB")
        x, y = (image.width - WIDTH) // 2, (image.height - HEIGHT) // 2
        truth = image.crop((x, y, x + WIDTH, y + HEIGHT))
        truth.save(args.out / f"{path.stem}.png")
        truth.resize((WIDTH // SCALE, HEIGHT // SCALE), Image.BOX).save(args.out / f"{path.stem}_low.png")
        print(path.stem)


if __name__ == "__main__":
    main()
