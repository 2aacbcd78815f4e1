"""The whole method in PyTorch with diffusers' modules: enlarges one picture with a model folder.

A second implementation to compare the program with, and what the figures of the model card were
measured with. docs/method.md section 2, of the priors only GSP: zL from the Lanczos-enlarged picture, one noise field,
regions of the native size with raised-cosine feathering, fused noise, DDIM.
"""
import argparse
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import attributes


class Model:
    """A model folder in diffusers layout."""

    def __init__(self, folder, device="cpu"):
        folder = pathlib.Path(folder)
        load = lambda kind, part: kind.from_pretrained(folder / part, torch_dtype=torch.float32).to(device).eval()  # noqa: E731
        self.unet, self.vae = load(UNet2DConditionModel, "unet"), load(AutoencoderTiny, "vae")
        self.one, self.two = load(CLIPTextModel, "text_encoder"), load(CLIPTextModelWithProjection, "text_encoder_2")
        self.tokenizers = [CLIPTokenizer.from_pretrained(folder / n) for n in ("tokenizer", "tokenizer_2")]
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.factor = 2 ** (len(self.vae.config.encoder_block_out_channels) - 1)
        self.device = device

    def text(self, prompts):
        ids = [torch.tensor(t(prompts, padding="max_length", max_length=77, truncation=True).input_ids).to(self.device)
               for t in self.tokenizers]
        a = self.one(ids[0], output_hidden_states=True).hidden_states[-2]
        b = self.two(ids[1], output_hidden_states=True)
        return torch.cat([a, b.hidden_states[-2]], -1), b.text_embeds


def starts(length, region, overlap):
    """docs/method.md section 2: even starts of evenly spread regions."""
    if length <= region:
        return [0]
    n = -(-(length - overlap) // (region - overlap))
    return [round((length - region) * i / (n - 1) / 2) * 2 for i in range(n)]


@torch.no_grad()
def upscale(model, picture, size, seed=0, steps=4, run=1, overlap=16, captions=True, prompt="", batch=4, gsp=0.0):
    """`picture` (PIL) enlarged to `size` (width, height); a PIL image. Sides are padded to multiples of 2 f."""
    f, r = model.factor, model.unet.config.sample_size
    enlarged = picture.convert("RGB").resize(size, Image.LANCZOS)
    pixels = np.asarray(enlarged)
    unit = 2 * f
    h, w = (max(r * f, -(-n // unit) * unit) for n in pixels.shape[:2])
    pixels = np.pad(pixels, ((0, h - pixels.shape[0]), (0, w - pixels.shape[1]), (0, 0)), "symmetric")
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(127.5).sub(1).to(model.device)
    scale = model.vae.config.scaling_factor
    zl = model.vae.encode(x).latents * scale
    noise = torch.randn(zl.shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    scheduler = model.scheduler
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[-run:]
    z = scheduler.add_noise(zl, noise, timesteps[:1])
    places = [(y, x) for y in starts(zl.shape[2], r, overlap) for x in starts(zl.shape[3], r, overlap)]
    texts = [prompt] * len(places)
    if captions:
        said = [attributes.describe(np.ascontiguousarray(pixels[y * f:(y + r) * f, x * f:(x + r) * f])) for y, x in places]
        texts = [", ".join(p for p in (prompt, s) if p) for s in said]
    context, pooled = (torch.cat(t) for t in zip(*(model.text(texts[i:i + 16]) for i in range(0, len(texts), 16))))
    ramp = 0.5 - 0.5 * torch.cos((torch.arange(r) + 0.5) / r * 2 * torch.pi)
    weight = (ramp[:, None] * ramp[None, :]).clamp_min(1e-3)
    times = torch.tensor([[r * f, r * f, 0, 0, r * f, r * f]], dtype=torch.float32, device=model.device)
    for step, t in enumerate(timesteps):
        total, mass = torch.zeros_like(z), torch.zeros(z.shape[2:])
        for i in range(0, len(places), batch):
            part = places[i:i + batch]
            cut = torch.cat([torch.cat([s[:, :, y:y + r, x:x + r] for s in (z, zl)], 1) for y, x in part])
            eps = model.unet(cut, t, context[i:i + batch], added_cond_kwargs=dict(
                text_embeds=pooled[i:i + batch], time_ids=times.expand(len(part), 6))).sample
            for e, (y, x) in zip(eps, part):
                total[0, :, y:y + r, x:x + r] += e * weight
                mass[y:y + r, x:x + r] += weight
        eps = total / mass
        if gsp:
            # docs/method.md section 3: the 2 x 2 means of x0-hat go some way towards zL's, eps is held constant.
            a = scheduler.alphas_cumprod[t]
            ahead = (z - (1 - a).sqrt() * eps) / a.sqrt() - zl
            block = F.interpolate(F.avg_pool2d(ahead, 2), scale_factor=2, mode="nearest")
            z = z - a.sqrt() * gsp * 0.5 * (1 + math.cos(math.pi * step / len(timesteps))) * block
        z = scheduler.step(eps, t, z).prev_sample
    out = model.vae.decode(z / scale).sample.clamp(-1, 1)
    rgb = out.add(1).mul(127.5).round().byte()[0].permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(rgb[:size[1], :size[0]].copy())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "mini")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4, help="of the whole schedule")
    parser.add_argument("--denoise-steps", type=int, default=1)
    parser.add_argument("--gsp", type=float, default=0.2, help="weight of the structure prior")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--captioner", choices=["none", "attributes"], default="attributes")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    picture = Image.open(args.input)
    size = tuple(max(1, round(n * args.scale)) for n in picture.size)
    upscale(Model(args.model), picture, size, args.seed, steps=args.steps, run=args.denoise_steps, prompt=args.prompt, gsp=args.gsp,
            captions=args.captioner == "attributes").save(args.output)


if __name__ == "__main__":
    main()
