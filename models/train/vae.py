"""Trains the model's AutoencoderTiny (f = 4, 16 latent channels).

Phase `joint` trains encoder and decoder; phase `decoder` freezes the encoder (so that latents already computed
stay valid) and goes on with the decoder alone. Both resume from their checkpoint.

Latents are pulled to zero mean and unit variance per channel, well inside the decoder's
tanh(x/3)*3 clamp; a little noise on them in training keeps the decoder tolerant of the UNet's errors.
"""
import argparse
import pathlib
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from common import Clock, Crops, Ema, Muon, bf16, load_photos, psnr, rate, save_checkpoint, split_parameters


def build(width=64):
    """AutoencoderTiny with residual branches that start at zero, so that it starts close to linear."""
    vae = AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3, decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(0, 2, 3), num_decoder_blocks=(3, 3, 1), latent_channels=16)
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for name, module in vae.named_modules():
        if type(module).__name__ == "AutoencoderTinyBlock":
            for conv in module.conv:
                if isinstance(conv, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            torch.nn.init.zeros_(module.conv[-1].weight)
    return vae.to(memory_format=torch.channels_last)


def edge(vae):
    """Names of the first and last layers, which see pixels or latents rather than features."""
    last_e, last_d = len(vae.encoder.layers) - 1, len(vae.decoder.layers) - 1
    names = ("encoder.layers.0.", f"encoder.layers.{last_e}.", "decoder.layers.0.", f"decoder.layers.{last_d}.")
    return lambda name: name.startswith(names)


def charbonnier_map(d):
    return (d * d + 1e-6).sqrt()


def charbonnier(d):
    return charbonnier_map(d).mean()


def reconstruction_loss(out, ref):
    """Charbonnier on pixels, on first differences (sharp edges), and on the 4 x 4 means (no casts)."""
    d = out - ref
    fine = charbonnier(d[..., 1:] - d[..., :-1]) + charbonnier(d[..., 1:, :] - d[..., :-1, :])
    return charbonnier(d) + 0.5 * fine + 0.5 * charbonnier(F.avg_pool2d(d, 4))


def grid_loss(out, ref, block=12):
    """Error that repeats with the 4 px grid: the mean of each of the 16 phases over blocks of 48 px."""
    d = F.pixel_unshuffle(out - ref, 4)
    return charbonnier(F.avg_pool2d(d, block))


def seam_loss(out, ref, block=12):
    """Error of the mean step between neighbours in each of the 4 phases of the grid, against seams every 4 px."""
    def steps(x):
        across = F.pixel_unshuffle(F.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1)), 4)
        down = F.pixel_unshuffle(F.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1)), 4)
        n, c, h, w = across.shape
        across = across.view(n, c // 16, 4, 4, h, w).mean(2)
        down = down.view(n, c // 16, 4, 4, h, w).mean(3)
        return F.avg_pool2d(torch.cat([across, down], 1).flatten(1, 2), block)
    return (steps(out) - steps(ref)).abs().mean()


def detail_loss(out, ref, directions=12, tile=16):
    """Local sliced Wasserstein-1 distance of 5 x 5 patches without their mean: as much fine detail as the truth."""
    filters = torch.randn(directions, 3, 5, 5, device=out.device)
    filters -= filters.mean((2, 3), keepdim=True)
    filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
    maps = F.conv2d(torch.cat([out, ref]), filters, padding=2)
    n, d, h, w = maps.shape
    tiles = maps.reshape(n, d, h // tile, tile, w // tile, tile).transpose(3, 4).flatten(4).sort(-1).values
    return (tiles[:len(out)] - tiles[len(out):]).abs().mean()


def smooth_loss(out, ref):
    """Error where the truth is smooth (sky, blur), which patch statistics of busy regions would fill with noise."""
    step = (ref[..., 1:] - ref[..., :-1]).abs().mean(1, keepdim=True)
    calm = torch.exp(-F.avg_pool2d(F.pad(step, (0, 1)), 9, stride=1, padding=4) / 0.02)
    return (charbonnier_map(out - ref) * calm).mean()


def heldout_crops(work, side=256):
    """Four fixed crops of every held-out photograph."""
    crops = []
    for _, photo in load_photos(work, "heldout"):
        h, w = photo.shape[1:]
        for fy, fx in ((0.3, 0.3), (0.3, 0.6), (0.6, 0.3), (0.6, 0.6)):
            y, x = int(fy * (h - side)), int(fx * (w - side))
            crops.append(photo[:, y:y + side, x:x + side])
    return (torch.stack(crops).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def evaluate(vae, crops, device):
    """Mean PSNR over the held-out crops, and the latents' mean and standard deviation."""
    total, stats = 0.0, []
    for crop in crops.split(4):
        crop = crop.to(device)
        with bf16(device):
            z = vae.encoder(crop)
            out = vae.decoder(z)
        total += sum(psnr(o.float().clamp(-1, 1), c) for o, c in zip(out, crop))
        stats.append(z.float())
    z = torch.cat(stats)
    return total / len(crops), z.mean().item(), z.std().item()


class Pairs:
    """Output latents of the UNet's chain and their true pixels (pairs.py); picks up new shards as they appear."""

    def __init__(self, folder, seed):
        self.folder, self.seen, self.shards = folder, set(), []
        self.rng = torch.Generator().manual_seed(seed)
        self.refresh()

    def refresh(self):
        for path in sorted(self.folder.glob("*.pt")):
            if path.name not in self.seen:
                self.seen.add(path.name)
                self.shards.append(torch.load(path, weights_only=False))

    def one(self, side):
        """Latent [16, side/4, side/4] and pixels [3, side, side] in [-1, 1]."""
        pick = lambda n: int(torch.randint(n, (1,), generator=self.rng))  # noqa: E731
        shard = self.shards[pick(len(self.shards))]
        i, n = pick(len(shard["z"])), side // 4
        y, x = pick(shard["z"].shape[2] - n + 1), pick(shard["z"].shape[3] - n + 1)
        pixels = shard["truth"][i, :, 4 * y:4 * y + side, 4 * x:4 * x + side]
        return shard["z"][i, :, y:y + n, x:x + n].float(), pixels.float() / 127.5 - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--phase", choices=["joint", "decoder"], default="joint")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    parser.add_argument("--latent-noise", type=float, default=0.05)
    parser.add_argument("--detail-weight", type=float, default=0.5, help="of the patch statistics, phase decoder")
    parser.add_argument("--seam-weight", type=float, default=2.0, help="phase decoder")
    parser.add_argument("--smooth-weight", type=float, default=0.0, help="phase decoder: extra weight of smooth areas")
    parser.add_argument("--pair-share", type=float, default=0.6, help="phase decoder: share of WORK/pairs, if there")
    parser.add_argument("--start", help="phase decoder: first weights from this checkpoint in WORK (default vae_joint.pt)")
    parser.add_argument("--detail-from", type=float, default=0.3, help="fraction of the time at which patch statistics set in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default=None, help="checkpoint name (default vae_PHASE)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = args.device
    vae = build(args.width).to(device)
    path = args.work / f"{args.name or 'vae_' + args.phase}.pt"
    done = torch.load(path, map_location=device, weights_only=False) if path.exists() else None
    if args.phase == "decoder":
        vae.load_state_dict(torch.load(args.work / (args.start or "vae_joint.pt"), map_location=device,
                                       weights_only=False)["ema"])
        vae.encoder.requires_grad_(False)
    if done:
        vae.load_state_dict(done["model"])
    ema = Ema(vae, 0.998)
    hidden, rest = split_parameters([(n, p) for n, p in vae.named_parameters() if p.requires_grad], edge(vae))
    muon = Muon(hidden, momentum=0.95)
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)
    used, step = 0.0, 0
    if done:
        ema.module.load_state_dict(done["ema"])
        ema.steps = step = done["step"]
        muon.load_state_dict(done["muon"])
        adam.load_state_dict(done["adam"])
        used = done["used"]
    clock = Clock(args.minutes, used)
    crops = Crops(load_photos(args.work, "train", (1.5, 2)), args.seed + 1000 * step,
                  swap_colours=0.3 if args.phase == "decoder" else 0.0)
    probe = heldout_crops(args.work)
    pairs = Pairs(args.work / "pairs", args.seed + step) if args.phase == "decoder" and (args.work / "pairs").exists() else None
    print(f"{sum(p.numel() for p in vae.parameters())} parameters, {len(crops.photos)} pictures", flush=True)
    total, last_print, last_save, n = 0.0, time.time(), time.time(), 0
    while True:
        now = rate(clock.fraction())
        for optimizer, lr in ((muon, args.muon_lr), (adam, args.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * now
        x = crops.batch(args.batch, args.crop).to(device)
        with bf16(device):
            if args.phase == "joint":
                z = vae.encoder(x)
            else:
                with torch.no_grad():
                    z = vae.encoder(x)
            zf = z.float()
            if pairs:
                zf, x = zf.clone(), x.clone()
                for i in range(round(args.pair_share * len(x))):
                    zf[i], x[i] = (part.to(device) for part in pairs.one(args.crop))
            out = vae.decoder(zf + args.latent_noise * torch.randn_like(zf))
        loss = reconstruction_loss(out.float(), x)
        if args.phase == "decoder":
            loss = loss + 0.5 * grid_loss(out.float(), x) + args.seam_weight * seam_loss(out.float(), x)
            if args.smooth_weight:
                loss = loss + args.smooth_weight * smooth_loss(out.float(), x)
            strength = args.detail_weight * min(1.0, max(0.0, clock.fraction() - args.detail_from) / 0.3)
            if strength:
                loss = loss + strength * detail_loss(out.float(), x)
        if args.phase == "joint":
            mean, std = zf.mean((0, 2, 3)), zf.std((0, 2, 3)) + 1e-4
            loss = loss + 0.01 * (mean.square().mean() + std.log().square().mean()) \
                + 0.05 * (zf.abs() - 2.5).clamp_min(0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hidden + rest, 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        ema.update(vae)
        step, n, total = step + 1, n + 1, total + loss.item()
        finished = clock.fraction() >= 1
        if finished or time.time() - last_print > 180:
            quality, mean, std = evaluate(ema.module, probe, device)
            print(f"{time.strftime('%H:%M:%S')} {clock.used() / 60:.1f} min step {step} loss {total / n:.4f} "
                  f"held-out {quality:.2f} dB, latents {mean:.2f} +- {std:.2f}, {n} steps", flush=True)
            total, n, last_print = 0.0, 0, time.time()
            if pairs:
                pairs.refresh()
        if finished or time.time() - last_save > 170:
            save_checkpoint(path, model=vae.state_dict(), ema=ema.module.state_dict(), muon=muon.state_dict(),
                            adam=adam.state_dict(), step=step, used=clock.used(), args=vars(args))
            last_save = time.time()
        if finished:
            break


if __name__ == "__main__":
    main()
