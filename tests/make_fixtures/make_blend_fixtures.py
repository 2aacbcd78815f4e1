"""Reference of blending and colour fixes, in f64: the blend mode "luminosity" of W3C's Compositing and Blending Level 1 as
its text has it, the wavelet and adain fixes as StableSR has them, and the lab fix of SeedVR2's upscaler for ComfyUI
(without the wavelet step before it), whose colours are scikit-image's. The wavelet's border is mirrored and not
repeated, so that the mean stays. Back-projection is one iteration of Irani and Peleg's with PyTorch's interpolation.
Coherence-enhancing filtering is written down by arrays of the whole picture.

    python tests/make_fixtures/make_blend_fixtures.py     # needs numpy, scipy, scikit-image, safetensors, torch
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from scipy.ndimage import convolve1d, correlate1d, gaussian_filter, map_coordinates
from skimage.color import lab2rgb, rgb2lab
from torch.nn.functional import avg_pool2d, interpolate

HEIGHT, WIDTH = 32, 40
SCALE = 4
OWN_LIGHTNESS = 0.8
LIGHT = np.array([0.3, 0.59, 0.11])
LEVEL = 2 / 255
ROUGHNESS = 1.2


def unit(picture):
    return np.clip(picture * 0.5 + 0.5, 0, 1)


def lum(colour):
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def clip_color(colour):
    light, lowest, highest = lum(colour), min(colour), max(colour)
    if lowest < 0.0:
        colour = [light + ((c - light) * light) / (light - lowest) for c in colour]
    if highest > 1.0:
        colour = [light + ((c - light) * (1 - light)) / (highest - light) for c in colour]
    return colour


def set_lum(colour, light):
    distance = light - lum(colour)
    return clip_color([c + distance for c in colour])


def luminosity(picture, source):
    picture, source = unit(picture), unit(source)
    out = np.empty_like(picture)
    for place in np.ndindex(picture.shape[:2]):
        out[place] = set_lum(list(source[place]), lum(picture[place]))
    return out * 2 - 1


def low_band(picture, levels=4):
    for level in range(levels):
        kernel = np.zeros(2 * 2**level + 1)
        kernel[0] = kernel[-1] = 0.25
        kernel[2**level] = 0.5
        for axis in (1, 0):
            picture = convolve1d(picture, kernel, axis=axis, mode="reflect")  # SciPy's name for d c b a | a b c d
    return picture


def wavelet(picture, source):
    return picture - low_band(picture) + low_band(source)


def adain(picture, source):
    def mean_std(values):
        flat = values.reshape(-1, 3)
        return flat.mean(axis=0), np.sqrt(flat.var(axis=0, ddof=1) + 1e-5)

    (mean, std), (wanted, spread) = mean_std(picture), mean_std(source)
    return (picture - mean) / std * spread + wanted


def matched(own, other):
    """Each value becomes the one of the same rank."""
    order = np.argsort(own.ravel(), kind="stable")
    out = np.empty(own.size)
    out[order] = np.sort(other.ravel())
    return out.reshape(own.shape)


def lab(picture, source):
    own, other = rgb2lab(unit(picture)), rgb2lab(unit(source))
    out = np.stack([matched(own[..., c], other[..., c]) for c in range(3)], axis=-1)
    out[..., 0] = OWN_LIGHTNESS * own[..., 0] + (1 - OWN_LIGHTNESS) * out[..., 0]
    return np.clip(lab2rgb(out), 0, 1) * 2 - 1


def back_projection(picture, small):
    picture, small = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (picture, small))
    lacking = small - avg_pool2d(picture, SCALE)
    out = picture + interpolate(lacking, scale_factor=SCALE, mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0).numpy()


def in_cells(source, cell):
    height, width, _ = source.shape
    return source.reshape(height // cell, cell, width // cell, cell, 3).mean(axis=(1, 3))


def structure_tensors(source, cell):
    """The structure tensors of the cells, across², across·down and down², [3, rows, columns]."""
    cells = in_cells(source, cell)
    smooth, difference = np.array([3, 10, 3]) / 16, np.array([-1, 0, 1]) / 2
    across, down = (correlate1d(correlate1d(cells, smooth, axis=1 - axis, mode="nearest"), difference, axis=axis, mode="nearest")
                    for axis in (1, 0))
    return np.stack([across * across, across * down, down * down]).sum(axis=-1)


def steps_beside(source, cell):
    """Half the sum of the squared differences to the four cells beside each, over the channels, [rows, columns]."""
    cells = np.pad(in_cells(source, cell), ((1, 1), (1, 1), (0, 0)), mode="edge")
    own = cells[1:-1, 1:-1]
    others = cells[:-2, 1:-1], cells[2:, 1:-1], cells[1:-1, :-2], cells[1:-1, 2:]
    return sum((other - own) ** 2 for other in others).sum(axis=-1) / 2


def smoothed(planes, weights):
    for axis in (1, 2):
        planes = correlate1d(planes, weights, axis=axis, mode="nearest")
    return planes


def at_pixels(plane, cell, height, width):
    y, x = np.mgrid[:height, :width].astype(float)
    return map_coordinates(plane, [(y + 0.5) / cell - 0.5, (x + 0.5) / cell - 0.5], order=1, mode="nearest")


def smoothstep(value, least, most):
    share = np.clip((value - least) / (most - least), 0, 1)
    return share ** 2 * (3 - 2 * share)


def texture(source, cell, amount):
    """Share of texture without lines at each pixel, and the deviation of its noise (docs/method.md), by literal eigenvalues."""
    def gaussian(sigma):
        steps = np.arange(-2 * sigma, 2 * sigma + 1)
        weights = np.exp(-0.5 * (steps / sigma) ** 2)
        return weights / weights.sum()

    height, width, _ = source.shape
    over = lambda plane, sigma: smoothed(plane[None], gaussian(sigma))[0]  # noqa: E731
    xx, xy, yy = structure_tensors(source, cell)
    energy = xx + yy
    wide, near, mean, steps = over(energy, 5), over(energy, 2), over(np.sqrt(energy), 5), over(steps_beside(source, cell), 5)
    xx, xy, yy = (over(plane, 5) for plane in (xx, xy, yy))
    values = np.linalg.eigvalsh(np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2))
    noise = 0.75 * LEVEL ** 2
    disordered = smoothstep(mean ** 2 / (wide + noise), 0.55, 0.7)
    disordered *= 1 - smoothstep((values[..., 1] - values[..., 0]) / (wide + noise), 0.25, 0.4)
    disordered *= 1 - smoothstep(np.sqrt(wide / 3), 15 * LEVEL, 30 * LEVEL)
    fine = smoothstep(steps / (wide + noise), 2.4, 2.8) * smoothstep(np.sqrt(wide / 3), 4 * LEVEL, 8 * LEVEL)
    share = disordered * smoothstep(over(disordered * fine, 8), 0.45, 0.7)
    share = amount * at_pixels(share, cell, height, width)
    return share, ROUGHNESS * share * at_pixels(np.sqrt(np.minimum(wide, near) / 3), cell, height, width)


def coherence(picture, source, cell, strength):
    """Coherence-enhancing filtering (Weickert 1999; Kyprianidis and Kang 2011), as docs/method.md has it: literal eigenvectors of
    the structure tensor, and SciPy's interpolation."""
    height, width, _ = source.shape
    planes = smoothed(structure_tensors(source, cell), np.array([1, 4, 6, 4, 1]) / 16)
    y, x = np.mgrid[:height, :width].astype(float)
    at = lambda image, y, x: map_coordinates(image, [y, x], order=1, mode="nearest")  # noqa: E731
    xx, xy, yy = (at_pixels(plane, cell, height, width) for plane in planes)
    values, vectors = np.linalg.eigh(np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2))
    line = vectors[..., 0]  # of the least eigenvalue: along the line
    share = strength * smoothstep((values[..., 1] - values[..., 0]) / (xx + yy + 0.75 * LEVEL ** 2), 0.3, 0.7)
    colours = lambda image, y, x: np.stack([at(image[..., c], y, x) for c in range(3)], axis=-1)  # noqa: E731

    total, weights = picture.copy(), 1.0
    for side in (1, -1):
        place, direction = np.stack([x, y], axis=-1), side * line
        for step in range(1, 6):
            place = place + cell / 2 * direction
            weight = np.exp(-0.5 * (step / 2.5) ** 2)
            total, weights = total + weight * colours(picture, place[..., 1], place[..., 0]), weights + weight
            nearest = np.floor(place + 0.5).astype(int)
            there = line[np.clip(nearest[..., 1], 0, height - 1), np.clip(nearest[..., 0], 0, width - 1)]
            direction = there * np.where((there * direction).sum(axis=-1, keepdims=True) < 0, -1, 1)
    picture = picture + share[..., None] * (total / weights - picture)

    steps = range(-cell, cell + 1)
    seen = np.stack([colours(picture, y + step * line[..., 0], x - step * line[..., 1]) for step in steps])
    weights = np.exp(-0.5 * (2 * np.array(steps) / cell) ** 2)
    light = (picture - np.tensordot(weights / weights.sum(), seen, 1)) @ LIGHT
    steeper = np.clip(picture + (0.4 * share * light)[..., None], seen.min(axis=0), seen.max(axis=0))
    return np.where(share[..., None] > 0, steeper, picture)


