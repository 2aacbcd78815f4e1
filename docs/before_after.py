"""Makes docs/before-after.png, the README's picture: crops at 1:1 of three photographs that no one trained on, enlarged 4x by
Lanczos (left), by Real-ESRGAN x4plus (middle), and by this program with its embedded model and all defaults (right).

    cargo build --release
    python docs/before_after.py --work WORK     # WORK/heldout by models/train/heldout.py; needs its requirements.txt
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 300, 240
# picture of heldout.py, left, top of the crop in the enlarged picture
# fur, a building, foliage
CROPS = (("spaniel", 60, 40), ("burano", 240, 60), ("leaves", 10, 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    args = parser.parse_args()
    sheet = Image.new("RGB", (3 * WIDTH, HEIGHT * len(CROPS)))
    with tempfile.TemporaryDirectory() as folder:
        for row, (name, left, top) in enumerate(CROPS):
            source = args.work / "heldout" / f"{name}_low.png"
            ours, theirs = (pathlib.Path(folder) / f"{name}_{who}.png" for who in ("ours", "theirs"))
            program = ["cargo", "run", "--release", "-q", "--", source, "-o", ours, "--scale", "4"]
            subprocess.run(program, cwd=ROOT, check=True)
            subprocess.run([sys.executable, ROOT / "models" / "train" / "teacher.py", source, theirs], check=True)
            small = Image.open(source).convert("RGB")
            lanczos = small.resize((4 * small.width, 4 * small.height), Image.Resampling.LANCZOS)
            for column, picture in enumerate((lanczos, Image.open(theirs), Image.open(ours).convert("RGB"))):
                crop = picture.crop((left, top, left + WIDTH, top + HEIGHT))
                sheet.paste(crop, (column * WIDTH, row * HEIGHT))
    sheet.save(ROOT / "docs" / "before-after.png", optimize=True)


if __name__ == "__main__":
    main()
