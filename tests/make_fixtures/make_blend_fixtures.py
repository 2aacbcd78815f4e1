"""Reference of blending and colour fixes, in f64: the blend mode "luminosity" of W3C's Compositing and Blending Level 1 as
its text has it, the wavelet and adain fixes as StableSR has them, and the lab fix of SeedVR2's upscaler for ComfyUI
(without the wavelet step before it), whose colours are scikit-image's. The wavelet's border is mirrored and not
repeated, so that the mean stays. Back-projection is one iteration of Irani and Peleg's with PyTorch's interpolation.

    python tests/make_fixtures/make_blend_fixtures.py     # needs numpy, scipy, scikit-image, safetensors, torch
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from scipy.ndimage import convolve1d, gaussian_filter
from skimage.color import lab2rgb, rgb2lab
from torch.nn.functional import avg_pool2d, interpolate

HEIGHT, WIDTH = 32, 40
SCALE = 4
OWN_LIGHTNESS = 0.8


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
    tensors |= {
        "luminosity": luminosity(picture, source),
        "half": 0.5 * np.clip(picture, -1, 1) + 0.5 * source,
        "wavelet": wavelet(picture, source),
        "adain": adain(picture, source),
        "lab": lab(picture, source),
        "back_projection": back_projection(picture, small),
    }
    folder = pathlib.Path(__file__).parents[1] / "fixtures" / "blend"
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, folder / "blend.safetensors")


if __name__ == "__main__":
    main()
