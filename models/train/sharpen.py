"""Trains UNet and decoder together, for one step of sampling, on pictures: crisp where a guess can be.

The way of inference itself is trained: zL of the enlarged picture is noised to the one timestep that is sampled (249 of a
trailing schedule of four), the UNet's guess of the clean latent is decoded, and the losses look at pixels. One sample in six goes two
steps (499, 249), one is judged at 499. The encoder and the text encoders are frozen.

Losses, each scaled so that its gradient at the output's pixels has a fixed share of the first one's:
  edges      Charbonnier on pixels and first differences to the teacher's enlargement (a deterministic target, which
             regression can learn), its means of 8 x 8 px replaced by the truth's: its colours are not wanted;
  means      Charbonnier on means of 4 x 4 px to the truth: faithfulness;
  patches    local sliced Wasserstein distance of 7 x 7 patches of two Laplacian levels to the real side;
  features   distance in the first layers of a frozen ImageNet network to the real side: towards the truth alone it makes
             scales and pebbles where nobody can know the texture, towards the teacher it can be learnt;
  judge      relativistic pairs (Jolicoeur-Martineau, 2018) of a discriminator that sees the enlarged picture beside.

The real side of the last three is the teacher's picture in some samples, in the others the truth. A loss whose share is 0 costs nothing.

On a CPU two processes of a thread each are faster than one of two: `python -m torch.distributed.run --nproc-per-node 2 -- sharpen.py ...`;
the batch is each one's.
"""
import argparse
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import CLIPTokenizer

import attributes
import build
import evaluate
import features as features_module
import unet as unet_module
import vae as vae_module
from common import LOOKED_AT, Clock, Ema, Muon, Side, bf16, box_reduce, load_photos, rate, save_checkpoint, split_parameters
from vae import charbonnier, grid_loss, seam_loss

FIRST, LAST, MARGIN = 499, 249, 16
SHARES = dict(edges=1.0, means=1.0, patches=0.35, features=0.5, judge=0.8, grid=0.15)


class Net(nn.Module):
    """Everything that is trained: UNet and decoder."""

    def __init__(self, unet, decoder):
        super().__init__()
        self.unet, self.decoder = unet, decoder


FINE = ("unet.conv_in.", "unet.down_blocks.0.", "unet.up_blocks.2.", "unet.conv_norm_out.", "unet.conv_out.", "decoder.")


