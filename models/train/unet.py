"""Trains the UNet and both text encoders on the latents that latents.py made.

Two kinds of update. *Diffusion*: z_t from the sharp latent at a random timestep, mostly of the trailing-8 grid
that inference visits, at t = 499 half of the time from the low-resolution latent instead, because inference starts
there. *Chain* (the last part of the time): the four DDIM steps of inference from the noised low-resolution
latent, each step trained on the state that the model itself has reached.

The network predicts noise; the loss is on x0-hat = (z_t - sqrt(1-a) eps) / sqrt(a). A squared or absolute
error alone leaves a few-step model blurred, so chain updates add two terms on the residual x0-hat - zL: a local
sliced Wasserstein distance of 3 x 3 latent patches (as much detail as the truth has, in each tile), and
optionally a small conditional patch discriminator in latent space.
"""
import argparse
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTokenizer

import build
from common import Clock, Ema, Muon, bf16, rate, save_checkpoint, split_parameters

CHAIN = (499, 374, 249, 124)


class Text(nn.Module):
    """Both text encoders: caption ids to (cross-attention tokens [B, 77, 192], pooled [B, 128])."""

    def __init__(self, one, two):
        super().__init__()
        self.one, self.two = one, two

    def forward(self, ids_one, ids_two):
        a = self.one(ids_one, output_hidden_states=True).hidden_states[-2]
        out = self.two(ids_two, output_hidden_states=True)
        return torch.cat([a, out.hidden_states[-2]], -1), out.text_embeds


class Net(nn.Module):
    """Everything that is trained here."""

    def __init__(self, vocab):
        super().__init__()
        one, two = build.text_encoders(vocab)
        self.unet, self.text = build.unet().to(memory_format=torch.channels_last), Text(one, two)

    def forward(self, z, zl, t, ids, side):
        context, pooled = self.text(*ids)
        times = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32, device=z.device).expand(len(z), 6)
        x = torch.cat([z, zl], 1).contiguous(memory_format=torch.channels_last)
        return self.unet(x, t, context, added_cond_kwargs=dict(text_embeds=pooled, time_ids=times)).sample.float()


class Judge(nn.Module):
    """Patch discriminator on the latent residual, given the low-resolution latent. About 40 px of view."""

    def __init__(self, width=64):
        super().__init__()
        c = build.LATENT_CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(2 * c, width, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1))

    def forward(self, x, zl):
        return self.layers(torch.cat([x - zl, zl], 1).contiguous(memory_format=torch.channels_last)).float()


