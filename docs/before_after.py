"""Makes docs/before-after.png, the README's picture: crops of two samples at 1:1, enlarged 4x by Lanczos
(left) and by this program with its embedded model (right).

    cargo build --release && python docs/before_after.py     # needs Pillow
"""

import pathlib
import subprocess
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE = 400
# sample, left, top of the crop in the enlarged picture
CROPS = (("nuthatch", 720, 600), ("dogs", 720, 440))


def main():
    sheet = Image.new("RGB", (2 * SIDE, SIDE * len(CROPS)))
    with tempfile.TemporaryDirectory() as folder:
        for row, (name, left, top) in enumerate(CROPS):
            source = ROOT / "samples" / f"{name}.jpg"
            output = pathlib.Path(folder) / f"{name}.png"
            program = ["cargo", "run", "--release", "-q", "--", source, "-o", output, "--scale", "4"]
            subprocess.run(program, cwd=ROOT, check=True)
            ours = Image.open(output).convert("RGB")
            lanczos = Image.open(source).convert("RGB").resize(ours.size, Image.Resampling.LANCZOS)
            for column, picture in enumerate((lanczos, ours)):
                crop = picture.crop((left, top, left + SIDE, top + SIDE))
                sheet.paste(crop, (column * SIDE, row * SIDE))
    sheet.save(ROOT / "docs" / "before-after.png", optimize=True)


if __name__ == "__main__":
    main()
