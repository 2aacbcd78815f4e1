"""Whole jobs by the method of docs/method.md with transformers of flow matching (section 5b), written in PyTorch and diffusers,
in f64: what the fixtures of each family share. A family says how its models are called and where its attention is.

Literal as make_method_fixture.py is: the structure prior is autograd through equations 4 and 5 with ε held constant, steps are
diffusers' own, every region is a call by itself, the VAE sees the picture whole. The regional attention prior is the family's,
with the softmax maps as they are.
"""

import math

import torch
from safetensors.torch import save_file

from make_img2img_fixture import noise_field
from make_method_fixture import (
    PROMPT, RUN, STEPS, caption_document, continued, input_picture, lanczos, low_band, profile, starts, write_json,
    write_picture,
)


class FlowMethod:
    """A family has `vae`, `scheduler`, `region` (native size in latent pixels), `factor` (of the VAE) and `patch`, and the
    methods that raise here."""

    def condition(self, text):
        """What the transformer is told of a text."""
        raise NotImplementedError

    def blended(self, own, prompt, share):
        """The condition that is `share` the region's own; families whose texts have no common length have no blend."""
        assert share == 1
        return own

    def predict(self, z, t, condition):
        """The velocity from picture to noise."""
        raise NotImplementedError

    def set_timesteps(self):
        self.scheduler.set_timesteps(STEPS)

    def priors(self, weight):
        """New literal priors of all blocks, which no block has yet."""
        raise NotImplementedError

    def set_priors(self, priors, size, rects):
        """Gives the blocks their priors, for a call on so many latent pixels: recording without `rects`."""
        raise NotImplementedError

    def without_priors(self):
        """Attention as the model has it."""
        raise NotImplementedError

    def encode(self, image, height, width):
        f, config = self.factor, self.vae.config
        image = continued(image, (0, height * f - image.shape[-2]), (0, width * f - image.shape[-1]))
        return (self.vae.encode(2 * image - 1).latent_dist.mean - config.shift_factor) * config.scaling_factor

    def decode(self, z):
        config = self.vae.config
        return self.vae.decode(z / config.scaling_factor + config.shift_factor).sample

    @torch.no_grad()
    def run(self, image, case):
        side, f = self.region, self.factor
        (width, height), (in_height, in_width) = case.size, image.shape[-2:]
        canvas_h, canvas_w = (2 * math.ceil(math.ceil(n / f) / 2) for n in (height, width))
        resized = lanczos(image, width, height)
        low = self.encode(resized, canvas_h, canvas_w)

        self.set_timesteps()
        self.scheduler.set_begin_index(STEPS - RUN)
        timesteps = self.scheduler.timesteps[STEPS - RUN :]
        sigmas = self.scheduler.sigmas[STEPS - RUN :].double()
        noise = noise_field(case.seed, *low.shape[1:]).double()
        z = (1 - sigmas[0]) * low + sigmas[0] * noise

        aspect, stride = math.sqrt(in_width / in_height), self.patch
        small_h, small_w = (
            stride * max(1, math.floor(n / stride + 0.5)) for n in (side / aspect, side * aspect)
        )
        small = self.encode(lanczos(image, small_w * f, small_h * f), small_h, small_w)
        small_noise = noise_field(case.seed, *small.shape[1:], draw=1).double()

        overlap = math.floor(case.overlap * side + 0.5)
        ys, xs = starts(canvas_h, side, overlap), starts(canvas_w, side, overlap)
        weight = profile(side, overlap, case.fusion)
        weight = weight[:, None] * weight[None, :]
        texts = caption_document(ys, xs, case, side, f) if case.captions else None
        prompt, negative = self.condition(PROMPT), self.condition(case.negative)
        conditions = []
        for index in range(len(ys) * len(xs)):
            own = texts and texts["regions"][index]["caption"]
            conditions.append(self.blended(self.condition(own) if own else prompt, prompt, case.rsp))

        halves = 2 if case.guidance > 1 else 1
        twins = [self.priors(case.rap) for _ in range(halves)]
        self.without_priors()
        for i, t in enumerate(timesteps):
            if case.rap > 0:
                state = (1 - sigmas[i]) * small + sigmas[i] * small_noise
                for priors, condition in zip(twins, (prompt, negative)):
                    self.set_priors(priors, (small_h, small_w), None)
                    self.predict(state, t, condition)
            total, weights = torch.zeros_like(z), torch.zeros_like(z)
            for (y, x), own in zip([(y, x) for y in ys for x in xs], conditions):
                window = continued(z, (0, max(side - canvas_h, 0)), (0, max(side - canvas_w, 0)))
                window = window[..., y : y + side, x : x + side]
                unit = (height / f, width / f)
                place = [y / unit[0], x / unit[1], side / unit[0], side / unit[1]]
                outputs = []
                for priors, condition in zip(twins, (own, negative)):
                    if case.rap > 0:
                        self.set_priors(priors, (side, side), [place])
                    outputs.append(self.predict(window, t, condition))
                velocity = outputs[0]
                if halves == 2:
                    velocity = outputs[1] + case.guidance * (outputs[0] - outputs[1])
                h, w = min(side, canvas_h), min(side, canvas_w)
                total[..., y : y + h, x : x + w] += (weight * velocity)[..., :h, :w]
                weights[..., y : y + h, x : x + w] += weight[:h, :w]
            signal, spread = 1 - sigmas[i], sigmas[i]
            eps = z + signal * total / weights
            weight_i = case.gsp * 0.5 * (1 + math.cos(math.pi * i / RUN))
            z = self.structure(z, eps, low, signal, spread, weight_i)
            # The velocity that the moved canvas and the noise imply.
            z = self.scheduler.step(eps - (z - spread * eps) / signal, t, z).prev_sample.double()

        decoded = self.decode(z)
        result = (decoded[0, :, :height, :width] * 0.5 + 0.5).clamp(0, 1)
        return result.permute(1, 2, 0).contiguous(), texts

    @torch.enable_grad()
    def structure(self, z, eps, low, signal, spread, weight):
        """Equations 4 and 5 by autograd; the factor 2η/signal² of docs/method.md is the weight λ."""
        z = z.detach().requires_grad_()
        clean = (z - spread * eps) / signal
        loss = (low_band(clean) - low_band(low)).square().sum()
        (gradient,) = torch.autograd.grad(loss, z)
        return (z - weight * signal**2 / 2 * gradient).detach()


def write_jobs(area, method, cases, options=lambda case: case.options()):
    """Writes into `area` the input `in.png`, captions files, `cases.json` (each case's command-line options) and
    `expected.safetensors` (each case's picture, [H, W, 3] in 0..1)."""
    image = input_picture()
    write_picture(area / "in.png", image)
    expected, written = {}, {}
    for name, case in cases.items():
        pixels, texts = method.run(image, case)
        expected[name] = pixels.float()
        assert expected[name].isfinite().all()
        inside = ((expected[name] > 0) & (expected[name] < 1)).double().mean().item()
        print(name, inside)
        assert inside > 0.2, (name, inside)
        written[name] = {"options": options(case)}
        if texts:
            write_json(area / case.captions, texts)
    save_file(expected, area / "expected.safetensors")
    write_json(area / "cases.json", written)
