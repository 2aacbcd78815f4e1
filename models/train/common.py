"""Shared by the training scripts: photographs in memory, crops, the Muon optimizer, schedules and checkpoints.

Everything is scheduled by wall-clock time, not by steps: the model was trained on two CPU cores that
other work also used, so the number of steps in an hour is not known beforehand.
"""
import copy
import math
import os
import pathlib
import time

import numpy as np
import torch
from PIL import Image

Image.MAX_IMAGE_PIXELS = None
# Kept out of the samples and of the final test: what training and the choice of strengths look at.
LOOKED_AT = ("friends", "ladybird", "wine")


def has_bf16(device):
    """Whether the hardware multiplies bf16; other CPUs emulate it, several times slower than f32."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def bf16(device):
    """Autocast to bf16 where the hardware has it; elsewhere f32 stays."""
    return torch.autocast(device, torch.bfloat16, enabled=has_bf16(device))


def load_rgb(path):
    """An image file as uint8 tensor [3, H, W]."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1).contiguous()


def box_reduce(rgb, factor):
    """Area average by `factor` (any real > 1) of a uint8 tensor [3, H, W]."""
    image = Image.fromarray(rgb.permute(1, 2, 0).numpy())
    size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return torch.from_numpy(np.asarray(image.resize(size, Image.BOX)).copy()).permute(2, 0, 1).contiguous()


def load_photos(work, split, extra_reductions=(), least=700):
    """All photographs of a split as a list of (name, uint8 [3, H, W]), with reduced copies appended."""
    photos = []
    for path in sorted((pathlib.Path(work) / "photos" / split).glob("*.png")):
        rgb = load_rgb(path)
        photos.append((path.stem, rgb))
        for factor in extra_reductions:
            small = box_reduce(rgb, factor)
            if min(small.shape[1:]) >= least:
                photos.append((f"{path.stem}/{factor}", small))
    return photos


class Crops:
    """Random square crops; of `tries` candidates the one with the most fine detail wins most of the time."""

    def __init__(self, photos, seed, tries=3, detail_share=0.6, swap_colours=0.0):
        self.photos, self.swap_colours = photos, swap_colours
        self.rng = np.random.default_rng(seed)
        area = np.array([p.shape[1] * p.shape[2] for _, p in photos], float) ** 0.5
        self.weights = area / area.sum()
        self.tries, self.detail_share = tries, detail_share

    def one(self, side):
        candidates = []
        wanted = self.tries if self.rng.random() < self.detail_share else 1
        for _ in range(wanted):
            _, photo = self.photos[self.rng.choice(len(self.photos), p=self.weights)]
            y = self.rng.integers(0, photo.shape[1] - side + 1)
            x = self.rng.integers(0, photo.shape[2] - side + 1)
            crop = photo[:, y:y + side, x:x + side]
            luma = crop[1, ::2].to(torch.int16)
            candidates.append(((luma[:, 1:] - luma[:, :-1]).abs().float().mean().item(), crop))
        return max(candidates, key=lambda c: c[0])[1]

    def batch(self, count, side):
        """[count, 3, side, side] in [-1, 1], each randomly flipped and transposed."""
        out = torch.empty(count, 3, side, side)
        for i in range(count):
            crop = self.one(side)
            if self.rng.random() < 0.5:
                crop = crop.flip(2)
            if self.rng.random() < 0.5:
                crop = crop.flip(1)
            if self.rng.random() < 0.5:
                crop = crop.transpose(1, 2)
            if self.rng.random() < self.swap_colours:
                crop = crop[self.rng.permutation(3)]
            out[i] = crop
        return out.div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by five Newton-Schulz steps (Jordan et al., 2024).

    For the hidden weights: matrices and convolutions (seen as out x in*k*k matrices). Weights of
    one shape are handled as one batch, which is what makes it affordable on a CPU.
    """

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @staticmethod
    def orthogonalise(g):
        a, b, c = 3.4445, -4.7750, 2.0315
        x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        if has_bf16(g.device.type):
            x = x.bfloat16()
        tall = x.shape[-2] > x.shape[-1]
        if tall:
            x = x.mT
        for _ in range(5):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "m" not in state:
                    state["m"] = torch.zeros_like(p)
                state["m"].lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(state["m"], group["momentum"])
                shapes.setdefault((p.shape[0], p[0].numel()), []).append((p, g))
            for (rows, cols), members in shapes.items():
                stack = torch.stack([g.reshape(rows, cols) for _, g in members])
                update = self.orthogonalise(stack) * max(1, rows / cols) ** 0.5
                for (p, _), u in zip(members, update):
                    if group["weight_decay"]:
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(u.reshape(p.shape), alpha=-group["lr"])


def split_parameters(named, is_edge):
    """Hidden matrices for Muon, everything else (biases, norms, embeddings, first and last layers) for Adam."""
    hidden, rest = [], []
    for name, p in named:
        (hidden if p.ndim >= 2 and not is_edge(name) else rest).append(p)
    return hidden, rest


class Side:
    """Processes that train side by side, begun by `python -m torch.distributed.run`: each on samples of its own, all with the same
    weights. One process alone is one too."""

    def __init__(self):
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1:
            torch.distributed.init_process_group("gloo")

    def of_first(self, value):
        """A number as the first process has it."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(told, 0)
        return told.item()

    def average(self, parameters):
        """Makes the gradients the mean of all processes'."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        for g, mean in zip(gradients, flat.div_(self.size).split([g.numel() for g in gradients])):
            g.copy_(mean.view_as(g))


class Clock:
    """Fraction of the allotted wall-clock time that is used up; survives resuming."""

    def __init__(self, minutes, used=0.0):
        self.total, self.before, self.start = minutes * 60, used, time.time()

    def used(self):
        return self.before + time.time() - self.start

    def fraction(self):
        return min(1.0, self.used() / self.total)


def rate(fraction, warmup=0.03, floor=0.02):
    """Learning-rate factor after a fraction of the time: linear warm-up, then half a cosine down to `floor`."""
    if fraction < warmup:
        return max(0.02, fraction / warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


class Ema:
    """Exponential moving average of a module's weights with the usual warm-up of the decay."""

    def __init__(self, module, decay):
        self.module, self.decay, self.steps = copy.deepcopy(module).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module):
        self.steps += 1
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - d)


def save_checkpoint(path, **state):
    """Writes beside the target first, so that a checkpoint is never half-written."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def psnr(a, b, peak=2.0):
    """Peak signal-to-noise ratio in dB of tensors in [-1, 1]."""
    return 10 * math.log10(peak * peak / max(1e-12, (a - b).square().mean().item()))
