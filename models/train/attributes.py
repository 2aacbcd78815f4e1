"""Captions from measurements: what can be said of a region by looking at its numbers alone.

`describe` is the embedded captioner of cupscale-fast (docs/method.md §5) in the form the training of
`models/mini` uses. The program uses the Rust port, `src/caption/attributes.rs`, which takes the same
steps in the same order: the model is asked, in use, in exactly the words it was trained on. Everything
is integer arithmetic, so both give the identical string on every machine; `tests/captions/attributes.rs`
holds them together. Change one, change both, and make the fixture again
(`tests/make_fixtures/make_caption_fixtures.py`).

A region is first reduced to a grid of at most 64 x 64 cells by block means. All measures are taken on
that grid, never on single pixels, so a 256-pixel region reads about the same whether it is sharp or
enlarged up to 4 times from a small picture: detail finer than a cell, which only the sharp one has, is
out of sight for both.
"""

from __future__ import annotations

import numpy as np

# Longest side of the grid of cells.
GRID = 64

# --- words -------------------------------------------------------------------------------------------

# Upper limits (exclusive) of the mean luma, 0..255, and the word below each.
BRIGHTNESS = [
    (30, "very dark"),
    (62, "dark"),
    (94, "dim"),
    (128, "softly lit"),
    (170, "well lit"),
    (210, "bright"),
    (256, "very bright"),
]

# Neutral colours by luma, upper limits exclusive.
NEUTRALS = [(24, "black"), (60, "charcoal"), (105, "dark grey"), (155, "grey"), (215, "pale grey"), (256, "white")]

# Hue families: upper limits (exclusive) in whole degrees; from 346 on it is red again.
HUES = [
    (14, "red"),
    (38, "orange"),
    (63, "yellow"),
    (90, "lime"),
    (155, "green"),
    (188, "teal"),
    (213, "sky"),
    (250, "blue"),
    (290, "violet"),
    (346, "magenta"),
]

# One row per hue family, one column per tone: dark, muted, deep, pale, light, vivid.
TONES = [
    ["dark red", "dusty red", "deep red", "pale pink", "salmon pink", "bright red"],
    ["dark brown", "greyish brown", "warm brown", "beige", "tan", "bright orange"],
    ["dark olive", "khaki", "ochre", "cream", "light yellow", "golden yellow"],
    ["dark olive green", "greyish olive green", "olive green", "pale yellow green", "light yellow green", "lime green"],
    ["dark green", "greyish green", "deep green", "pale green", "light green", "bright green"],
    ["dark teal", "greyish teal", "deep teal", "pale turquoise", "light turquoise", "bright turquoise"],
    ["dark slate blue", "slate blue", "steel blue", "pale blue", "light blue", "sky blue"],
    ["navy blue", "greyish blue", "deep blue", "pale lavender blue", "light lavender blue", "bright blue"],
    ["dark violet", "greyish violet", "deep violet", "pale lavender", "lavender", "bright violet"],
    ["dark magenta", "greyish pink", "deep magenta", "pale rose", "rose pink", "bright pink"],
]

# Every colour name; a colour's number is its place here: first the neutrals, then TONES row by row.
COLOURS = [name for _, name in NEUTRALS] + [name for row in TONES for name in row]

FLAT, SMOOTH, BLURRED, SOFT, EDGED, FINE, DETAILED, ROUGH = range(8)
TEXTURES = [
    "flat, even",
    "smooth",
    "soft, blurred",
    "softly textured",
    "mostly smooth, sharp edged",
    "finely textured",
    "detailed",
    "rough, busy",
]

LINES = ["vertical", "horizontal", "diagonal rising", "diagonal falling"]

# --- measures ----------------------------------------------------------------------------------------


