"""Makes tests/fixtures/generate: what diffusers' own text-to-image pipelines make of a prompt with the small random models
of tests/fixtures/pipeline.

    python tests/make_fixtures/make_generate_fixture.py

The initial noise is the program's counter-based field (docs/method.md, section 2), handed to the pipelines as their
latents; so is the fresh noise of a sampler that has any, field 2 + the step's place. Nothing else is replaced.

Written: `cases.json` (each case's model, size, sampler, steps, guidance), `expected.safetensors` (each case's latent,
[h, w, C], as the VAE's outside has it, and picture, [H, W, 3] in 0..1).
"""

import itertools
import json
from pathlib import Path
from unittest import mock

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from make_img2img_fixture import noise_field
from make_method_fixture import write_json

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
AREA, MODELS, SHARED = FIXTURES / "generate", FIXTURES / "pipeline", FIXTURES / "img2img" / "model"
SEED = 5
PROMPT, NEGATIVE = "a photo of the old harbour at dusk, blue sky!", "a wet wall"
SAMPLERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "lcm": LCMScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
}
# Model, width and height, sampler, spacing of its timesteps, steps, guidance.
CASES = {
    "sdxl_native": ("sdxl", 48, 48, "ddim", "trailing", 8, 1.0),
    "sdxl_wide_guided": ("sdxl", 64, 40, "euler", "trailing", 6, 4.0),
    "sdxl_leading": ("sdxl", 40, 56, "euler", "leading", 5, 1.0),
    "sdxl_fresh_noise": ("sdxl", 48, 32, "lcm", "trailing", 4, 1.0),
    "sd15_native_guided": ("sd15", 48, 48, "dpmpp-2m", "trailing", 8, 4.0),
    "sd15_tall": ("sd15", 32, 64, "dpmpp-2m", "linspace", 16, 1.0),
}


def pipeline(name):
    def load(kind, folder, part):
        return kind.from_pretrained(folder / part, torch_dtype=torch.float32).eval()

    parts = {
        "vae": load(AutoencoderKL, MODELS / name, "vae"),
        "unet": load(UNet2DConditionModel, MODELS / name, "unet"),
        "scheduler": DDIMScheduler.from_pretrained(SHARED / "scheduler"),
        "text_encoder": load(CLIPTextModel, SHARED, "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(SHARED / "tokenizer"),
    }
    if name == "sdxl":
        parts["text_encoder_2"] = load(CLIPTextModelWithProjection, SHARED, "text_encoder_2")
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(SHARED / "tokenizer_2")
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@torch.no_grad()
def run(name, width, height, sampler, spacing, steps, guidance):
    """Latent [h, w, C] and picture [H, W, 3]."""
    pipe = pipeline(name)
    config = {**pipe.scheduler.config, "timestep_spacing": spacing}
    pipe.scheduler = SAMPLERS[sampler].from_config(config)
    pipe.set_progress_bar_config(disable=True)
    shape = (pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    step = itertools.count()
    fresh = lambda size, **_: noise_field(SEED, *size[1:], draw=2 + next(step))
    with mock.patch("diffusers.schedulers.scheduling_lcm.randn_tensor", fresh):
        latents = pipe(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise_field(SEED, *shape),
            output_type="latent",
        ).images
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    picture = (pixels / 2 + 0.5).clamp(0, 1)
    return [tensor[0].permute(1, 2, 0).contiguous() for tensor in (latents, picture)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    expected, about = {}, {}
    for name, case in CASES.items():
        latent, picture = run(*case)
        assert torch.isfinite(latent).all() and picture.std() > 0.02, name
        expected |= {f"{name}.latent": latent, f"{name}.picture": picture}
        model, width, height, sampler, spacing, steps, guidance = case
        about[name] = dict(
            model=model, size=[width, height], sampler=sampler, spacing=spacing, steps=steps, guidance=guidance
        )
    save_file(expected, AREA / "expected.safetensors")
    write_json(AREA / "cases.json", {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "cases": about})
