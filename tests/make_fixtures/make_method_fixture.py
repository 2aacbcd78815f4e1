"""Makes tests/fixtures/method: the whole method of docs/method.md, written once more in PyTorch and
diffusers, in f64, on the tiny model of tests/fixtures/img2img.

    python tests/make_fixtures/make_method_fixture.py

It is the literal method wherever the program takes a shorter way: the regional attention prior
keeps the softmax maps M of the low-resolution pass, crops them, and applies them to the values of the
global prompt (section 4; the program resizes the layers' outputs); the structure prior is autograd
through equations 4 and 5 with ε held constant and η_t = λ_i·ā_t/2 (section 3; the program has the
closed form); every region is a UNet call of its own; the VAE sees the picture whole; and all is f64.

Where docs/method.md is silent, this follows the program's documented choices:

- the canvas is ⌈pixels/f⌉ latent pixels a side, rounded up to even; the resized picture, clamped to
  0..1, is continued on the right and at the bottom by reflection that does not repeat the edge;
- encoder and decoder see the canvas and nothing past it, where the network's own zeros are; the colour fix sees the
  picture alone, mirrored at its border, and gives what is cut at white and black to what lies around (section 6b);
- a region larger than the canvas is continued in the same way, in z_t and in zL;
- region starts round to the nearest even number, halves up; the overlap is round(share·R);
- the low-resolution pass has s·round(R·√aspect^±1/s) latent pixels a side, s the UNet's stride
  (src/pipeline/plan/geometry.rs, `native_size`), the input resized to it without padding, noised by the field of draw 1 (the
  canvas has draw 0), beside its own clean latent, and with a region's size as its time_ids;
- a region's place in the low-resolution map is counted in the PICTURE's pixels, not in those of the
  padded canvas: the low-resolution pass sees no padding (docs/method.md: "cropped at each region's
  place"); beyond the map its border holds;
- with guidance g every UNet call is a pair, of the negative prompt and of the text, and the prediction is
  negative + g·(text − negative); the low-resolution pass is a pair too, and each half of a region's pair is
  mixed with the maps of its own half; an empty negative prompt is zeros as SDXL's pipelines have it, unless the
  model's index turns that off;
- a sampler's fresh noise is the field of draw 2 + the step's place in the whole schedule;
- a mask is resized by Pillow's bilinear filter, turned, smoothed by a tent, and averaged over the pixels of each latent
  cell, mirrored where the canvas goes on behind the picture; after each step the canvas is (1 − m) parts of the noised zL at
  the level that the step leads to (zL itself after the last), as diffusers' inpainting pipelines have it for UNets of four
  channels, and at the end the pixels are (1 − m) parts of the resized picture (section 6c). Every region is computed here;
- with tile jitter each step's grid is moved up and to the left by even distances, drawn from the seed, the step's place in the
  whole schedule and the axis; a region that would reach past the canvas is computed on it, at the native size, and counts
  where it would have lain; a region has the caption of the fixed grid's region that is nearest to where it is computed;
- a semantic weight between 0 and 1 blends the encoded caption with the encoded prompt, tokens and
  pooled embedding alike.

Written: `in.png` (16-bit RGB), `captions.json` and `captions_quarter.json` (for its own grid), `mask.png` (8-bit grey),
`cases.json` (each case's command-line options), `expected.safetensors`, `masked.safetensors` and `jittered.safetensors`
(each case's picture, [H, W, 3] in 0..1).
"""