def cell_means(rgb: np.ndarray) -> np.ndarray:
    """Block means of `rgb` (H x W x 3, uint8) as int64 h x w x 3, rounded half up.

    The longer side becomes min(64, side) cells, the shorter keeps the cells about square.
    """
    height, width = rgb.shape[:2]
    longest = max(height, width)
    cells = min(GRID, longest)
    h = min(height, max(1, (2 * height * cells + longest) // (2 * longest)))
    w = min(width, max(1, (2 * width * cells + longest) // (2 * longest)))
    ys = np.arange(h + 1) * height // h
    xs = np.arange(w + 1) * width // w
    sums = np.add.reduceat(rgb, ys[:-1], axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, xs[:-1], axis=1)
    n = (np.diff(ys)[:, None] * np.diff(xs)[None, :])[:, :, None]
    return (2 * sums + n) // (2 * n)


def luma(cells: np.ndarray) -> np.ndarray:
    """Rec. 601 luma of gamma-coded cells, 0..255 (weights 77, 150, 29 of 256)."""
    return (77 * cells[..., 0] + 150 * cells[..., 1] + 29 * cells[..., 2] + 128) >> 8


def colour_numbers(cells: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The place in COLOURS of every cell, by hue, saturation and value."""
    r, g, b = cells[..., 0], cells[..., 1], cells[..., 2]
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    c = np.maximum(chroma, 1)

    # Grey: the eye sees no hue in little chroma, and less still in the dark.
    neutral = (chroma < 12) | (chroma * 100 < value * 11) | ((value < 64) & (chroma < 16)) | (value < 24)
    grey = np.zeros_like(y)
    for limit, _ in NEUTRALS[:-1]:
        grey += y >= limit

    hue = np.where(
        value == r,
        (60 * (g - b)) // c,
        np.where(value == g, 120 + (60 * (b - r)) // c, 240 + (60 * (r - g)) // c),
    ) % 360
    family = np.zeros_like(y)
    for limit, _ in HUES:
        family += hue >= limit
    family %= len(HUES)

    saturation = 100 * chroma // np.maximum(value, 1)
    tone = np.where(
        value < 84,
        0,
        np.where(
            value < 160,
            np.where(saturation < 33, 1, 2),
            np.where(saturation < 26, 3, np.where(saturation < 52, 4, 5)),
        ),
    )
    return np.where(neutral, grey, len(NEUTRALS) + family * 6 + tone)


def dominant_colours(numbers: np.ndarray) -> list[int]:
    """One to three colour numbers, largest area first; the second and third cover a tenth at least."""
    counts = np.bincount(numbers.ravel(), minlength=len(COLOURS))
    order = sorted(range(len(COLOURS)), key=lambda i: (-int(counts[i]), i))
    return [order[0]] + [i for i in order[1:3] if int(counts[i]) * 10 >= numbers.size]


def colour_sides(numbers: np.ndarray, colours: list[int]) -> tuple[str, str] | None:
    """Position of the two largest colours, if three quarters of each lie in opposite halves."""
    if len(colours) < 2:
        return None
    h, w = numbers.shape
    first = numbers == colours[0]
    second = numbers == colours[1]
    n1, n2 = int(first.sum()), int(second.sum())
    if h >= 2:
        top1, top2 = int(first[: h // 2].sum()), int(second[: h // 2].sum())
        if top1 * 4 >= n1 * 3 and top2 * 4 <= n2:
            return ("above", "below")
        if top1 * 4 <= n1 and top2 * 4 >= n2 * 3:
            return ("below", "above")
    if w >= 2:
        left1, left2 = int(first[:, : w // 2].sum()), int(second[:, : w // 2].sum())
        if left1 * 4 >= n1 * 3 and left2 * 4 <= n2:
            return ("on the left", "on the right")
        if left1 * 4 <= n1 and left2 * 4 >= n2 * 3:
            return ("on the right", "on the left")
    return None


def luma_range(y: np.ndarray) -> int:
    """The spread of luma between the 5th and the 95th percentile, 0..255."""
    cumulative = np.cumsum(np.bincount(y.ravel(), minlength=256))
    low = int(np.count_nonzero(cumulative * 20 <= y.size))
    high = int(np.count_nonzero(cumulative * 20 < y.size * 19))
    return high - low


def gradients(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences over two cells, along x and along y; one-sided at the border."""
    h, w = y.shape
    right, left = np.minimum(np.arange(w) + 1, w - 1), np.maximum(np.arange(w) - 1, 0)
    below, above = np.minimum(np.arange(h) + 1, h - 1), np.maximum(np.arange(h) - 1, 0)
    return y[:, right] - y[:, left], y[below] - y[above]


def bends(y: np.ndarray) -> np.ndarray:
    """Second differences, absolute, along x plus along y; the cell itself stands in beyond the border."""
    h, w = y.shape
    right, left = np.minimum(np.arange(w) + 1, w - 1), np.maximum(np.arange(w) - 1, 0)
    below, above = np.minimum(np.arange(h) + 1, h - 1), np.maximum(np.arange(h) - 1, 0)
    return np.abs(y[:, right] + y[:, left] - 2 * y) + np.abs(y[below] + y[above] - 2 * y)


def texture(y: np.ndarray, gx: np.ndarray, gy: np.ndarray, spread: int) -> tuple[int, int]:
    """The place in TEXTURES, and the share of cells (in 1/1000) that carry a visible gradient."""
    strength = np.abs(gx) + np.abs(gy)
    n = strength.size
    weak = 1000 * int(np.count_nonzero(strength >= 6)) // n
    active = 1000 * int(np.count_nonzero(strength >= 16)) // n
    strong = 1000 * int(np.count_nonzero(strength >= 48)) // n
    bent = 1000 * int(np.count_nonzero(bends(y) >= 12)) // n
    if weak < 20 and spread < 12:
        return FLAT, active
    if active < 60:
        # One hard border right across the region is enough for an edge.
        return (EDGED if strong >= 15 else SMOOTH), active
    # Slopes that hardly bend from one cell to the next: out of focus, or a wide shade.
    if bent * 3 < active:
        return BLURRED, active
    if active < 300:
        return (EDGED if strong * 4 >= active else SOFT), active
    if strong < 150:
        return FINE, active
    return (DETAILED if active < 600 else ROUGH), active


def lines(gx: np.ndarray, gy: np.ndarray) -> int | None:
    """The place in LINES by the structure tensor summed over the region, if it has one direction.

    Coherence ((jxx - jyy)^2 + (2 jxy)^2) / (jxx + jyy)^2 of at least 0.16 counts. The sectors are 45
    degrees wide: twice the angle of the mean gradient lies within 45 degrees of an axis.
    """
    jxx, jyy, jxy = int((gx * gx).sum()), int((gy * gy).sum()), int((gx * gy).sum())
    a, b, trace = jxx - jyy, 2 * jxy, jxx + jyy
    if trace == 0 or 100 * (a * a + b * b) < 16 * trace * trace:
        return None
    if abs(b) <= abs(a):
        return 0 if a > 0 else 1
    # y points down: a gradient towards the lower right crosses lines that rise to the right.
    return 2 if b > 0 else 3


def half_means(y: np.ndarray) -> tuple[int, int, int]:
    """Luma of the top half minus the bottom half, left minus right, and middle minus the whole."""
    h, w = y.shape
    mean = lambda part: int(part.sum()) // part.size  # noqa: E731
    vertical = mean(y[: h // 2]) - mean(y[h - h // 2 :]) if h >= 2 else 0
    horizontal = mean(y[:, : w // 2]) - mean(y[:, w - w // 2 :]) if w >= 2 else 0
    middle = mean(y[h // 4 : h - h // 4, w // 4 : w - w // 4]) - mean(y) if min(h, w) >= 4 else 0
    return vertical, horizontal, middle


def light(vertical: int, horizontal: int, middle: int) -> str | None:
    """Position of the light, if it is not spread evenly."""
    v, h, m = abs(vertical), abs(horizontal), abs(middle)
    if max(v, h) >= 20:
        rows = "top" if vertical > 0 else "bottom"
        columns = "left" if horizontal > 0 else "right"
        if 2 * h < v:
            return f"brighter at the {rows}"
        if 2 * v < h:
            return f"brighter on the {columns}"
        return f"brighter at the {rows} {columns}"
    if m >= 14:
        return "brighter in the middle" if middle > 0 else "darker in the middle"
    return None


# --- the sentence ------------------------------------------------------------------------------------


def describe(rgb: np.ndarray) -> str:
    """One sentence about `rgb`, uint8, H x W x 3, sRGB, both sides at least 1: some 17 words, never over 40.

    Example: "a bright, low contrast, smooth gradient in pale blue above and white below, brighter at
    the top".
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.shape[0] < 1 or rgb.shape[1] < 1:
        raise ValueError(f"expected uint8 H x W x 3, got {rgb.dtype} {rgb.shape}")
    cells = cell_means(rgb)
    y = luma(cells)

    mean = int(y.sum()) // y.size
    brightness = next(word for limit, word in BRIGHTNESS if mean < limit)

    spread = luma_range(y)
    contrast = "low contrast, " if spread < 48 else "high contrast, " if spread >= 150 else ""

    gx, gy = gradients(y)
    kind, active = texture(y, gx, gy, spread)
    place = light(*half_means(y))
    noun = "gradient" if kind == SMOOTH and place is not None else "area"

    numbers = colour_numbers(cells, y)
    colours = dominant_colours(numbers)
    sides = colour_sides(numbers, colours)
    names = [COLOURS[i] for i in colours]
    if sides is not None:
        painted = f"{names[0]} {sides[0]} and {names[1]} {sides[1]}"
        if len(names) == 3:
            painted += f" with some {names[2]}"
    elif len(names) == 3:
        painted = f"{names[0]}, {names[1]} and {names[2]}"
    else:
        painted = " and ".join(names)

    parts = [f"a {brightness}, {contrast if kind != FLAT else ''}{TEXTURES[kind]} {noun} in {painted}"]
    direction = lines(gx, gy) if kind >= BLURRED else None
    if direction is not None:
        # Lines cover the region; a few strong borders between smooth parts are edges.
        parts.append(f"{LINES[direction]} {'lines' if active >= 200 else 'edges'}")
    if place is not None:
        parts.append(place)
    return ", ".join(parts)


def _vocabulary() -> tuple[str, ...]:
    phrases = [word for _, word in BRIGHTNESS] + COLOURS + TEXTURES + LINES
    phrases += ["a in and with some area gradient lines edges low high contrast above below on at the left right"]
    phrases += ["brighter darker top bottom middle"]
    return tuple(sorted({word for phrase in phrases for word in phrase.replace(",", " ").split()}))


# Every word a caption can hold, sorted; besides these there is only the comma.
VOCABULARY = _vocabulary()
