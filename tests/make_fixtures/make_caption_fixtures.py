"""Makes tests/fixtures/caption: an atlas of crops (PNG) and what the Python captioner says of each (JSON).

    python tests/make_fixtures/make_caption_fixtures.py PHOTOS

PHOTOS is the folder usr/share/backgrounds of the unpacked Debian package lomiri-wallpapers-16.04. The
patterns are drawn here from a fixed seed.
Needs numpy and Pillow.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "train"))
import attributes  # noqa: E402

OUT = ROOT / "tests" / "fixtures" / "caption"

# Photographs of the Debian package lomiri-wallpapers-16.04 whose licence asks for no more than the name.
CREDITS = {
    "aitzgorri_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC-BY-4.0",
    "life_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC-BY-4.0",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC-BY-4.0",
    "sunset_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC-BY-4.0",
    "Picture_0B_by_freespace.jpg": 'Trevor "Freespace", CC-BY-4.0',
    "Picture_1A_by_freespace.jpg": 'Trevor "Freespace", CC-BY-4.0',
    "umang_by_Abhishek_Mudgal.jpg": "Abhishek Mudgal, CC-BY-4.0",
    "Wine_by_Jakkub_Mede.jpg": "Jakub Mede, CC-BY-4.0",
    "seeding_by_Clements_Engelhardt.jpg": "Clemens Engelhardt, CC0-1.0",
}

# (file, left and top as shares of the picture, side in the photo, size in the atlas)
PHOTOS = [
    (name, x, y, side, size)
    for name in CREDITS
    for x, y, side, size in [
        (0.10, 0.05, 640, (64, 64)),
        (0.45, 0.40, 320, (64, 64)),
        (0.60, 0.55, 192, (64, 43)),
    ]
]
# Larger than the grid of cells, so that block means with uneven blocks are tried on photos, too.
PHOTOS += [
    ("picosdeeuropa_by_Aitzol_Berasategi.jpg", 0.5, 0.6, 150, (101, 150)),
    ("Wine_by_Jakkub_Mede.jpg", 0.3, 0.3, 130, (130, 97)),
]


def photos(folder: Path):
    for name, x, y, side, size in PHOTOS:
        picture = Image.open(folder / name).convert("RGB")
        left, top = int(x * (picture.width - side)), int(y * (picture.height - side))
        crop = picture.crop((left, top, left + side, top + side)).resize(size, Image.Resampling.BOX)
        yield f"{name}@{left},{top},{side}", np.asarray(crop)


def paint(plane: np.ndarray, low, high) -> np.ndarray:
    """Colours between `low` and `high` by `plane`, 0..1."""
    low, high = np.array(low, float), np.array(high, float)
    return np.round(low + plane[:, :, None] * (high - low)).clip(0, 255).astype(np.uint8)


def patterns():
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:256, 0:256] / 255.0
    # One colour each, at the sizes where the measures have least to stand on.
    for width, height in [(1, 1), (2, 1), (1, 2), (3, 3), (1, 70), (70, 1), (5, 200)]:
        yield f"noise {width}x{height}", rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    yield "black", np.zeros((64, 64, 3), np.uint8)
    yield "white", np.full((65, 63, 3), 255, np.uint8)
    yield "one grey", np.full((1, 1, 3), 128, np.uint8)
    # Every hue at several values and saturations: each patch is many cells.
    for value in (20, 50, 90, 150, 200, 255):
        bars = np.zeros((24, 240, 3), np.uint8)
        for i in range(60):
            hue, saturation = i * 6 / 60.0, (0.05, 0.2, 0.4, 0.9)[i % 4]
            rgb = [max(0.0, min(1.0, abs((hue + k) % 6 - 3) - 1)) for k in (0, 4, 2)]
            bars[:, 4 * i : 4 * i + 4] = [round(value * (1 - saturation * (1 - c))) for c in rgb]
        for i in range(5):
            yield f"hues {value} part {i}", bars[:, 48 * i : 48 * i + 48]
    # Gradients: direction of light and of colour.
    yield "sky", paint(1 - y, (240, 240, 250), (60, 120, 220))
    yield "dusk", paint(y, (30, 20, 60), (250, 140, 60))
    yield "left light", paint(1 - x, (20, 30, 20), (200, 230, 190))
    yield "corner", paint((x + y) / 2, (10, 10, 10), (230, 220, 200))
    yield "vignette", paint(1 - np.hypot(x - 0.5, y - 0.5), (0, 0, 0), (255, 240, 220))
    yield "halves", paint((x > 0.5) * 1.0, (150, 30, 30), (240, 240, 230))
    yield "horizon", paint((y > 0.5) * 1.0, (130, 190, 240), (40, 90, 30))
    # Stripes in every direction, checks, rings, noise of several grains.
    for name, phase in [("vertical", x), ("horizontal", y), ("rising", (x + y) / 1.4), ("falling", (x - y) / 1.4)]:
        yield f"{name} stripes", paint(0.5 + 0.5 * np.sin(phase * 80), (20, 40, 120), (220, 200, 160))
    yield "slanted 20", paint(0.5 + 0.5 * np.sin((0.94 * x + 0.34 * y) * 80), (90, 90, 90), (150, 160, 150))
    yield "faint stripes", paint(0.5 + 0.5 * np.sin(y * 90), (120, 120, 120), (126, 126, 126))
    yield "checks", paint(((np.floor(x * 16) + np.floor(y * 16)) % 2), (0, 0, 0), (255, 255, 255))
    yield "rings", paint(0.5 + 0.5 * np.sin(np.hypot(x - 0.5, y - 0.5) * 90), (200, 30, 60), (250, 220, 60))
    for amount in (6, 30, 120):
        blocks = rng.uniform(0.5 - amount / 255, 0.5 + amount / 255, (64, 64)).clip(0, 1)
        yield f"grain {amount}", paint(blocks, (0, 30, 10), (160, 255, 170))
    smooth = np.kron(rng.uniform(0, 1, (6, 6)), np.ones((40, 40)))
    for _ in range(3):
        smooth = sum(np.roll(smooth, s, a) for a in (0, 1) for s in range(-9, 10)) / 38
    smooth = ((smooth - smooth.min()) / np.ptp(smooth))[:200, :233]
    yield "blur", paint(smooth, (60, 20, 80), (240, 200, 180))


def lattice(step: int) -> dict:
    """Colour names of every `step`-th RGB value: the count of each name, and a checksum of the positions."""
    axis = np.arange(0, 256, step)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(1, -1, 3)
    numbers = attributes.colour_numbers(cells, attributes.luma(cells))[0]
    counts = np.bincount(numbers, minlength=len(attributes.COLOURS))
    places = int((numbers * np.arange(1, numbers.size + 1)).sum())
    names = dict(zip(attributes.COLOURS, counts.tolist()))
    return {"step": step, "colours": attributes.COLOURS, "counts": names, "places": places}


def atlas(crops: list[tuple[str, np.ndarray]]):
    """Shelves of crops, tallest first, 768 wide; yields the picture and each crop's place."""
    width, x, y, shelf, places = 768, 0, 0, 0, {}
    for name, crop in sorted(crops, key=lambda item: -item[1].shape[0]):
        if x + crop.shape[1] > width:
            x, y, shelf = 0, y + shelf, 0
        places[name] = (x, y)
        x, shelf = x + crop.shape[1], max(shelf, crop.shape[0])
    picture = np.zeros((y + shelf, width, 3), np.uint8)
    for name, crop in crops:
        left, top = places[name]
        picture[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return picture, places


def main() -> None:
    crops = [*patterns(), *photos(Path(sys.argv[1]))]
    assert len({name for name, _ in crops}) == len(crops), "names must differ"
    picture, places = atlas(crops)
    OUT.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(OUT / "atlas.png", optimize=True)
    rows = [
        {
            "name": name,
            "x": places[name][0],
            "y": places[name][1],
            "width": crop.shape[1],
            "height": crop.shape[0],
            "caption": attributes.describe(np.ascontiguousarray(crop)),
        }
        for name, crop in crops
    ]
    lines = ",\n".join("    " + json.dumps(row) for row in rows)
    vocabulary = json.dumps(list(attributes.VOCABULARY))
    colours = json.dumps(lattice(5))
    credits = json.dumps(CREDITS, indent=4).replace("\n}", "\n  }")
    text = f'{{\n  "credits": {credits},\n  "vocabulary": {vocabulary},\n  "lattice": {colours},\n  "crops": [\n{lines}\n  ]\n}}\n'
    (OUT / "attributes.json").write_text(text)

    said = " ".join(row["caption"] for row in rows)
    unsaid = [w for w in [*attributes.TEXTURES, *attributes.LINES] if w not in said]
    unsaid += [w for _, w in attributes.BRIGHTNESS if w not in said] + [c for c in attributes.COLOURS if c not in said]
    print(f"{len(rows)} crops, atlas {(OUT / 'atlas.png').stat().st_size} bytes; never said: {unsaid}")


if __name__ == "__main__":
    main()