import json
import math
import struct
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from make_img2img_fixture import noise_field, picture

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
AREA, MODEL = FIXTURES / "method", FIXTURES / "img2img" / "model"
WIDTH, HEIGHT = 33, 19
PROMPT = "a photo of the old harbour at dusk, blue sky!"
CAPTIONS = [
    "the blue sky at dusk",
    "",
    "an old harbour, a photo of the sea!",
    "a red roof",
    "the old stone wall at the harbour, wet",
    "the sky, a photo",
    "two boats at dusk",
    "blue water, it's calm!",
]
NEGATIVE = "a wet wall"
STEPS, RUN = 8, 4
SCHEDULERS = {
    "tcd": TCDScheduler,
    "euler": EulerDiscreteScheduler,
    "lcm": LCMScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "dpmpp-2m-sde": partial(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
}
# Those whose own state is the canvas over √ā.
IN_SIGMA = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)


@dataclass
class Case:
    """A job; the fields are the command line's options."""

    size: tuple = (3 * WIDTH, 3 * HEIGHT)
    seed: int = 7
    overlap: float = 0.5
    fusion: str = "feather"
    gsp: float = 0.2
    rap: float = 0.5
    rsp: float = 1.0
    captions: str = "captions.json"
    color_fix: str = "none"
    sampler: str = ""
    spacing: str = ""
    # the sampler's own where it is None
    eta: float | None = None
    guidance: float = 0.0
    negative: str = ""
    # the model's `force_zeros_for_empty_prompt`; its index has none, which is on
    force_zeros: bool | None = None
    mask: bool = False
    invert_mask: bool = False
    mask_feather: int = 0
    jitter: bool = False

    def options(self):
        names = ("seed", "overlap", "fusion", "gsp", "rap", "rsp")
        size = "x".join(map(str, self.size))
        scaled = self.size == (3 * WIDTH, 3 * HEIGHT)
        options = ["--scale", "3"] if scaled else ["--size", size]
        options += ["--color-fix", self.color_fix]
        options += ["--steps", str(STEPS), "--denoise-steps", str(RUN), "--prompt", PROMPT]
        options += [part for name in names for part in (f"--{name}", str(getattr(self, name)))]
        chosen = {"sampler": self.sampler, "spacing": self.spacing, "negative-prompt": self.negative}
        chosen |= {"guidance": self.guidance or "", "eta": "" if self.eta is None else self.eta}
        chosen |= {"mask": "mask.png" if self.mask else "", "mask-feather": self.mask_feather or ""}
        options += [part for name, value in chosen.items() if value != "" for part in (f"--{name}", str(value))]
        options += ["--invert-mask"] if self.invert_mask else []
        options += ["--tile-jitter"] if self.jitter else []
        return options + (["--captions", self.captions] if self.captions else ["--captioner", "none"])


