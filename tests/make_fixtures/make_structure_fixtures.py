"""Fixtures for `priors::structure`: equations 4 and 5 of C-Upscale by autograd, with an explicit Haar transform.

    python tests/make_fixtures/make_structure_fixtures.py

Writes tests/fixtures/structure/gsp.safetensors and gsp.json, and the same of flow matching in flow.safetensors and
flow.json. Deterministic. Made with torch 2.15.0.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "structure"


def haar(x):
    """One orthonormal level of the 2-D Haar transform of `[H, W, C]`: (LL, LH, HL, HH), each `[H/2, W/2, C]`."""
    a, b = x[0::2, 0::2], x[0::2, 1::2]
    c, d = x[1::2, 0::2], x[1::2, 1::2]
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2


def inverse_haar(ll, lh, hl, hh):
    x = torch.empty(2 * ll.shape[0], 2 * ll.shape[1], ll.shape[2], dtype=ll.dtype)
    x[0::2, 0::2] = (ll + lh + hl + hh) / 2
    x[0::2, 1::2] = (ll - lh + hl - hh) / 2
    x[1::2, 0::2] = (ll + lh - hl - hh) / 2
    x[1::2, 1::2] = (ll - lh - hl + hh) / 2
    return x


def low_band(x, levels):
    for _ in range(levels):
        x = haar(x)[0]
    return x


def gradient_step(z, eps, zl, signal, spread, eta, levels):
    """z_t <- z_t - eta * grad_z |LL(x0_hat) - LL(zL)|^2, with eps held constant."""
    z = z.clone().requires_grad_(True)
    x0_hat = (z - spread * eps) / signal
    loss = ((low_band(x0_hat, levels) - low_band(zl, levels)) ** 2).sum()
    (grad,) = torch.autograd.grad(loss, z)
    return (z - eta * grad).detach()


def main():
    FIXTURES.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(16976)
    sample = torch.randn(8, 6, 3, generator=generator, dtype=torch.float64)
    bands = haar(sample)
    assert torch.allclose(inverse_haar(*bands), sample), "the transform is not invertible"
    energy = sum((band**2).sum() for band in bands)
    assert torch.isclose(energy, (sample**2).sum()), "the transform is not orthonormal"

    # abar of SDXL at t = 499, 374, 124 and 999; eta is the paper's step size, 0.2 among others.
    cases = {
        "t499": (16, 12, 4, 0.27767, 0.05, 1),
        "t374": (6, 10, 16, 0.46671, 0.2, 1),
        "t124_paper_eta": (12, 8, 4, 0.86341, 0.2, 1),
        "t999": (8, 8, 3, 0.00466, 0.002, 1),
        "two_levels": (16, 8, 4, 0.27767, 0.1, 2),
    }
    write("gsp", "abar", cases, lambda abar: (abar**0.5, (1 - abar) ** 0.5), generator)
    # sigma of flow matching, whose levels are on a straight line: 0.707 is where Stable Diffusion 3 begins at a strength of
    # 0.45, and at 0.95 hardly anything of the picture is left.
    cases = {
        "s707": (16, 12, 16, 0.7071, 0.02, 1),
        "s250_paper_eta": (6, 10, 4, 0.25, 0.2, 1),
        "s950": (8, 8, 3, 0.95, 0.001, 1),
        "two_levels": (16, 8, 4, 0.5, 0.1, 2),
    }
    write("flow", "sigma", cases, lambda sigma: (1 - sigma, sigma), generator)


def write(file, what, cases, level, generator):
    """Writes cases of (height, width, channels, `what`, eta, Haar levels); `level` makes signal and spread of it."""
    tensors, about = {}, {}
    for name, (height, width, channels, at, eta, levels) in cases.items():
        z, eps, zl = (torch.randn(height, width, channels, generator=generator) for _ in range(3))
        # f64 through autograd, so that the fixture's own rounding does not eat the tolerance.
        after = gradient_step(z.double(), eps.double(), zl.double(), *level(at), eta, levels).float()
        for key, value in dict(z=z, eps=eps, zl=zl, after=after).items():
            tensors[f"{name}.{key}"] = value.contiguous()
        about[name] = dict(height=height, width=width, channels=channels, **{what: at}, eta=eta, levels=levels)
    save_file(tensors, FIXTURES / f"{file}.safetensors")
    (FIXTURES / f"{file}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
