"""Turns training photographs into the pairs of latents, and the captions, that the UNet learns from.

Each sample is one native region (256 x 256 px): the sharp crop, and the same crop area-reduced by 2 to 4,
half the time JPEG-compressed (quality 70 to 100), and enlarged again by Lanczos. Both are encoded with
a margin that is then cut off, so that no latent has seen a picture border. The caption describes the enlarged
crop, because that is what is seen in use. Shards appear one by one; training may start with the first.
"""
import argparse
import io
import pathlib
import time

import numpy as np
import torch
from PIL import Image

import attributes
import vae as vae_module
from common import Crops, bf16, load_photos, save_checkpoint

SIDE, MARGIN, CONTEXT = 256, 16, 32


def degrade(image, rng, scale=None):
    """A PIL image reduced, perhaps JPEG-compressed, and enlarged to its old size; and the scale."""
    if scale is None:
        scale = rng.choice([4, 4, 4, 3, 2, 0])
        scale = scale or rng.uniform(2, 4)
    side = round(image.width / scale)
    small = image.resize((side, side), Image.BOX)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=int(rng.integers(70, 101)), subsampling=int(rng.choice([0, 2])))
        small = Image.open(buffer).convert("RGB")
    return small.resize(image.size, Image.LANCZOS), image.width / side


def recolour(crop, rng):
    """Swapped colour channels, and another saturation and contrast: thirty photographs hold few colours."""
    x = crop[rng.permutation(3)].float()
    grey = x.mean(0, keepdim=True)
    x = grey + (x - grey) * rng.uniform(0.6, 2.0)
    middle = x.mean()
    x = middle + (x - middle) * rng.uniform(0.8, 1.3) + rng.uniform(-20, 20)
    return x.clamp(0, 255).round().to(torch.uint8)


def captions_of(pixels):
    """Captions of the whole 256 px region, then of its 9 overlapping 128 px windows (row by row)."""
    out = [attributes.describe(pixels)]
    for y in (0, 64, 128):
        for x in (0, 64, 128):
            out.append(attributes.describe(np.ascontiguousarray(pixels[y:y + 128, x:x + 128])))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--size", type=int, default=60)
    parser.add_argument("--plain", type=int, default=22, help="shards from this one on are recoloured at random")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = args.device
    vae = vae_module.build().to(device)
    vae.load_state_dict(torch.load(args.work / "vae_joint.pt", map_location=device, weights_only=False)["ema"])
    encoder = vae.encoder.eval().requires_grad_(False)
    photos = load_photos(args.work, "train", (2,))
    cut = MARGIN // 4
    for shard in range(args.shards):
        path = args.work / "latents" / f"{shard:03}.pt"
        if path.exists():
            continue
        crops = Crops(photos, args.seed + shard)
        rng = crops.rng
        wide = SIDE + 2 * (MARGIN + CONTEXT)
        sharp, low, words, scales = [], [], [], []
        for _ in range(args.size):
            crop = crops.one(wide)
            if rng.random() < 0.5:
                crop = crop.flip(2)
            if rng.random() < 0.5:
                crop = crop.transpose(1, 2)
            if shard >= args.plain:
                crop = recolour(crop, rng)
            high = Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy())
            soft, scale = degrade(high, rng)
            soft = np.asarray(soft)
            pair = np.stack([np.asarray(high), soft])[:, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
            x = torch.from_numpy(pair.copy()).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            x = x.to(device, memory_format=torch.channels_last)
            with torch.no_grad(), bf16(device):
                z = encoder(x).float()[:, :, cut:-cut, cut:-cut].half().cpu()
            sharp.append(z[0])
            low.append(z[1])
            scales.append(scale)
            inner = CONTEXT + MARGIN
            words.append(captions_of(np.ascontiguousarray(soft[inner:-inner, inner:-inner])))
        save_checkpoint(path, x0=torch.stack(sharp), zl=torch.stack(low), captions=words, scales=scales)
        print(f"{time.strftime('%H:%M:%S')} shard {shard}: {len(sharp)} regions, std {torch.stack(sharp).float().std():.3f}",
              flush=True)


if __name__ == "__main__":
    main()