def main():
    random = np.random.default_rng(7)
    noise = lambda sigma: gaussian_filter(random.standard_normal((HEIGHT, WIDTH, 3)), (sigma, sigma, 0))
    base = noise(5)
    source = np.clip(base / np.abs(base).max() * 0.9 + 0.15 * noise(1), -1, 1)
    # Another tone, more contrast, fine detail; a few values beyond the range, as a decoder gives.
    picture = 1.15 * source + np.array([0.1, -0.05, 0.02]) + 0.12 * random.standard_normal(source.shape)
    tensors = {
        "picture": picture.astype(np.float32),
        "source": source.astype(np.float32),
        "small": source[2::SCALE, 1::SCALE].astype(np.float32),
    }
    picture, source, small = (tensors[name].astype(np.float64) for name in ("picture", "source", "small"))
    # Noise that becomes stronger to the right, and lines in the lower half: all, some and no texture, in cells of a pixel.
    grains = source + 0.3 * np.linspace(0, 1, WIDTH)[:, None] * random.standard_normal(source.shape)
    grains[HEIGHT // 2:] += 0.05 * np.sign(np.sin(2.1 * np.arange(WIDTH)))[:, None]
    grains = grains.astype(np.float32)
    share, deviation = texture(grains.astype(np.float64), 1, 9 / 23)
    tensors |= {
        "luminosity": luminosity(picture, source),
        "half": 0.5 * np.clip(picture, -1, 1) + 0.5 * source,
        "wavelet": wavelet(picture, source),
        "adain": adain(picture, source),
        "lab": lab(picture, source),
        "back_projection": back_projection(picture, small),
        "coherence": coherence(picture, source, 4, 0.8),
        "coherence_of_2": coherence(picture, source, 2, 0.8),
        "grains": grains,
        "texture_share": share,
        "texture_deviation": deviation,
    }
    folder = pathlib.Path(__file__).parents[1] / "fixtures" / "blend"
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, folder / "blend.safetensors")


if __name__ == "__main__":
    main()
