"""Makes `samples/`: small held-out photographs to try the program on, and their ground truths at 4 x.

Each truth is a 2048 x 1536 px cut of the photograph (reduced first by a whole factor where it is larger); the sample is the truth
reduced 4 x by area, as JPEG of quality 92. The truths stay outside the repository.
"""
import argparse
import json
import pathlib

from PIL import Image

HERE = pathlib.Path(__file__).parent
# Sample name: (photograph, reduction, place of the cut as fractions of what is left over).
SAMPLES = {"dogs": ("friends", 1, (0.5, 0.25)), "creek": ("life", 1, (0.5, 0.5)), "nuthatch": ("kleiber", 2, (0.5, 0.6))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=pathlib.Path, required=True, help="unpacked packages (WORK/raw of fetch_photos.py)")
    parser.add_argument("--samples", type=pathlib.Path, default=HERE.parent.parent / "samples")
    parser.add_argument("--truths", type=pathlib.Path, required=True)
    args = parser.parse_args()
    entries = {e["name"]: e for e in json.loads((HERE / "photos.json").read_text())}
    for folder in (args.samples, args.truths):
        folder.mkdir(parents=True, exist_ok=True)
    for name, (photo, factor, (fx, fy)) in SAMPLES.items():
        entry = entries[photo]
        assert entry["split"] == "heldout", f"{photo} was trained on"
        image = Image.open(args.raw / entry["package"] / entry["path"]).convert("RGB")
        image = image.resize((image.width // factor, image.height // factor), Image.BOX)
        x, y = int(fx * (image.width - 2048)), int(fy * (image.height - 1536))
        truth = image.crop((x, y, x + 2048, y + 1536))
        truth.save(args.truths / f"sample_{name}.png")
        low = truth.resize((512, 384), Image.BOX)
        low.save(args.truths / f"sample_{name}_low.png")
        low.save(args.samples / f"{name}.jpg", quality=92, subsampling=0)
        print(name, (args.samples / f"{name}.jpg").stat().st_size)


if __name__ == "__main__":
    main()