ALL = Case()
ONE = replace(ALL, size=(48, 48), seed=0, gsp=0.0, rap=0.0, rsp=0.0, captions="")
CASES = {
    "all": ALL,
    "no_structure": replace(ALL, gsp=0.0),
    "no_attention": replace(ALL, rap=0.0),
    "no_semantics": replace(ALL, rsp=0.0),
    "average": replace(ALL, fusion="average", gsp=1.0),
    "overlap_quarter": replace(ALL, overlap=0.25, rap=0.8, captions="captions_quarter.json"),
    "semantics_half": replace(ALL, rsp=0.5, seed=(3 << 32) + 5),
    "colours": replace(ALL, color_fix="wavelet"),
    # no padding: the picture is the canvas
    "whole_cells": replace(ALL, size=(80, 56), seed=0, captions=""),
    # 8 latent rows where a region has 12
    "strip": replace(ALL, size=(98, 30), gsp=0.6, captions="", color_fix="wavelet"),
    # one region, no prior: image-to-image with guidance as diffusers has it
    "guided_alone": replace(ONE, seed=2, guidance=5.0, negative=NEGATIVE),
    "guided_alone_zeros": replace(ONE, guidance=5.0),
    "guided_alone_empty": replace(ONE, guidance=5.0, force_zeros=False),
    # and with everything
    "guided": replace(ALL, guidance=3.5, negative=NEGATIVE),
    "guided_zeros": replace(ALL, guidance=2.0, rap=0.8, size=(80, 56), captions=""),
    # the other samplers, fresh noise, and both
    "ddim_eta": replace(ALL, eta=0.7, size=(80, 56), captions=""),
    "tcd": replace(ALL, sampler="tcd", size=(80, 56), captions=""),
    "tcd_guided": replace(ONE, sampler="tcd", eta=1.0, guidance=2.0, negative=NEGATIVE),
    "lcm": replace(ONE, sampler="lcm"),
    "euler": replace(ALL, sampler="euler", size=(80, 56), captions=""),
    "euler_linspace": replace(ALL, sampler="euler", spacing="linspace", size=(80, 56), captions=""),
    # steps that read the step before
    "dpmpp_2m": replace(ALL, sampler="dpmpp-2m", size=(80, 56), captions=""),
    # and those with fresh noise in every step
    "euler_a": replace(ALL, sampler="euler-a", size=(80, 56), captions=""),
    "dpmpp_2m_sde": replace(ALL, sampler="dpmpp-2m-sde", size=(80, 56), captions=""),
    # parts that are kept, with edges within cells; its first region touches nothing that is repainted
    "mask": replace(ALL, size=(110, 46), captions="", mask=True, color_fix="wavelet"),
    "mask_inverted": replace(
        ALL, size=(64, 50), captions="", mask=True, invert_mask=True, sampler="dpmpp-2m", guidance=2.0
    ),
    # another grid in each step
    "jitter": replace(ALL, jitter=True, overlap=0.25, captions="captions_quarter.json"),
    "jitter_mask": replace(
        ALL, size=(108, 34), captions="", jitter=True, overlap=0.25, mask=True, mask_feather=9, gsp=0.7, sampler="euler-a"
    ),
}


