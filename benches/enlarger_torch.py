"""Real-ESRGAN x4plus in PyTorch, from its files of ncnn: how long a square of a picture takes, and how far a tile in the
middle is from the whole when it sees so many pixels around it (docs/figures.md).

    python benches/enlarger_torch.py realesrgan-x4plus.bin samples/nuthatch.jpg [THREADS]
"""

import struct
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "make_fixtures"))
from make_enlarger_fixtures import RRDBNet  # noqa: E402

SIDE, CORE = 320, range(112, 208)
PADDINGS = (10, 16, 24, 32, 40, 48, 64)


def load(path):
    net, data, at = RRDBNet(4, 64, 32, 23), Path(path).read_bytes(), 0
    order = [m for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    for conv in order:
        (tag,) = struct.unpack_from("<I", data, at)
        kind, size = ("<f2", 2) if tag == 0x01306B47 else ("<f4", 4)
        count = conv.weight.numel()
        weight = np.frombuffer(data, kind, count, at + 4).astype("f4")
        at += 4 + (count * size + 3) // 4 * 4
        bias = np.frombuffer(data, "<f4", conv.bias.numel(), at).copy()
        at += 4 * len(bias)
        conv.weight.data = torch.from_numpy(weight.reshape(conv.weight.shape))
        conv.bias.data = torch.from_numpy(bias)
    assert at == len(data)
    return net.eval()


@torch.inference_mode()
def main(weights, picture, threads=1):
    torch.set_num_threads(int(threads))
    net, image = load(weights), Image.open(picture).convert("RGB")
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE))).copy()
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    begun = time.time()
    net(x[..., :256, :256])
    print(f"256 x 256: {time.time() - begun:.1f} s")
    whole = net(x)[..., 4 * CORE.start : 4 * CORE.stop, 4 * CORE.start : 4 * CORE.stop]
    for padding in PADDINGS:
        a, b = CORE.start - padding, CORE.stop + padding
        tile = net(x[..., a:b, a:b])[..., 4 * padding : -4 * padding, 4 * padding : -4 * padding]
        difference = 255 * (tile - whole).abs()
        print(f"{padding:3} px: largest {difference.max():6.2f} of 255, mean {difference.mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
