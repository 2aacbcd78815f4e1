"""Makes tests/fixtures/generate: what diffusers' own text-to-image pipelines make of a prompt with the small random models
of tests/fixtures/pipeline (SDXL and Stable Diffusion 1.5), pixart_job and sd3.

    pip install sentencepiece protobuf
    python tests/make_fixtures/make_generate_fixture.py

The initial noise is the program's counter-based field (docs/method.md, section 2), handed to the pipelines as their
latents; so is the fresh noise of a sampler that has any, field 2 + the step's place. Nothing else is replaced.

Written: `cases.json` (each case's model, size, sampler, steps, guidance), `latents.safetensors` (each case's latent,
[h, w, C], as it is outside of the VAE) and `pictures.safetensors` ([H, W, 3] in 0..1).
"""

import itertools
import json
from pathlib import Path
from unittest import mock

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from make_img2img_fixture import noise_field
from make_method_fixture import write_json

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
AREA, MODELS, SHARED = FIXTURES / "generate", FIXTURES / "pipeline", FIXTURES / "img2img" / "model"
SEED = 5
PROMPT, NEGATIVE = "a photo of the old harbour at dusk, blue sky!", "a wet wall"
PIXART, SD3, TEXTS = FIXTURES / "pixart_job" / "model", FIXTURES / "sd3" / "model", FIXTURES / "t5" / "pipelines"
SAMPLERS = {
    "flow-euler": FlowMatchEulerDiscreteScheduler,
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
    "pixart_native_guided": ("pixart", 48, 48, "dpmpp-2m", "linspace", 8, 4.5),
    "pixart_wide": ("pixart", 64, 40, "dpmpp-2m", "linspace", 20, 1.0),
    "sd3_native_guided": ("sd3", 48, 48, "flow-euler", None, 8, 3.5),
    "sd3_wide": ("sd3", 64, 40, "flow-euler", None, 28, 1.0),
    "sd3_few": ("sd3", 32, 56, "flow-euler", None, 4, 1.0),
}


def load(kind, folder, part):
    return kind.from_pretrained(folder / part, torch_dtype=torch.float32).eval()


def pixart():
    pipe = PixArtAlphaPipeline(
        vae=load(AutoencoderTiny, SHARED, "vae"),
        transformer=load(PixArtTransformer2DModel, PIXART, "transformer"),
        scheduler=DPMSolverMultistepScheduler.from_pretrained(PIXART / "scheduler"),
        text_encoder=load(T5EncoderModel, PIXART, "text_encoder"),
        tokenizer=T5Tokenizer.from_pretrained(FIXTURES / "t5" / "json"),
    )
    # The pipeline tells a model of this native size alone how large the picture is.
    pipe.transformer.register_to_config(sample_size=128)
    return pipe


def sd3():
    return StableDiffusion3Pipeline(
        transformer=load(SD3Transformer2DModel, SD3, "transformer"),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(SD3 / "scheduler"),
        vae=load(AutoencoderKL, SD3, "vae"),
        text_encoder=load(CLIPTextModelWithProjection, TEXTS, "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(SHARED / "tokenizer"),
        text_encoder_2=load(CLIPTextModelWithProjection, TEXTS, "text_encoder_2"),
        tokenizer_2=CLIPTokenizer.from_pretrained(SHARED / "tokenizer_2"),
        text_encoder_3=load(T5EncoderModel, TEXTS, "text_encoder_3"),
        tokenizer_3=T5Tokenizer.from_pretrained(FIXTURES / "t5" / "json"),
    )


def pipeline(name):
    if name in ("pixart", "sd3"):
        return {"pixart": pixart, "sd3": sd3}[name]()
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
    config = {**pipe.scheduler.config} | ({"timestep_spacing": spacing} if spacing else {})
    pipe.scheduler = SAMPLERS[sampler].from_config(config)
    pipe.set_progress_bar_config(disable=True)
    channels = (pipe.unet if hasattr(pipe, "unet") else pipe.transformer).config.in_channels
    shape = (channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    # PixArt's would lead to the nearest of its own sizes, and rewrite the prompt.
    more = dict(use_resolution_binning=False, clean_caption=False) if name == "pixart" else {}
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
            **more,
        ).images
    config = pipe.vae.config
    shift = config.get("shift_factor") or 0.0
    pixels = pipe.vae.decode(latents / config.scaling_factor + shift).sample
    picture = (pixels / 2 + 0.5).clamp(0, 1)
    return [tensor[0].permute(1, 2, 0).contiguous() for tensor in (latents, picture)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    latents, pictures, about = {}, {}, {}
    for name, case in CASES.items():
        latents[name], pictures[name] = run(*case)
        inside = ((pictures[name] > 0) & (pictures[name] < 1)).double().mean().item()
        # Pixels that are clamped prove nothing, but latents are compared as well.
        print(name, "inside", round(inside, 3), "latents up to", round(latents[name].abs().max().item(), 2))
        assert torch.isfinite(latents[name]).all() and pictures[name].std() > 0.02, name
        model, width, height, sampler, spacing, steps, guidance = case
        about[name] = dict(
            model=model, size=[width, height], sampler=sampler, spacing=spacing, steps=steps, guidance=guidance
        )
    save_file(latents, AREA / "latents.safetensors")
    save_file(pictures, AREA / "pictures.safetensors")
    write_json(AREA / "cases.json", {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "cases": about})
