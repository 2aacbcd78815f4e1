"""Measures an enlarged picture against its ground truth, whatever program made it.

    evaluate.py TRUTH.png OUTPUT.png [OUTPUT.png ...] [--scale 4]

The low-resolution input is TRUTH reduced by area; Lanczos of that input is measured beside. Per output:
`faithful`  PSNR in dB of the output reduced again against the input (bar: at least 32);
`swd`       sliced Wasserstein distance of 7 x 7 patches of the finest Laplacian level to the truth's, divided by
            that of Lanczos (bar: at most 0.95), 128 directions and up to 65536 patches, fixed seed;
`psnr`      in dB against the truth, for the record: a sharper guess may well score below a blur;
`energy`    RMS of the finest Laplacian level over the truth's (1 = as sharp as the truth);
`grid`      how much the mean step between neighbouring columns or rows at multiples of 4, 8, 64, 128 px exceeds
            that at all others, in percent (largest of them; the truth's own figure beside it).
"""
import argparse
import json
import pathlib

import numpy as np
from PIL import Image


def rgb_of(image):
    """RGB float [H, W, 3]."""
    return np.asarray(image.convert("RGB"), np.float32)


def reduce_area(image, scale):
    return image.resize((max(1, round(image.width / scale)), max(1, round(image.height / scale))), Image.BOX)


def finest(rgb):
    """Finest Laplacian level: the picture less its 2 x 2 mean enlarged bilinearly."""
    h, w = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    rgb = rgb[:h, :w]
    small = rgb.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))
    planes = [np.asarray(Image.fromarray(small[..., c]).resize((w, h), Image.BILINEAR)) for c in range(3)]
    return rgb - np.stack(planes, -1)


def patches(level, rng, count=65536):
    """Random 7 x 7 x 3 patches as rows."""
    h, w = level.shape[0] - 6, level.shape[1] - 6
    pick = rng.permutation(h * w)[:count]
    y, x = pick // w, pick % w
    view = np.lib.stride_tricks.sliding_window_view(level, (7, 7), (0, 1))
    return view[y, x].reshape(len(pick), -1)


def sliced_wasserstein(a, b, directions=128, seed=0):
    """Mean over random directions of the 1-D Wasserstein-1 distance of patch projections."""
    rng = np.random.default_rng(seed)
    pa, pb = patches(a, np.random.default_rng(seed + 1)), patches(b, np.random.default_rng(seed + 1))
    d = rng.standard_normal((pa.shape[1], directions)).astype(np.float32)
    d /= np.linalg.norm(d, axis=0)
    return float(np.abs(np.sort(pa @ d, 0) - np.sort(pb @ d, 0)).mean())


def psnr(a, b):
    return float(10 * np.log10(255 ** 2 / max(1e-9, np.mean((a - b) ** 2))))


def grid_index(rgb):
    """Largest excess, in percent, of the steps across multiples of 4, 8, 64, 128 px."""
    worst = 0.0
    for axis in (0, 1):
        step = np.abs(np.diff(rgb, axis=axis)).mean(axis=(1 - axis, 2))
        place = np.arange(1, len(step) + 1)
        for period in (4, 8, 64, 128):
            on = place % period == 0
            if on.sum() >= 3:
                # Against the neighbours one and two steps away, so that the picture's own trend cancels.
                near = np.zeros_like(on)
                for k in (-2, -1, 1, 2):
                    near |= np.roll(on, k)
                worst = max(worst, float(step[on].mean() / max(1e-6, step[near & ~on].mean()) - 1) * 100)
    return worst


def measure(truth, output, scale):
    """All figures of one output, as a dictionary."""
    if output.size != truth.size:
        raise SystemExit(f"sizes differ: truth {truth.size}, output {output.size}")
    low = reduce_area(truth, scale)
    lanczos = rgb_of(low.resize(truth.size, Image.LANCZOS))
    t, o = rgb_of(truth), rgb_of(output)
    ft, fo, fl = finest(t), finest(o), finest(lanczos)
    rms = lambda a: float(np.sqrt(np.mean(a ** 2)))  # noqa: E731
    base = sliced_wasserstein(fl, ft)
    return dict(faithful=psnr(rgb_of(reduce_area(output, scale)), rgb_of(low)),
                swd=sliced_wasserstein(fo, ft) / base, psnr=psnr(o, t), psnr_lanczos=psnr(lanczos, t),
                energy=rms(fo) / rms(ft), energy_lanczos=rms(fl) / rms(ft),
                grid=grid_index(o), grid_truth=grid_index(t))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=pathlib.Path)
    parser.add_argument("outputs", type=pathlib.Path, nargs="+")
    parser.add_argument("--scale", type=float, default=4)
    args = parser.parse_args()
    truth = Image.open(args.truth).convert("RGB")
    for path in args.outputs:
        figures = measure(truth, Image.open(path).convert("RGB"), args.scale)
        print(json.dumps({"output": path.name, **{k: round(v, 3) for k, v in figures.items()}}))


if __name__ == "__main__":
    main()