class Judge(nn.Module):
    """Discriminator on what was added to the enlarged picture, which it sees too: two scales, about 25 and 60 px of view.

    Pixels are first sorted into channels, so that it knows their place in the latent's 4 px grid and sees any pattern that follows it.
    """

    def __init__(self, width=64):
        super().__init__()
        conv = lambda a, b, stride=1, kernel=3: spectral_norm(  # noqa: E731
            nn.Conv2d(a, b, kernel, stride, kernel // 2))
        self.fine = nn.ModuleList([conv(24, width), conv(width, width), conv(width, 2 * width, 2), conv(2 * width, 2 * width)])
        self.wide = nn.ModuleList([conv(2 * width, 2 * width, 2), conv(2 * width, 2 * width)])
        self.heads = nn.ModuleList([conv(2 * width, 1, kernel=1), conv(2 * width, 1, kernel=1)])

    def forward(self, x, soft):
        h = F.pixel_unshuffle(torch.cat([4 * (x - soft), soft], 1), 2).contiguous(memory_format=torch.channels_last)
        out = []
        for layers, head in zip((self.fine, self.wide), self.heads):
            for layer in layers:
                h = F.leaky_relu(layer(h), 0.2)
            out.append(head(h).float().flatten(1))
        return torch.cat(out, 1)


def judged(judge, pixels, real, soft, device):
    """The judge's loss for the pictures made: how far it takes the real ones for more real. It learns nothing here."""
    judge.requires_grad_(False)
    with bf16(device):
        with torch.no_grad():
            there = judge(real, soft)
        loss = F.softplus(there - judge(pixels, soft)).mean()
    judge.requires_grad_(True)
    return loss


def laplacian(x, levels=2):
    """The finest levels of a Laplacian pyramid: a picture less its 2 x 2 means enlarged bilinearly, and so on."""
    out = []
    for _ in range(levels):
        small = F.avg_pool2d(x, 2)
        out.append(x - F.interpolate(small, scale_factor=2, mode="bilinear"))
        x = small
    return out


def patches_loss(out, ref, directions=8, tile=32):
    """Local sliced Wasserstein-1 distance of 7 x 7 patches of each level, in tiles of 32 px of that level."""
    total = 0.0
    for a, b in zip(laplacian(out), laplacian(ref)):
        filters = torch.randn(directions, 3, 7, 7, device=out.device)
        filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
        maps = F.conv2d(torch.cat([a, b]), filters, padding=3)
        n, d, h, w = maps.shape
        tiles = maps.reshape(n, d, h // tile, tile, w // tile, tile).transpose(3, 4).flatten(4).sort(-1).values
        total = total + (tiles[:len(out)] - tiles[len(out):]).abs().mean()
    return total


class Data:
    """Samples of targets.py in memory; picks up new shards as they appear."""

    def __init__(self, work, tokenizers, encoder, device, seed):
        self.folder, self.tokenizers, self.encoder, self.device = pathlib.Path(work) / "targets", tokenizers, encoder, device
        self.rng, self.shards = np.random.default_rng(seed), {}
        self.refresh()

    def refresh(self):
        for path in sorted(self.folder.glob("*.pt")):
            if path.name not in self.shards:
                self.shards[path.name] = torch.load(path, weights_only=True)
        self.names = list(self.shards)

    def one(self, side):
        """sharp, soft, taught [3, side + 2 margin, ..] uint8, turned and recoloured alike."""
        shard = self.shards[self.names[self.rng.integers(len(self.names))]]
        i = self.rng.integers(len(shard["sharp"]))
        room = (shard["sharp"].shape[-1] - side - 2 * MARGIN) // 4
        y, x = (4 * int(v) for v in self.rng.integers(0, room + 1, 2))
        wide = side + 2 * MARGIN
        cut = torch.stack([shard[k][i, :, y:y + wide, x:x + wide] for k in ("sharp", "soft", "taught")])
        for axis in (2, 3):
            if self.rng.random() < 0.5:
                cut = cut.flip(axis)
        if self.rng.random() < 0.5:
            cut = cut.transpose(2, 3)
        if self.rng.random() < 0.25:
            cut = cut[:, self.rng.permutation(3)]
        return cut.contiguous()

    @torch.no_grad()
    def batch(self, count, side, scale):
        """sharp, soft, taught [count, 3, side, side] in [-1, 1]; zL scaled; token ids. The teacher has the truth's means."""
        cuts = torch.stack([self.one(side) for _ in range(count)])
        inner = cuts[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        ids = self.ids([np.ascontiguousarray(c.permute(1, 2, 0).numpy()) for c in inner[:, 1]])
        to = lambda x: x.float().div(127.5).sub(1).to(self.device, memory_format=torch.channels_last)  # noqa: E731
        sharp, soft, taught = (to(inner[:, k]) for k in range(3))
        taught = taught + F.interpolate(F.avg_pool2d(sharp - taught, 8), scale_factor=8, mode="bilinear")
        # Regions inside a picture were encoded with what is around them; those at its border see the border.
        cut = 0 if self.rng.random() < 0.25 else MARGIN // 4
        with bf16(self.device):
            zl = self.encoder(to(cuts[:, 1]) if cut else soft).float() * scale
        if cut:
            zl = zl[..., cut:-cut, cut:-cut].contiguous(memory_format=torch.channels_last)
        return sharp, soft, taught, zl, ids

    def ids(self, pictures, drop=0.1):
        texts = ["" if self.rng.random() < drop else attributes.describe(p) for p in pictures]
        return tuple(unet_module.Data._encode(t, texts).to(self.device) for t in self.tokenizers)


class Method:
    """One or two steps of sampling and the decoder, as inference has them."""

    def __init__(self, net, text, scale, device):
        self.net, self.text, self.scale, self.device = net, text.eval().requires_grad_(False), scale, device
        self.alphas = build.scheduler().alphas_cumprod.to(device)

    def step(self, z, zl, t, text, side):
        """x0-hat and eps at the timesteps `t` [B]."""
        context, pooled = text
        times = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32, device=z.device).expand(len(z), 6)
        with bf16(self.device):
            eps = self.net.unet(torch.cat([z, zl], 1), t, context,
                                added_cond_kwargs=dict(text_embeds=pooled, time_ids=times)).sample.float()
        a = self.alphas[t][:, None, None, None]
        return (z - (1 - a).sqrt() * eps) / a.sqrt(), eps

    def noised(self, z, noise, t):
        a = self.alphas[t][:, None, None, None]
        return a.sqrt() * z + (1 - a).sqrt() * noise

    def __call__(self, zl, ids, two=0, early=0):
        """Pictures; the first `two` samples take two steps, the next `early` are judged after the first of them."""
        side, n = 4 * zl.shape[-1], len(zl)
        with torch.no_grad():
            text = self.text(*ids)
        t = torch.full((n,), LAST, device=zl.device)
        t[two:two + early] = FIRST
        noise = torch.randn_like(zl)
        z = self.noised(zl, noise, t)
        if two:
            with torch.no_grad():
                before = torch.full((two,), FIRST, device=zl.device)
                guess, eps = self.step(self.noised(zl[:two], noise[:two], before), zl[:two], before,
                                       tuple(x[:two] for x in text), side)
                z[:two] = self.noised(guess, eps, t[:two])
        guess, _ = self.step(z, zl, t, text, side)
        with bf16(self.device):
            return self.net.decoder(guess / self.scale).float()


def probe(work, side=256):
    """Crops of three held-out photographs that are no part of the final test, to look at while training."""
    truths = []
    for name, photo in load_photos(work, "heldout"):
        if name in LOOKED_AT:
            h, w = photo.shape[1:]
            for fy, fx in ((0.35, 0.4), (0.55, 0.6)):
                y, x = int(fy * (h - side)), int(fx * (w - side))
                truths.append(photo[:, y:y + side, x:x + side].contiguous())
    soft = [torch.from_numpy(np.asarray(Image.fromarray(box_reduce(t, 4).permute(1, 2, 0).numpy())
                                        .resize((side, side), Image.LANCZOS)).copy()).permute(2, 0, 1) for t in truths]
    return torch.stack(truths), torch.stack(soft)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True, help="folder with tokenizer and tokenizer_2")
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--judge-from", type=float, default=0.12, help="fraction of the time after which the judge is heard")
    parser.add_argument("--wide-from", type=float, default=0.6, help="fraction after which some whole regions are used")
    parser.add_argument("--muon-lr", type=float, default=0.004)
    parser.add_argument("--adam-lr", type=float, default=5e-4)
    parser.add_argument("--judge-lr", type=float, default=2e-4)
    parser.add_argument("--calm", type=float, default=5.0, help="weight of the judge's smoothness")
    parser.add_argument("--teacher-real", type=float, default=0.2, help="share of the samples whose real side is the teacher's")
    parser.add_argument("--share", action="append", default=[], metavar="NAME=X", help=f"of a loss; {SHARES}")
    parser.add_argument("--scaling", type=float, default=1.5)
    parser.add_argument("--start", type=pathlib.Path, help="checkpoint of unet.py, restart.py or this to begin from; one of a UNet "
                        "with fewer blocks at the first level is deepened")
    parser.add_argument("--fine", action="store_true", help="train what works at the latent's own resolution and finer; what lies below "
                        "stays, and costs no weights' gradients")
    parser.add_argument("--name", default="sharpen")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device, beside = args.device, Side()
    shares = SHARES | {k: float(v) for k, v in (s.split("=") for s in args.share)}
    tokenizers = [CLIPTokenizer.from_pretrained(args.tokenizers / n) for n in ("tokenizer", "tokenizer_2")]
    vae = vae_module.build()
    vae.load_state_dict(torch.load(args.work / "vae_joint.pt", map_location="cpu", weights_only=False)["ema"])
    whole = unet_module.Net(len(tokenizers[0]))
    path = args.work / f"{args.name}.pt"
    done = torch.load(path, map_location=device, weights_only=False) if path.exists() else None
    if not done:
        if not args.start:
            parser.error("nothing to begin from: --start, or a checkpoint in --work")
        start = torch.load(args.start, map_location="cpu", weights_only=False)
        sharpened = any(key.startswith("decoder.") for key in start["model"])
        parts = start["ema"] if sharpened else start["model"]
        take = lambda prefix: {k.removeprefix(prefix): v for k, v in parts.items() if k.startswith(prefix)}  # noqa: E731
        whole.unet.load_state_dict(build.deepen(take("unet.")))
        whole.text.load_state_dict(start["text"] if sharpened else take("text."))
        if sharpened:
            vae.decoder.load_state_dict(take("decoder."))
    net = Net(whole.unet, vae.decoder).to(device)
    judge = Judge().to(device, memory_format=torch.channels_last)
    if not done and sharpened:
        judge.load_state_dict(start["judge"])
    look = features_module.Features().to(device)
    encoder = vae.encoder.to(device).eval().requires_grad_(False)
    ema = Ema(net, 0.998)
    for name, p in net.named_parameters():
        p.requires_grad_(not args.fine or name.startswith(FINE))
    edge = lambda name: (unet_module.edge(name) if name.startswith("unet.") else  # noqa: E731
                         vae_module.edge(vae)(name))
    hidden, rest = split_parameters([(n, p) for n, p in net.named_parameters() if p.requires_grad], edge)
    muon, adam = Muon(hidden), torch.optim.AdamW(rest, betas=(0.8, 0.98), weight_decay=0.0)
    judge_adam = torch.optim.Adam(judge.parameters(), lr=args.judge_lr, betas=(0.5, 0.95))
    used, step, norms = 0.0, 0, {}
    if done:
        whole.text.load_state_dict(done["text"])
        net.load_state_dict(done["model"])
        ema.module.load_state_dict(done["ema"])
        judge.load_state_dict(done["judge"])
        ema.steps = step = done["step"]
        muon.load_state_dict(done["muon"])
        adam.load_state_dict(done["adam"])
        judge_adam.load_state_dict(done["judge_adam"])
        for group in judge_adam.param_groups:
            group["lr"] = args.judge_lr
        used, norms = done["used"], done["norms"]
    data = Data(args.work, tokenizers, encoder, device, args.seed + 1000 * step + beside.rank)
    method, average = (Method(n, whole.text.to(device), args.scaling, device) for n in (net, ema.module))
    clock, rng = Clock(args.minutes, used), np.random.default_rng(args.seed + step)
    truths, softs = probe(args.work)
    torch.manual_seed(args.seed + step + 7919 * beside.rank)
    sums, last_print, last_save = {}, time.time(), time.time()

    def note(**values):
        for k, v in values.items():
            total, n = sums.get(k, (0.0, 0))
            sums[k] = (total + float(v), n + 1)

    def look_at_probe():
        """Figures of evaluate.py for the probe, its crops as one picture, the enlarged one's beside; and a sheet to look at."""
        torch.manual_seed(0)
        with torch.no_grad(), bf16(device):
            x = softs.float().div(127.5).sub(1).to(device, memory_format=torch.channels_last)
            zl = encoder(x).float() * args.scaling
        ids = data.ids([np.ascontiguousarray(s.permute(1, 2, 0).numpy()) for s in softs], drop=0)
        with torch.no_grad():
            out = average(zl, ids).add(1).mul(127.5).round().clamp(0, 255).byte().cpu()
        torch.manual_seed(args.seed + step)
        soft, made, truth = (torch.cat(list(x), 2).permute(1, 2, 0).numpy() for x in (softs, out, truths))
        Image.fromarray(np.concatenate([soft, made, truth])).save(args.work / f"{args.name}_probe.png")
        small = [evaluate.rgb_of(evaluate.reduce_area(Image.fromarray(picture), 4)) for picture in (made, truth)]
        return f"{evaluate.beside_soft(soft, made, truth)}, faithful {evaluate.psnr(*small):.1f}"

    while True:
        fraction = beside.of_first(clock.fraction())
        finished = fraction >= 1
        for optimizer, lr in ((muon, args.muon_lr), (adam, args.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(fraction)
        wide = fraction > args.wide_from and rng.random() < 0.15
        side, count = (256, max(1, args.batch // 3)) if wide else (128, args.batch)
        sharp, soft, taught, zl, ids = data.batch(count, side, args.scaling)
        split = max(1, count // 6) if count > 2 else 0
        out = method(zl, ids, two=split, early=split)
        pixels = out.detach().requires_grad_()
        real = torch.where((torch.rand(count, 1, 1, 1, device=device) < args.teacher_real), taught, sharp)
        difference = pixels - taught
        losses = {
            "edges": lambda: charbonnier(difference) + charbonnier(difference[..., 1:] - difference[..., :-1])
            + charbonnier(difference[..., 1:, :] - difference[..., :-1, :]),
            "means": lambda: charbonnier(F.avg_pool2d(pixels - sharp, 4)),
            "patches": lambda: patches_loss(pixels, real),
            "grid": lambda: grid_loss(pixels, sharp, 8) + seam_loss(pixels, sharp, 8),
            "features": lambda: features_module.distance(look, pixels, real),
            "judge": lambda: judged(judge, pixels, real, soft, device)}
        heard = fraction > args.judge_from
        gradient = torch.zeros_like(pixels)
        for name, loss in losses.items():
            if not shares[name] or name == "judge" and not heard:
                continue
            loss = loss()
            g, = torch.autograd.grad(loss, pixels)
            norm = g.norm().item() / count ** 0.5
            norms[name] = norm if name not in norms else 0.98 * norms[name] + 0.02 * norm
            gradient += g * (shares[name] * norms["edges"] / max(norms[name], 1e-12))
            note(**{name: loss.detach()})
        out.backward(gradient)
        beside.average(hidden + rest)
        torch.nn.utils.clip_grad_norm_(hidden + rest, 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        ema.update(net)
        if shares["judge"] and fraction > args.judge_from - 0.05:
            both, twice = torch.cat([real, out.detach().clamp(-1.1, 1.1)]), torch.cat([soft, soft])
            with bf16(device):
                said = judge(both, twice)
                moved = judge(both + 0.02 * torch.randn_like(both), twice)
            gap = said[:count] - said[count:]
            judge_adam.zero_grad()
            # A judge that is steep around a picture teaches nothing: the finite form of the R1 and R2 penalties.
            (F.softplus(-gap).mean() + args.calm * (said - moved).square().mean()).backward()
            beside.average(judge.parameters())
            judge_adam.step()
            note(gap=gap.detach().mean())
        step += 1
        if beside.rank == 0 and (finished or time.time() - last_print > 240):
            line = ", ".join(f"{k} {total / n:.4f}" for k, (total, n) in sorted(sums.items()))
            print(f"{time.strftime('%H:%M:%S')} {clock.used() / 60:.1f} min step {step}: {line}; {look_at_probe()}; "
                  f"{len(data.names)} shards", flush=True)
            sums.clear()
            last_print = time.time()
        if step % 50 == 0:
            data.refresh()
        if beside.rank == 0 and (finished or time.time() - last_save > 240):
            save_checkpoint(path, model=net.state_dict(), ema=ema.module.state_dict(), text=whole.text.state_dict(),
                            judge=judge.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(),
                            judge_adam=judge_adam.state_dict(), step=step, used=clock.used(), norms=norms, args=vars(args))
            last_save = time.time()
        if finished:
            break


if __name__ == "__main__":
    main()
