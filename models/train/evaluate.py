"""Measures enlarged pictures against their ground truths, whatever programs made them; prints tables in Markdown.

    evaluate.py HELDOUT ours=FOLDER real-esrgan=FOLDER [--drawings] [--each] [--sheet sheet.png]

HELDOUT is what heldout.py or drawings.py wrote, a FOLDER holds NAME.png for each of its pictures; Lanczos is measured beside. Per picture:
`swd 1`, `swd 2`  sliced Wasserstein distance of 7 x 7 patches of the finest and the second Laplacian level to the truth's, 128
                  directions and up to 65536 patches, fixed seed (lower is more like the photograph);
`faithful`        PSNR in dB of the output reduced again by area against the input;
`features`        distance to the truth in the first layers of an ImageNet network (features.py);
`niqe`            naturalness without the truth (niqe.py; lower is better);
`grid`            how much the mean step between neighbouring columns or rows at multiples of 4, 8, 64, 128 px exceeds
                  that of their neighbours, in percent, largest of them: the lattice of a latent and seams between regions;
`elsewhere`       the largest such excess at other columns or rows of the same period: if it is as large, edges of the
                  picture are what is seen;
`psnr`            in dB against the truth, for the record: a sharper guess may well score below a blur;
`energy`          RMS of the finest Laplacian level over the truth's (1 = as sharp as the truth).
With --drawings also, in levels of 255:
`flat`            RMS error where the truth is one colour for 8 px around;
`colour`          RMS of the colour (distance of the channels from their mean) where the truth is grey for 8 px around.
"""
import argparse
import pathlib

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import minimum_filter

import features as features_module
from niqe import niqe


def rgb_of(image):
    """RGB float [H, W, 3]."""
    return np.asarray(image.convert("RGB"), np.float32)


def reduce_area(image, scale):
    return image.resize((max(1, round(image.width / scale)), max(1, round(image.height / scale))), Image.BOX)


def laplacian(rgb):
    """The finest Laplacian level (the picture less its 2 x 2 means enlarged bilinearly), and those means."""
    h, w = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    rgb = rgb[:h, :w]
    small = rgb.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))
    planes = [np.asarray(Image.fromarray(small[..., c]).resize((w, h), Image.BILINEAR)) for c in range(3)]
    return rgb - np.stack(planes, -1), small


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
    """Largest excess, in percent, of the steps across multiples of 4, 8, 64, 128 px; and the largest at another phase of the
    same period, where there is no grid: what the picture's own edges are good for."""
    worst, elsewhere = 0.0, 0.0
    for axis in (0, 1):
        step = np.abs(np.diff(rgb, axis=axis)).mean(axis=(1 - axis, 2))
        place = np.arange(1, len(step) + 1)

        def excess(period, phase):
            on = place % period == phase
            if on.sum() < 3:
                return 0.0
            # Against the neighbours one and two steps away, so that the picture's own trend cancels.
            near = np.zeros_like(on)
            for k in (-2, -1, 1, 2):
                near |= np.roll(on, k)
            return float(step[on].mean() / max(1e-6, step[near & ~on].mean()) - 1) * 100

        for period in (4, 8, 64, 128):
            own = excess(period, 0)
            if own > worst:
                worst, elsewhere = own, max(excess(period, phase) for phase in range(1, period))
    return worst, elsewhere


def beside_soft(soft, made, truth):
    """While training: the strength of the two finest Laplacian levels of `made` as a share of the truth's, and its sliced
    Wasserstein distances as shares of those of `soft`, the enlarged picture; all three are uint8 [H, W, 3]."""
    levels = []
    for picture in (soft, made, truth):
        finest, means = laplacian(picture.astype(np.float32))
        levels.append((finest, laplacian(means)[0]))
    soft, made, truth = levels
    energy = [a.std() / b.std() for a, b in zip(made, truth)]
    ratios = [sliced_wasserstein(a, c) / sliced_wasserstein(b, c) for a, b, c in zip(made, soft, truth)]
    return f"energy {energy[0]:.2f} {energy[1]:.2f}, patches {ratios[0]:.2f} {ratios[1]:.2f}"


def plain(there, reach=8):
    """Where a condition [H, W] holds for `reach` pixels around."""
    return minimum_filter(there, 2 * reach + 1)


