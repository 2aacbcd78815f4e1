"""Runs the trained UNet's whole chain on training photographs: pairs of its output latents and the true pixels.

The decoder's last training (vae.py --phase decoder --pairs) learns from them what the UNet's errors look like, which
no artificial noise tells it. Each pair is one native region of 256 x 256 px.
"""
import argparse
import pathlib
import time

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTokenizer

import attributes
import build
import unet as unet_module
import vae as vae_module
from common import Crops, bf16, load_photos, save_checkpoint
from latents import CONTEXT, MARGIN, SIDE, degrade, recolour


@torch.no_grad()
def chain(net, zl, ids, alphas):
    """The four DDIM steps of inference from scaled zL; returns the scaled clean latent."""
    a = alphas[unet_module.CHAIN[0]]
    z = a.sqrt() * zl + (1 - a).sqrt() * torch.randn_like(zl)
    for i, t in enumerate(unet_module.CHAIN):
        a = alphas[t]
        eps = net(z, zl, torch.full((len(z),), t, device=z.device), ids, 4 * zl.shape[-1])
        guess = (z - (1 - a).sqrt() * eps) / a.sqrt()
        before = alphas[unet_module.CHAIN[i + 1]] if i + 1 < len(unet_module.CHAIN) else torch.ones(())
        z = before.sqrt() * guess + (1 - before).sqrt() * eps
    return z


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--seed", type=int, default=70)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = args.device
    tokenizers = [CLIPTokenizer.from_pretrained(args.tokenizers / n) for n in ("tokenizer", "tokenizer_2")]
    encoder = vae_module.build().to(device)
    encoder.load_state_dict(torch.load(args.work / "vae_joint.pt", map_location=device, weights_only=False)["ema"])
    encoder = encoder.encoder.eval().requires_grad_(False)
    net = unet_module.Net(len(tokenizers[0])).to(device).eval()
    photos = load_photos(args.work, "train", (2,))
    alphas = build.scheduler().alphas_cumprod.to(device)
    cut = MARGIN // 4
    for shard in range(args.first, args.first + args.shards):
        state = torch.load(args.work / "unet.pt", map_location=device, weights_only=False)
        net.load_state_dict(state["ema_all"])
        scale = state["scaling_factor"]
        torch.manual_seed(args.seed + shard)
        crops = Crops(photos, args.seed + shard)
        z_out, truth = [], []
        for index in range(args.size):
            crop = crops.one(SIDE + 2 * (MARGIN + CONTEXT))
            if index % 3 == 0:
                crop = recolour(crop, crops.rng)
            high = Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy())
            soft = np.asarray(degrade(high, crops.rng)[0])[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
            caption = attributes.describe(np.ascontiguousarray(soft[MARGIN:-MARGIN, MARGIN:-MARGIN]))
            ids = tuple(unet_module.Data._encode(t, [caption]).to(device) for t in tokenizers)
            x = torch.from_numpy(soft.copy()).permute(2, 0, 1)[None].float().div(127.5).sub(1)
            x = x.to(device, memory_format=torch.channels_last)
            with torch.no_grad(), bf16(device):
                zl = encoder(x).float()[:, :, cut:-cut, cut:-cut] * scale
                z = chain(net, zl, ids, alphas)
            inner = CONTEXT + MARGIN
            z_out.append((z[0] / scale).half().cpu())
            truth.append(crop[:, inner:-inner, inner:-inner].contiguous())
        save_checkpoint(args.work / "pairs" / f"{shard:03}.pt", z=torch.stack(z_out), truth=torch.stack(truth))
        print(f"{time.strftime('%H:%M:%S')} shard {shard} from UNet step {state['step']}", flush=True)


if __name__ == "__main__":
    main()