def local_wasserstein(a, b, directions=48, tile=8):
    """Sliced Wasserstein-1 of 3 x 3 x C patches within tiles of a latent [B, C, H, W]; scale of one value."""
    c = a.shape[1]
    filters = torch.randn(directions, c, 3, 3, device=a.device)
    # Half of the directions look at single positions, half at 3 x 3 patches with zero mean.
    filters[:directions // 2, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    filters[directions // 2:] -= filters[directions // 2:].mean((2, 3), keepdim=True)
    filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
    maps = F.conv2d(torch.cat([a, b]), filters, padding=1)
    n, d, h, w = maps.shape
    tiles = maps.reshape(n, d, h // tile, tile, w // tile, tile).transpose(3, 4).flatten(4).sort(-1).values
    return (tiles[:len(a)] - tiles[len(a):]).abs().mean()


def faithfulness(guess, x0):
    """Squared error of the means over 8 px, and, heavily, over 32 px: no casts."""
    d = guess - x0
    return F.avg_pool2d(d, 2).square().mean() + 8 * F.avg_pool2d(d, 8).square().mean()


class Data:
    """Shards in memory; picks up new ones as they appear."""

    def __init__(self, work, tokenizers, seed, scale):
        self.folder, self.tokenizers = pathlib.Path(work) / "latents", tokenizers
        self.rng, self.seen = np.random.default_rng(seed), set()
        self.x0, self.zl, self.ids, self.scale = [], [], [], scale
        self.refresh()
        empty = [self._encode(t, [""]) for t in tokenizers]
        self.empty = [e[0] for e in empty]

    @staticmethod
    def _encode(tokenizer, texts):
        return torch.tensor(tokenizer(texts, padding="max_length", max_length=77, truncation=True).input_ids)

    def refresh(self):
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self.seen:
                continue
            shard = torch.load(path, weights_only=False)
            self.seen.add(path.name)
            self.x0.append(shard["x0"])
            self.zl.append(shard["zl"])
            flat = [c for region in shard["captions"] for c in region]
            self.ids.append([self._encode(t, flat).view(len(shard["captions"]), 10, 77) for t in self.tokenizers])

    def batch(self, count, side, drop=0.15):
        """x0, zL [count, 16, side, side], scaled, and token ids; `side` is 32 or 64 latents."""
        x0, zl, one, two = [], [], [], []
        for _ in range(count):
            s = self.rng.integers(len(self.x0))
            i = self.rng.integers(len(self.x0[s]))
            y = x = k = 0
            if side == 32:
                gy, gx = self.rng.integers(0, 3, 2)
                y, x, k = 16 * gy, 16 * gx, 1 + 3 * gy + gx
            x0.append(self.x0[s][i, :, y:y + side, x:x + side])
            zl.append(self.zl[s][i, :, y:y + side, x:x + side])
            dropped = self.rng.random() < drop
            one.append(self.empty[0] if dropped else self.ids[s][0][i, k])
            two.append(self.empty[1] if dropped else self.ids[s][1][i, k])
        return (torch.stack(x0).float() * self.scale, torch.stack(zl).float() * self.scale,
                (torch.stack(one), torch.stack(two)))


def edge(name):
    """Layers that Adam trains: those touching latents, embeddings and ids."""
    return any(k in name for k in ("conv_in", "conv_out", "embedding"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True, help="folder with tokenizer and tokenizer_2")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--chain-from", type=float, default=0.55, help="fraction of the time after which chain updates begin")
    parser.add_argument("--chain-share", type=float, default=0.5, help="of chain updates from then on")
    parser.add_argument("--wide-from", type=float, default=0.8, help="fraction after which whole regions are used")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--muon-lr", type=float, default=0.007)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    parser.add_argument("--sw-weight", type=float, default=0.2)
    parser.add_argument("--gan-weight", type=float, default=0.0)
    parser.add_argument("--scaling", type=float, default=1.5, help="scaling factor: 1 / standard deviation of the latents")
    parser.add_argument("--start", type=pathlib.Path, help="take the first weights from this checkpoint")
    parser.add_argument("--name", default="unet")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = args.device
    tokenizers = [CLIPTokenizer.from_pretrained(args.tokenizers / n) for n in ("tokenizer", "tokenizer_2")]
    net, judge = Net(len(tokenizers[0])).to(device), Judge().to(device)
    path = args.work / f"{args.name}.pt"
    done = torch.load(path, map_location=device, weights_only=False) if path.exists() else None
    if done:
        net.load_state_dict(done["model"])
        judge.load_state_dict(done["judge"])
    elif args.start:
        net.load_state_dict(torch.load(args.start, map_location=device, weights_only=False)["model"])
    ema = Ema(net, 0.995)
    hidden, rest = split_parameters([(n, p) for n, p in net.named_parameters() if p.requires_grad], edge)
    muon, adam = Muon(hidden), torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)
    judge_adam = torch.optim.Adam(judge.parameters(), lr=3e-4, betas=(0.5, 0.9))
    used, step = 0.0, 0
    if done:
        ema.module.load_state_dict(done["ema_all"])
        ema.steps = step = done["step"]
        muon.load_state_dict(done["muon"])
        adam.load_state_dict(done["adam"])
        judge_adam.load_state_dict(done["judge_adam"])
        used = done["used"]
    data = Data(args.work, tokenizers, args.seed + 1000 * step, args.scaling)
    alphas = build.scheduler().alphas_cumprod.to(device)
    clock = Clock(args.minutes, used)
    rng = np.random.default_rng(args.seed + step)
    sums, last_print, last_save = {}, time.time(), time.time()

    def note(**values):
        for k, v in values.items():
            total, n = sums.get(k, (0.0, 0))
            sums[k] = (total + float(torch.as_tensor(v).detach()), n + 1)

    def update():
        nonlocal step
        torch.nn.utils.clip_grad_norm_(hidden + rest, 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        ema.update(net)
        step += 1

    def forward(z, zl, t, ids, side):
        with bf16(device):
            return net(z, zl, t, ids, side)

    def diffusion(x0, zl, ids, side):
        n = len(x0)
        t = torch.from_numpy(np.where(
            rng.random(n) < 0.85, rng.choice(CHAIN, n, p=(0.34, 0.24, 0.22, 0.2)),
            np.where(rng.random(n) < 0.3, rng.choice(build.TRAILING, n), rng.integers(1, 700, n)))).to(device)
        a = alphas[t][:, None, None, None]
        # From zL where inference starts; elsewhere partly blended towards zL, as the chain's own states are.
        blend = torch.from_numpy(np.where(rng.random(n) < 0.5, 0.0, rng.random(n) * 0.6)).to(device)
        blend[(t == 499) & (torch.rand(n, device=device) < 0.5)] = 1.0
        start = x0.lerp(zl, blend.float()[:, None, None, None])
        z = a.sqrt() * start + (1 - a).sqrt() * torch.randn_like(x0)
        guess = (z - (1 - a).sqrt() * forward(z, zl, t, ids, side)) / a.sqrt()
        weight = (a * 3.6).clamp(max=1)
        error = (guess - x0).square()
        loss = (weight * (error + 0.05 * (error + 1e-4).sqrt())).mean()
        loss = loss + faithfulness(guess * weight.sqrt(), x0 * weight.sqrt())
        loss.backward()
        update()
        with torch.no_grad():
            each = error.mean((1, 2, 3)).tolist()
        for ti, value, blended in zip(t.tolist(), each, blend.tolist()):
            if ti in CHAIN:
                note(**{f"x0_{ti}{'L' if blended == 1 else ''}": value})
        note(low=(zl - x0).square().mean())

    def chain(x0, zl, ids, side):
        a = alphas[CHAIN[0]]
        z = a.sqrt() * zl + (1 - a).sqrt() * torch.randn_like(x0)
        for i, t in enumerate(CHAIN):
            a = alphas[t]
            eps = forward(z, zl, torch.full((len(z),), t, device=device), ids, side)
            guess = (z - (1 - a).sqrt() * eps) / a.sqrt()
            error = (guess - x0).square().mean()
            # Means have to stay faithful; finer detail is free to vary.
            coarse = faithfulness(guess, x0)
            swd = local_wasserstein(guess - zl, x0 - zl)
            loss = 0.5 * error + coarse + args.sw_weight * (i + 1) / 4 * swd
            if args.gan_weight and i >= 2:
                fake = judge(guess, zl)
                with torch.no_grad():
                    real = judge(x0, zl)
                loss = loss + args.gan_weight * F.softplus(real - fake).mean()
                note(adv=(real - fake).mean())
            (loss / len(CHAIN)).backward()
            if args.gan_weight and i >= 2:
                jitter = 0.05 * torch.randn_like(x0)
                gap = judge(x0 + jitter, zl) - judge(guess.detach() + 0.05 * torch.randn_like(x0), zl)
                judge_adam.zero_grad()
                F.softplus(-gap).mean().backward()
                judge_adam.step()
                note(gap=gap.mean())
            note(**{f"swd{t}": swd, f"mse{t}": error})
            eps, guess = eps.detach(), guess.detach()
            before = alphas[CHAIN[i + 1]] if i + 1 < len(CHAIN) else alphas[0]
            z = before.sqrt() * guess + (1 - before).sqrt() * eps
        update()
        note(swd_low=local_wasserstein(zl, x0))

    while True:
        fraction = clock.fraction()
        for optimizer, lr in ((muon, args.muon_lr), (adam, args.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(fraction)
        side = 64 if fraction > args.wide_from and rng.random() < 0.7 else 32
        count = args.batch if side == 32 else max(1, args.batch // 4)
        x0, zl, ids = data.batch(count, side)
        x0, zl, ids = x0.to(device), zl.to(device), tuple(i.to(device) for i in ids)
        if fraction >= args.chain_from and rng.random() < args.chain_share:
            chain(x0, zl, ids, 4 * side)
        else:
            diffusion(x0, zl, ids, 4 * side)
        finished = clock.fraction() >= 1
        if finished or time.time() - last_print > 60:
            line = ", ".join(f"{k} {total / n:.4f}" for k, (total, n) in sorted(sums.items()))
            print(f"{time.strftime('%H:%M:%S')} {clock.used() / 60:.1f} min step {step}: {line}; {len(data.x0)} shards",
                  flush=True)
            sums.clear()
            data.refresh()
            last_print = time.time()
        if finished or time.time() - last_save > 150:
            best = ema.module
            parts = dict(unet=best.unet.state_dict(), one=best.text.one.state_dict(), two=best.text.two.state_dict())
            save_checkpoint(path, model=net.state_dict(), judge=judge.state_dict(), ema=parts,
                            ema_all=best.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(),
                            judge_adam=judge_adam.state_dict(), step=step, used=clock.used(),
                            scaling_factor=data.scale, args=vars(args))
            last_save = time.time()
        if finished:
            break


if __name__ == "__main__":
    main()
