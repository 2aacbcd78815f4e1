"""Fixtures for `sampler` and `canvas::noise`, from diffusers and from a second implementation of Philox.

    python tests/parity/make_sampler_fixtures.py

Writes tests/fixtures/sampler/{timesteps.json,abar.safetensors,trajectories.safetensors,trajectories.json}
and tests/fixtures/noise/field.safetensors. Deterministic. Made with diffusers 0.42.1, torch 2.15.0, numpy 2.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file

torch.set_num_threads(1)
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SDXL = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    timestep_spacing="trailing",
    prediction_type="epsilon",
)


def config_json(scheduler):
    """The scheduler_config.json that diffusers would write."""
    return json.loads(scheduler.to_json_string())


def timesteps():
    tables = {}
    for spacing in ("leading", "trailing", "linspace"):
        tables[spacing] = {}
        for n in range(1, 51):
            scheduler = DDIMScheduler(**{**SDXL, "timestep_spacing": spacing})
            scheduler.set_timesteps(n)
            # numpy.arange may give one value too many for some n; none of these.
            assert len(scheduler.timesteps) == n, (spacing, n)
            tables[spacing][str(n)] = scheduler.timesteps.tolist()
    (FIXTURES / "sampler/timesteps.json").write_text(json.dumps(tables, separators=(",", ":")) + "\n")


def abar():
    variants = {
        "sdxl": SDXL,
        "ddim_defaults": dict(clip_sample=False),
        "zero_snr": {**SDXL, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        "short": {**SDXL, "num_train_timesteps": 101, "beta_schedule": "linear"},
    }
    save_file(
        {name: DDIMScheduler(**settings).alphas_cumprod.contiguous() for name, settings in variants.items()},
        FIXTURES / "sampler/abar.safetensors",
    )


def trajectories():
    """The last `run` of `n` steps with given model outputs and noise; all tensors `[..., H, W, C]`."""
    cases = {
        "eta0": (SDXL, 8, 4, 0.0),
        "eta05": (SDXL, 8, 4, 0.5),
        "eta1_all_steps": (SDXL, 4, 4, 1.0),
        "v": ({**SDXL, "prediction_type": "v_prediction"}, 8, 4, 0.0),
        "v_zero_snr": ({**SDXL, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, 8, 4, 0.5),
        "sample": ({**SDXL, "prediction_type": "sample"}, 8, 4, 0.0),
        "leading7": ({**SDXL, "timestep_spacing": "leading"}, 7, 4, 0.5),
        "linspace9_to_one": ({**SDXL, "timestep_spacing": "linspace", "set_alpha_to_one": True}, 9, 4, 0.5),
        "trailing7": (SDXL, 7, 4, 0.0),
    }
    tensors, about = {}, {}
    for number, (name, (settings, n, run, eta)) in enumerate(cases.items()):
        generator = torch.Generator().manual_seed(number)
        shape = (6, 5, 4)
        scheduler = DDIMScheduler(**settings)
        scheduler.set_timesteps(n)
        ts = scheduler.timesteps[n - run :]
        zl = torch.randn(shape, generator=generator)
        noise0 = torch.randn(shape, generator=generator)
        outputs = torch.randn((run, *shape), generator=generator)
        noises = torch.randn((run, *shape), generator=generator)
        z = scheduler.add_noise(zl, noise0, ts[:1])
        zs, x0s = [z], []
        for i, t in enumerate(ts):
            step = scheduler.step(outputs[i], t, z, eta=eta, variance_noise=noises[i] if eta > 0 else None)
            z = step.prev_sample
            zs.append(z)
            x0s.append(step.pred_original_sample)
        assert all(torch.isfinite(z).all() for z in zs)
        parts = dict(zl=zl, noise0=noise0, outputs=outputs, noises=noises, z=torch.stack(zs), x0=torch.stack(x0s))
        tensors.update({f"{name}.{key}": value.contiguous() for key, value in parts.items()})
        about[name] = dict(config=config_json(scheduler), n=n, run=run, eta=eta, timesteps=ts.tolist())
    save_file(tensors, FIXTURES / "sampler/trajectories.safetensors")
    (FIXTURES / "sampler/trajectories.json").write_text(json.dumps(about, indent=1) + "\n")


def philox4x32_10(counter, key):
    """Philox4x32-10 in Python integers, after Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"."""
    mask = 0xFFFFFFFF
    c, k = list(counter), list(key)
    for round_number in range(10):
        if round_number:
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        hi0, lo0 = divmod(0xD2511F53 * c[0], 1 << 32)
        hi1, lo1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0]
    return c


def normal(seed, draw, c, y, x):
    words = philox4x32_10((draw, c, y, x), (seed & 0xFFFFFFFF, seed >> 32))
    u1, u2 = ((word + 0.5) / 2**32 for word in words[:2])
    return math.sqrt(-2.0 * math.log(u1)) * math.cos(2.0 * math.pi * u2)


def noise():
    assert philox4x32_10((0,) * 4, (0,) * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    windows = {"seed0": (0, 0, 0, 0), "seed_large": (0xFEDCBA9876543210, 3, 1000, 70000)}
    tensors = {}
    for name, (seed, draw, y0, x0) in windows.items():
        values = [[[normal(seed, draw, c, y0 + y, x0 + x) for c in range(4)] for x in range(16)] for y in range(16)]
        tensors[name] = torch.from_numpy(np.array(values, dtype=np.float64).astype(np.float32))
    save_file(tensors, FIXTURES / "noise/field.safetensors")


if __name__ == "__main__":
    for folder in ("sampler", "noise"):
        (FIXTURES / folder).mkdir(parents=True, exist_ok=True)
    timesteps()
    abar()
    trajectories()
    noise()
