"""Makes tests/fixtures/vae_trained: a small AutoencoderKL that has learned to show pictures.

    python tests/make_fixtures/make_trained_vae_fixture.py        # some ten minutes on two cores

Whether tiles differ from the whole depends on what a model's norms do, and with random weights they do
anything. This one has the shape of SDXL's (four levels, factor 8, an attention in the middle) with few
channels, and learns to encode and decode crops of samples/*.jpg and plain gradients, so that its norms
behave as those of a real one. Weights are stored in f16.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "tests/fixtures/vae_trained"
STEPS, BATCH, SIDE = 4000, 8, 96


def pictures():
    for path in sorted((ROOT / "samples").glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        for side in (1.0, 0.6):
            small = image.resize((round(image.width * side), round(image.height * side)), Image.LANCZOS)
            yield torch.from_numpy(np.asarray(small, np.float32) / 127.5 - 1).permute(2, 0, 1)


def crop(sources, generator):
    """A crop of a picture, or (one in six) of a plain gradient."""
    draw = lambda end: int(torch.randint(end, (1,), generator=generator))
    if draw(6) == 0:
        corners = torch.rand((3, 2, 2), generator=generator) * 2 - 1
        return torch.nn.functional.interpolate(corners[None], (SIDE, SIDE), mode="bilinear", align_corners=True)[0]
    source = sources[draw(len(sources))]
    top, left = draw(source.shape[1] - SIDE), draw(source.shape[2] - SIDE)
    return source[:, top : top + SIDE, left : left + SIDE]


def main():
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(5)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 24, 24),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    ).train()
    sources = list(pictures())
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        batch = torch.stack([crop(sources, generator) for _ in range(BATCH)])
        posterior = vae.encode(batch).latent_dist
        output = vae.decode(posterior.mode()).sample
        loss = (output - batch).abs().mean() + 1e-3 * posterior.mean.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(step, f"{loss.item():.4f}", flush=True)
    with torch.no_grad():
        latents = torch.stack([crop(sources, generator) for _ in range(64)])
        deviation = vae.encode(latents).latent_dist.mean.std().item()
    FOLDER.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "AutoencoderKL", **vae.config, "scaling_factor": round(1 / deviation, 4)}
    config.pop("_use_default_values", None)
    (FOLDER / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: tensor.half() for name, tensor in vae.state_dict().items()}, FOLDER / "diffusion_pytorch_model.safetensors")


if __name__ == "__main__":
    main()