class Composer:
    """An attention processor for cross-attention, section 5, with the maps of section 4 as they are.

    While `recording`, keeps each layer's maps of the low-resolution pass and the values of the global
    prompt; with a `place` (top, left, height, width in shares of the picture), mixes them in.
    """

    def __init__(self, blend):
        self.blend, self.recording, self.place, self.shape = blend, False, None, None
        self.maps, self.values = {}, {}

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        q = heads(attn.to_q(hidden_states))
        k, v = (heads(to(encoder_hidden_states)) for to in (attn.to_k, attn.to_v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if attention_mask is not None:
            scores = scores + attention_mask.unsqueeze(1)
        scores = scores.softmax(-1)  # [1, heads, hw, M]
        stride = math.isqrt(self.shape[0] * self.shape[1] // scores.shape[2])
        height, width = (side // stride for side in self.shape)
        if self.recording:
            self.maps[attn] = scores.transpose(-1, -2).flatten(1, 2).unflatten(-1, (height, width))
            self.values[attn] = v
        mixed = self.project(attn, scores @ v)
        if self.place is None:
            return mixed
        top, left, tall, wide = self.place
        y = top + tall * (torch.arange(height, dtype=torch.float64) + 0.5) / height
        x = left + wide * (torch.arange(width, dtype=torch.float64) + 0.5) / width
        yy, xx = torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")
        cropped = F.grid_sample(
            self.maps[attn],
            torch.stack([xx, yy], dim=-1).unsqueeze(0),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        cropped = cropped.flatten(2).unflatten(1, (attn.heads, -1)).transpose(-1, -2)
        prior = self.project(attn, cropped @ self.values[attn])
        return (1 - self.blend) * mixed + self.blend * prior

    @staticmethod
    def project(attn, x):
        return attn.to_out[0](x.transpose(1, 2).flatten(2))


class Method:
    def __init__(self):
        def load(kind, part):
            return kind.from_pretrained(MODEL / part, torch_dtype=torch.float32).double().eval()

        self.vae, self.unet = load(AutoencoderTiny, "vae"), load(UNet2DConditionModel, "unet")
        self.scheduler = DDIMScheduler.from_pretrained(MODEL / "scheduler")
        self.betas = {key: self.scheduler.config[key] for key in ("beta_start", "beta_end", "beta_schedule")}
        self.text = StableDiffusionXLPipeline(
            vae=self.vae,
            unet=self.unet,
            scheduler=self.scheduler,
            text_encoder=load(CLIPTextModel, "text_encoder"),
            text_encoder_2=load(CLIPTextModelWithProjection, "text_encoder_2"),
            tokenizer=CLIPTokenizer.from_pretrained(MODEL / "tokenizer"),
            tokenizer_2=CLIPTokenizer.from_pretrained(MODEL / "tokenizer_2"),
        )
        self.factor = 2 ** (len(self.vae.config.encoder_block_out_channels) - 1)
        self.region = self.unet.config.sample_size
        self.stride = 2 ** (len(self.unet.config.block_out_channels) - 1)

    def walk(self, case):
        return Walk(case, self)

    def negative(self, text):
        """Condition of the negative half of a guided pair in diffusers."""
        _, context, _, pooled = self.text.encode_prompt(
            PROMPT, device="cpu", do_classifier_free_guidance=True, negative_prompt=text or None
        )
        return context, pooled

    def condition(self, text):
        context, _, pooled, _ = self.text.encode_prompt(
            text, device="cpu", do_classifier_free_guidance=False
        )
        return context, pooled

    def predict(self, z, low, t, condition, view):
        """One call of the UNet. `view` is what make_control_method_fixture.py needs besides: the step, the picture that z
        is a part of, and the part's top and left in latent pixels."""
        return self.unet(torch.cat([z, low], dim=1), t, **self.conditions(condition)).sample

    def conditions(self, condition):
        context, pooled = condition
        side = float(self.region * self.factor)
        ids = torch.tensor([[side, side, 0.0, 0.0, side, side]], dtype=torch.float64)
        added = {"text_embeds": pooled, "time_ids": ids}
        return {"encoder_hidden_states": context, "added_cond_kwargs": added}

    def encode(self, image, height, width):
        """Latents of `height` x `width` from a picture that reflection continues to their size."""
        f = self.factor
        image = continued(image, (0, height * f - image.shape[-2]), (0, width * f - image.shape[-1]))
        return self.vae.encode(2 * image - 1).latents * self.vae.config.scaling_factor

    def decode(self, z, image, fixed):
        """Pixels in -1..1 from latents, of the size of `image`; if `fixed`, with its low band (four levels of the a trous
        transform)."""
        pixels = self.vae.decode(z / self.vae.config.scaling_factor).sample
        pixels = pixels[..., : image.shape[-2], : image.shape[-1]]
        return given(pixels + a_trous(2 * image - 1 - pixels)) if fixed else pixels

    @torch.no_grad()
    def run(self, image, case):
        side, f = self.region, self.factor
        (width, height), (in_height, in_width) = case.size, image.shape[-2:]

        # Section 2.1: the resized picture on the canvas.
        canvas_h, canvas_w = (2 * math.ceil(math.ceil(n / f) / 2) for n in (height, width))
        resized = lanczos(image, width, height)
        low = self.encode(resized, canvas_h, canvas_w)

        # Section 2.2, and the low-resolution picture of section 4.
        shares = mask_shares(case, width, height) if case.mask else None
        if case.mask:
            cells = continued(shares, (0, canvas_h * f - height), (0, canvas_w * f - width))
            cells = F.avg_pool2d(cells, f)
        sampler = self.walk(case)
        timesteps = sampler.timesteps
        noise = noise_field(case.seed, *low.shape[1:]).double()
        z = sampler.diffused(low, noise, 0)
        aspect = math.sqrt(in_width / in_height)
        stride = self.stride
        small_h, small_w = (
            stride * max(1, math.floor(n / stride + 0.5)) for n in (side / aspect, side * aspect)
        )
        small_image = lanczos(image, small_w * f, small_h * f)
        small = self.encode(small_image, small_h, small_w)
        small_noise = noise_field(case.seed, *small.shape[1:], draw=1).double()

        overlap = math.floor(case.overlap * side + 0.5)
        ys, xs = starts(canvas_h, side, overlap), starts(canvas_w, side, overlap)
        weight = profile(side, overlap, case.fusion)
        weight = weight[:, None] * weight[None, :]
        texts = caption_document(ys, xs, case, side, f) if case.captions else None
        force = True if case.force_zeros is None else case.force_zeros
        self.text.register_to_config(force_zeros_for_empty_prompt=force)
        prompt, negative = self.condition(PROMPT), self.negative(case.negative)
        conditions = []
        for index in range(len(ys) * len(xs)):
            own = texts and texts["regions"][index]["caption"]
            own = self.condition(own) if own else prompt
            blended = (case.rsp * a + (1 - case.rsp) * b for a, b in zip(own, prompt))
            conditions.append(tuple(blended))

        # With guidance every call has a twin with the negative prompt, in the low-resolution pass too, and each
        # has its own maps (src/pipeline/stages/denoise.rs: the paper is silent).
        twins = (Composer(case.rap), Composer(case.rap)) if case.guidance > 1 else (Composer(case.rap),)
        own = self.unet.attn_processors
        assert sum(".attn2." in name for name in own) > 3
        for i, t in enumerate(timesteps):
            for composer, condition in zip(twins, (prompt, negative)):
                if case.rap > 0:
                    self.unet.set_attn_processor(
                        {name: composer if ".attn2." in name else kept for name, kept in own.items()}
                    )
                    composer.recording, composer.place, composer.shape = True, None, (small_h, small_w)
                    noised = sampler.diffused(small, small_noise, i)
                    self.predict(noised, small, t, condition, (i, small_image, (0, 0)))
                composer.recording, composer.shape = False, (side, side)

            # Section 2.3: every region, fused.
            total, weights = torch.zeros_like(z), torch.zeros_like(z)
            virtual_ys, virtual_xs = ys, xs
            if case.jitter:
                step = STEPS - RUN + i
                virtual_ys, virtual_xs = moved(ys, case.seed, step, 0), moved(xs, case.seed, step, 1)
            places = [(y, x) for y in virtual_ys for x in virtual_xs]
            for virtual_y, virtual_x in places:
                y, x = min(max(virtual_y, 0), ys[-1]), min(max(virtual_x, 0), xs[-1])
                condition = conditions[nearest(ys, y) * len(xs) + nearest(xs, x)]
                window = [
                    continued(canvas, (0, max(side - canvas_h, 0)), (0, max(side - canvas_w, 0)))[
                        ..., y : y + side, x : x + side
                    ]
                    for canvas in (z, low)
                ]
                outputs = []
                for composer, condition in zip(twins, (condition, negative)):
                    if case.rap > 0:
                        unit = (height / f, width / f)
                        composer.place = (y / unit[0], x / unit[1], side / unit[0], side / unit[1])
                    self.unet.set_attn_processor(
                        {name: composer if ".attn2." in name else kept for name, kept in own.items()}
                    )
                    outputs.append(self.predict(*window, t, condition, (i, resized, (y, x))))
                eps = outputs[0]
                if case.guidance > 1:
                    eps = outputs[1] + case.guidance * (outputs[0] - outputs[1])
                # The part of the canvas where the region would lie, in its own places and in those of its weights.
                top, left = max(virtual_y, 0), max(virtual_x, 0)
                h = min(virtual_y + side, canvas_h) - top
                w = min(virtual_x + side, canvas_w) - left
                own_weight = weight[top - virtual_y :, left - virtual_x :][:h, :w]
                total[..., top : top + h, left : left + w] += own_weight * eps[..., top - y :, left - x :][..., :h, :w]
                weights[..., top : top + h, left : left + w] += own_weight
            eps = total / weights

            weight_i = case.gsp * 0.5 * (1 + math.cos(math.pi * i / RUN))
            z = self.structure(z, eps, low, sampler.abar(i), weight_i)
            z = sampler.step(i, z, eps)
            if case.mask:
                kept = sampler.diffused(low, noise, i + 1) if i + 1 < RUN else low
                z = cells * z + (1 - cells) * kept
        self.unet.set_attn_processor(own)

        decoded = self.decode(z, resized, case.color_fix == "wavelet")
        if case.mask:
            source = 2 * resized - 1
            decoded = source + shares * (decoded.clamp(-1, 1) - source)
        result = (decoded[0] * 0.5 + 0.5).clamp(0, 1)
        return result.permute(1, 2, 0).float().contiguous(), texts

    @torch.enable_grad()
    def structure(self, z, eps, low, abar, weight):
        """Equations 4 and 5 by autograd; the factor 2η/ā of docs/method.md is the weight λ."""
        z = z.detach().requires_grad_()
        clean = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
        loss = (low_band(clean) - low_band(low)).square().sum()
        (gradient,) = torch.autograd.grad(loss, z)
        return (z - weight * abar / 2 * gradient).detach()


class Walk:
    """The last RUN of STEPS steps of diffusers' scheduler, from one state of the canvas to the next. The canvas is
    √ā·x0 + √(1−ā)·n for every sampler; Euler's own state is that over √ā."""

    def __init__(self, case, method):
        self.eta, self.seed = case.eta, case.seed
        self.scheduler = method.scheduler
        if case.sampler:
            self.scheduler = SCHEDULERS[case.sampler](
                **method.betas, timestep_spacing=case.spacing or "trailing"
            )
        self.scheduler.set_timesteps(STEPS)
        self.timesteps = self.scheduler.timesteps[STEPS - RUN :]
        if not isinstance(self.scheduler, DDIMScheduler):  # which counts nothing
            self.scheduler.set_begin_index(STEPS - RUN)

    def abar(self, i):
        if isinstance(self.scheduler, IN_SIGMA):
            return 1 / (1 + self.scheduler.sigmas[STEPS - RUN + i].double() ** 2)
        return self.scheduler.alphas_cumprod[self.timesteps[i]].double()

    def diffused(self, low, noise, i):
        return self.abar(i).sqrt() * low + (1 - self.abar(i)).sqrt() * noise

    def step(self, i, z, eps):
        # Each step's noise is the field of its own draw, counted over the whole schedule, after 0 and 1.
        fresh = noise_field(self.seed, *z.shape[1:], draw=2 + STEPS - RUN + i).double()
        t, arguments, module = self.timesteps[i], {}, "diffusers.schedulers.scheduling_"
        if isinstance(self.scheduler, IN_SIGMA):
            self.scheduler.scale_model_input(z, t)
            # `step` rounds the state to f32, and back to the prediction's f64 what it returns.
            with mock.patch(module + "euler_ancestral_discrete.randn_tensor", lambda *_, **__: fresh):
                x = self.scheduler.step(eps, t, z / self.abar(i).sqrt()).prev_sample
            return x / (1 + self.scheduler.sigmas[STEPS - RUN + i + 1].double() ** 2).sqrt()
        if isinstance(self.scheduler, DDIMScheduler):
            arguments = {"eta": self.eta or 0.0, "variance_noise": fresh if self.eta else None}
        elif isinstance(self.scheduler, TCDScheduler) and self.eta is not None:
            arguments = {"eta": self.eta}
        with (
            mock.patch(module + "tcd.randn_tensor", lambda *_, **__: fresh),
            mock.patch(module + "lcm.randn_tensor", lambda *_, **__: fresh),
            mock.patch(module + "dpmsolver_multistep.randn_tensor", lambda *_, **__: fresh),
        ):
            return self.scheduler.step(eps, t, z, **arguments).prev_sample


def low_band(x):
    """LL of one orthonormal Haar level: half the sum of each 2 x 2 block."""
    return (x[..., 0::2, 0::2] + x[..., 1::2, 0::2] + x[..., 0::2, 1::2] + x[..., 1::2, 1::2]) / 2


def lanczos(image, width, height):
    """[1, 3, h, w] in 0..1, resized by Pillow and clamped."""
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS))
        for plane in image[0].float().numpy()
    ]
    return torch.from_numpy(np.stack(planes)).double().clamp(0, 1).unsqueeze(0)


def mask_picture():
    """Black on the left, white on the right, and what lies between, in 8 bits: [h, w]."""
    y, x = np.mgrid[0:9, 0:21]
    ramp = np.clip((x - 11.5 + 2.0 * np.sin(y)) / 3.0, 0.0, 1.0)
    return (255.0 * ramp + 0.5).astype(np.uint8)


def mask_shares(case, width, height):
    """The share of the repaint in each pixel, [1, 1, H, W]."""
    plane = Image.fromarray(mask_picture().astype(np.float32) / 255.0)
    plane = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    shares = torch.from_numpy(plane.copy()).double().clamp(0, 1)[None, None]
    if case.invert_mask:
        shares = 1 - shares
    if radius := case.mask_feather:
        tent = radius + 1 - torch.arange(-radius, radius + 1, dtype=torch.float64).abs()
        tent = tent / tent.sum()
        shares = F.pad(shares, (radius,) * 4, mode="replicate")
        shares = F.conv2d(F.conv2d(shares, tent.view(1, 1, 1, -1)), tent.view(1, 1, -1, 1))
    return shares


def continued(x, rows, columns):
    """Continued by reflection that does not repeat the edge, by (before, after) pixels."""
    for axis, (before, after) in ((-2, rows), (-1, columns)):
        n = x.shape[axis]
        index = torch.arange(-before, n + after).abs() % max(2 * (n - 1), 1)
        x = x.index_select(axis, torch.minimum(index, (2 * (n - 1) - index).abs()))
    return x


def a_trous(x, levels=4):
    """Convolved with [1, 2, 1]/4 dilated by 1, 2, 4, ... along both axes, mirrored at the border: c b a | a b c."""
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    channels = x.shape[1]
    for level in range(levels):
        step = 2**level
        for axis, shape, dilation in ((-1, (1, 3), (1, step)), (-2, (3, 1), (step, 1))):
            n = x.shape[axis]
            index = torch.arange(-step, n + step) % (2 * n)
            mirrored = x.index_select(axis, torch.minimum(index, 2 * n - 1 - index))
            weight = kernel.view(1, 1, *shape).expand(channels, 1, *shape)
            x = F.conv2d(mirrored, weight, dilation=dilation, groups=channels)
    return x


def given(x):
    """Cut to -1..1, and what is cut given to what lies around, by its room."""
    out = x.clamp(-1, 1)
    sum_given = torch.zeros_like(x)
    for sign in (1, -1):
        lost, room = (sign * x - 1).clamp(min=0), 1 - sign * out
        rooms = a_trous(room, 2)
        share = torch.where(lost < rooms, lost / rooms.clamp(min=1e-300), (lost > 0).to(x.dtype))
        sum_given += sign * room * a_trous(share, 2)
    return (out + sum_given).clamp(-1, 1)


def starts(length, side, overlap):
    if length <= side:
        return [0]
    n = math.ceil((length - overlap) / (side - overlap))
    return [2 * math.floor(i * (length - side) / (n - 1) / 2 + 0.5) for i in range(n)]


def moved(fixed, seed, step, axis):
    """Starts along one axis in this step, which may lie outside of the canvas."""
    nearest_two = min((b - a for a, b in zip(fixed, fixed[1:])), default=0)
    count = max(nearest_two // 2 * 2 - 2, 0) // 2
    if count == 0:
        return fixed
    distance = 2 + 2 * ((philox_word(seed, (0xFFFFFFFF, axis, step, 0)) * count) >> 32)
    return [start - distance for start in [*fixed, 2 * fixed[-1] - fixed[-2]]]


def philox_word(seed, counter):
    """The first word of Philox4x32-10."""
    low, (c0, c1, c2, c3), key = 0xFFFFFFFF, counter, [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ key[0], p1 & low, (p0 >> 32) ^ c3 ^ key[1], p0 & low
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return c0


def nearest(fixed, start):
    return min(range(len(fixed)), key=lambda index: abs(fixed[index] - start))


def profile(side, overlap, fusion):
    """One axis of a region's weights: 1, or a raised cosine over the overlap."""
    distance = torch.arange(side, dtype=torch.float64)
    distance = torch.minimum(distance, side - 1 - distance)
    ramp = min(overlap, side // 2)
    if fusion == "average" or ramp == 0:
        return torch.ones(side, dtype=torch.float64)
    rising = 0.5 - 0.5 * torch.cos(math.pi * (distance + 0.5) / ramp)
    return torch.where(distance < ramp, rising, 1.0)


def caption_document(ys, xs, case, side, f):
    """The captions file of a job (src/caption/document.rs), with the captions in turn."""
    width, height = case.size
    regions = []
    for row, y in enumerate(ys):
        for col, x in enumerate(xs):
            x0, y0 = x * f, y * f
            span = {"width": min(side * f, width - x0), "height": min(side * f, height - y0)}
            regions.append({"row": row, "col": col, "x": x0, "y": y0, **span})
            regions[-1]["caption"] = CAPTIONS[len(regions) - 1]
    grid = {"rows": len(ys), "cols": len(xs), "region": side * f}
    grid |= {"overlap": math.floor(case.overlap * side + 0.5) * f, "width": width, "height": height}
    return {"version": 1, "grid": grid, "captioner": "person", "prompt": PROMPT, "regions": regions}


def write_png(path, image):
    """[H, W, 3] of 16-bit values; Pillow has no such mode."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = image.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in image)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def input_picture():
    """The picture that jobs enlarge: [1, 3, HEIGHT, WIDTH] in 0..1, of 16-bit values."""
    image = (picture(HEIGHT, WIDTH, torch.Generator().manual_seed(7)).double() + 1) / 2
    return (image * 65535).round() / 65535


def write_picture(path, image):
    write_png(path, (image * 65535).round()[0].permute(1, 2, 0).numpy().astype(np.uint16))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def repainted(case):
    return (mask_shares(case, *case.size) > 0).double().mean().item()


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    image = input_picture()
    write_picture(AREA / "in.png", image)
    Image.fromarray(mask_picture()).save(AREA / "mask.png", optimize=True)

    method, expected, cases = Method(), {}, {}
    for name, case in CASES.items():
        expected[name], texts = method.run(image, case)
        assert expected[name].isfinite().all()
        cases[name] = {"options": case.options(), "force_zeros": case.force_zeros}
        if texts:
            write_json(AREA / case.captions, texts)
    # A case proves something only where what it changes leaves a mark, and where the picture is not all
    # clamped (the random VAE has a high contrast).
    for name, reference in expected.items():
        inside = ((reference > 0) & (reference < 1)).double().mean().item()
        assert inside > 0.2, (name, inside)
        assert not CASES[name].mask or 0.02 < repainted(CASES[name]) < 0.9, name
        if name != "all" and reference.shape == expected["all"].shape:
            assert (reference - expected["all"]).abs().max() > 0.1, name
    files = {name: "jittered" if case.jitter else "masked" if case.mask else "expected" for name, case in CASES.items()}
    for file in sorted(set(files.values())):
        save_file({name: picture for name, picture in expected.items() if files[name] == file}, AREA / f"{file}.safetensors")
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
