"""Makes the samples that `sharpen.py` learns from: sharp crops, what is left of them in a small picture, and a teacher's guess.

Each sample is 288 x 288 px (a region of 256 px and a margin of 16, so that no latent sees a border of the crop): the sharp
crop; the same after reduction by 2 to 4 (several kernels, some blurred, noisy or JPEG-compressed) and enlargement by Lanczos, which is
what the program encodes; the small picture itself; and Real-ESRGAN's enlargement of it. One in ten is a drawing made here (flat
areas, lines, letters), whose target is itself. Shards appear one by one; training may start with the first.
"""
import argparse
import io
import pathlib
import time

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import teacher as teacher_module
from common import Crops, bf16, load_photos, save_checkpoint

SIDE = 288


def drawing(rng):
    """A picture of flat areas, lines and letters, drawn at twice its size and reduced, so that edges are as a camera's or a printer's."""
    wide = 2 * SIDE
    colour = lambda: tuple(int(v) for v in rng.integers(0, 256, 3))  # noqa: E731
    paper = rng.random() < 0.5
    image = Image.new("RGB", (wide, wide), (255, 255, 255) if paper else colour())
    draw = ImageDraw.Draw(image)
    ink = lambda: (0, 0, 0) if paper and rng.random() < 0.5 else colour()  # noqa: E731
    point = lambda: tuple(int(v) for v in rng.integers(-40, wide + 40, 2))  # noqa: E731
    for _ in range(int(rng.integers(2, 10))):
        kind, width = rng.integers(0, 5), int(rng.integers(2, 14))
        (ax, ay), (bx, by) = point(), point()
        box = (min(ax, bx), min(ay, by), max(ax, bx) + 1, max(ay, by) + 1)
        if kind == 0:
            draw.rectangle(box, fill=colour(), outline=ink(), width=width)
        elif kind == 1:
            draw.ellipse(box, fill=colour(), outline=ink(), width=width)
        elif kind == 2:
            draw.polygon([point() for _ in range(int(rng.integers(3, 7)))], fill=colour(), outline=ink())
        else:
            draw.line([point() for _ in range(int(rng.integers(2, 6)))], fill=ink(), width=width, joint="curve")
    signs = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?&()-")
    for _ in range(int(rng.integers(0, 6))):
        size, (x, y) = int(rng.integers(28, 120)), point()
        font = ImageFont.load_default(size)
        for line in range(int(rng.integers(1, 6))):
            text = "".join(rng.choice(signs + [" "] * 10, 24))
            draw.text((x, y + line * size * 1.2), text, fill=ink(), font=font)
    return torch.from_numpy(np.asarray(image.resize((SIDE, SIDE), Image.BOX)).copy()).permute(2, 0, 1)


def reduce(image, rng, fixed=None):
    """The small picture, as cameras, programs and the web leave it; and the scale, one of many unless it is fixed."""
    scale = rng.choice([4, 3, 2, 0], p=[0.68, 0.14, 0.06, 0.12])
    scale = fixed or float(scale or rng.uniform(2.2, 4))
    side = round(image.width / scale)
    scale = image.width / side
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(scale * rng.uniform(0.2, 0.7)))
    kernel = rng.choice([Image.BOX, Image.BICUBIC, Image.LANCZOS, Image.HAMMING], p=[0.55, 0.15, 0.15, 0.15])
    small = image.resize((side, side), int(kernel))
    if rng.random() < 0.12:
        pixels = np.asarray(small).astype(np.float32)
        grain = rng.standard_normal(pixels.shape if rng.random() < 0.5 else pixels.shape[:2] + (1,))
        small = Image.fromarray((pixels + rng.uniform(1, 5) * grain).round().clip(0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=int(rng.integers(60, 101)), subsampling=int(rng.choice([0, 2])))
        small = Image.open(buffer).convert("RGB")
    return small, scale


def chw(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


@torch.inference_mode()
def taught(net, small, device):
    """The teacher's enlargement at the sample's own size."""
    x = chw(small)[None].float().div(255).to(device, memory_format=torch.channels_last)
    with bf16(device):
        y = net(x)[0].float()
    y = Image.fromarray((y.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    return chw(y if y.width == SIDE else y.resize((SIDE, SIDE), Image.BOX))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--size", type=int, default=50, help="samples in a shard")
    parser.add_argument("--scale", type=float, help="of every sample, in place of many; first.py learns from those of 4 alone")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = teacher_module.load().to(args.device)
    photos = load_photos(args.work, "train", (1.5, 2))
    print(len(photos), "pictures", flush=True)
    for shard in range(args.shards):
        path = args.work / "targets" / f"{shard:03}.pt"
        if path.exists():
            continue
        crops = Crops(photos, args.seed + shard, tries=3, detail_share=0.7)
        rng = crops.rng
        sharp, soft, guess, smalls = [], [], [], []
        for _ in range(args.size):
            drawn = rng.random() < 0.1
            high = drawing(rng) if drawn else crops.one(SIDE)
            small, scale = reduce(Image.fromarray(high.permute(1, 2, 0).contiguous().numpy()), rng, args.scale)
            sharp.append(high.contiguous())
            smalls.append(chw(small))
            soft.append(chw(small.resize((SIDE, SIDE), Image.LANCZOS)))
            # A small reduction leaves the truth itself within reach, and costs the teacher the most.
            guess.append(high.contiguous() if drawn or scale < 2.9 else taught(net, small, args.device))
        save_checkpoint(path, sharp=torch.stack(sharp), soft=torch.stack(soft), taught=torch.stack(guess), small=smalls)
        print(f"{time.strftime('%H:%M:%S')} shard {shard}", flush=True)


if __name__ == "__main__":
    main()
