"""The README's example runs as it stands."""

import pathlib
import re
import subprocess
import sys

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_worked_example_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    with Image.open(ROOT.parent / "samples" / "nuthatch.jpg") as image:
        image.crop((100, 100, 196, 164)).save(tmp_path / "photo.jpg", exif=image.getexif())
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "denoise: " in done.stdout and "regions       " in done.stdout
    with Image.open(tmp_path / "photo_4x.png") as made:
        assert made.size == (384, 256)
    with Image.open(tmp_path / "photo_4x.tif") as made:
        assert made.size == (384, 256)