class Meter:
    def __init__(self, drawings):
        self.features, self.drawings = features_module.Features(), drawings

    def tensor(self, image):
        return torch.from_numpy(rgb_of(image).copy()).permute(2, 0, 1)[None].div(127.5).sub(1)

    def measure(self, truth, low, output):
        """All figures of one output, as a dictionary."""
        if output.size != truth.size:
            raise SystemExit(f"sizes differ: truth {truth.size}, output {output.size}")
        t, o = rgb_of(truth), rgb_of(output)
        rms = lambda a: float(np.sqrt(np.mean(a ** 2)))  # noqa: E731
        (t1, t2), (o1, o2) = laplacian(t), laplacian(o)
        with torch.inference_mode():
            far = float(features_module.distance(self.features, self.tensor(output), self.tensor(truth)))
        grid, elsewhere = grid_index(o)
        return {
            "swd 1": sliced_wasserstein(o1, t1), "swd 2": sliced_wasserstein(laplacian(o2)[0], laplacian(t2)[0]),
            "faithful": psnr(rgb_of(reduce_area(output, truth.width / low.width)), rgb_of(low)),
            "features": far, "niqe": niqe(output), "grid": grid, "elsewhere": elsewhere, "psnr": psnr(o, t),
            "energy": rms(o1) / rms(t1),
            **(self.plain_places(t, o) if self.drawings else {})}

    def plain_places(self, truth, output):
        """Errors in flat areas, and colour where there was none."""
        steps = [np.abs(np.diff(truth, axis=axis, append=truth.take([-1], axis))).max(-1) for axis in (0, 1)]
        flat, grey = plain(np.maximum(*steps) == 0), plain(np.ptp(truth, axis=-1) == 0)
        rms = lambda a: float(np.sqrt(np.mean(a ** 2))) if a.size else float("nan")  # noqa: E731
        return {"flat": rms((output - truth)[flat]), "colour": rms((output - output.mean(-1, keepdims=True))[grey])}


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(v if isinstance(v, str) else f"{v:.2f}" for v in row) + " |")
    print()


def sheet(path, pictures, side=192):
    """One row per photograph: the middle of each version at 1:1."""
    rows = []
    for versions in pictures.values():
        cuts = []
        for image in versions.values():
            x, y = (image.width - side) // 2, (image.height - side) // 2
            cuts.append(rgb_of(image.crop((x, y, x + side, y + side))))
        rows.append(np.concatenate(cuts, 1))
    Image.fromarray(np.concatenate(rows, 0).astype(np.uint8)).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=pathlib.Path)
    parser.add_argument("outputs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--drawings", action="store_true", help="of drawings: flat areas, and colour where there was none")
    parser.add_argument("--each", action="store_true", help="a table of every picture too")
    parser.add_argument("--sheet", type=pathlib.Path, help="a contact sheet of all versions, cuts at 1:1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders, meter = dict(o.split("=", 1) for o in args.outputs), Meter(args.drawings)
    names = sorted(p.stem.removesuffix("_low") for p in args.heldout.glob("*_low.png"))
    figures, pictures = {}, {}
    for name in names:
        truth = Image.open(args.heldout / f"{name}.png").convert("RGB")
        low = Image.open(args.heldout / f"{name}_low.png").convert("RGB")
        versions = {"Lanczos": low.resize(truth.size, Image.LANCZOS)}
        versions |= {k: Image.open(pathlib.Path(f) / f"{name}.png").convert("RGB") for k, f in folders.items()}
        versions["truth"] = truth
        pictures[name] = versions
        figures[name] = {k: meter.measure(truth, low, v) for k, v in versions.items()}
    keys = list(next(iter(figures.values()))["truth"])
    table(["means of %d" % len(names), *keys, "swd 1 / Lanczos", "swd 2 / Lanczos", "least faithful"], [
        [kind, *means, means[0] / base[0], means[1] / base[1], min(f[kind]["faithful"] for f in figures.values())]
        for base in [[np.nanmean([f["Lanczos"][k] for f in figures.values()]) for k in keys]]
        for kind in next(iter(pictures.values()))
        for means in [[np.nanmean([f[kind][k] for f in figures.values()]) for k in keys]]])
    if args.each:
        for kind in folders:
            table([kind, *keys, "swd 1 / Lanczos", "swd 2 / Lanczos", "grid of the truth"], [
                [name, *f[kind].values(), f[kind]["swd 1"] / f["Lanczos"]["swd 1"],
                 f[kind]["swd 2"] / f["Lanczos"]["swd 2"], f["truth"]["grid"]] for name, f in figures.items()])
    if args.sheet:
        sheet(args.sheet, pictures)


if __name__ == "__main__":
    main()
