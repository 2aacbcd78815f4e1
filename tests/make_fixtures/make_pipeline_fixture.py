"""Makes tests/fixtures/pipeline: two tiny random models with an AutoencoderKL, SDXL's and SD 1.5's shape, and what
diffusers' own img2img pipelines make of a picture with them.

    python tests/make_fixtures/make_pipeline_fixture.py

The picture has the models' native size, so that the program has one region and one VAE tile; without priors and
colour fix its job is the pipeline's. Two draws are replaced in diffusers: the noise is the program's counter-based field
(docs/method.md, section 2), and the posterior's is its mean (section 8). Nothing else is.

Each model's folder holds what differs from tests/fixtures/img2img/model, whose text encoders, tokenizers and scheduler
it takes. Written beside them: `in.png` (16-bit RGB), `cases.json` (model and command-line options),
`expected.safetensors` (each case's picture, [H, W, 3] in 0..1).
"""

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from make_img2img_fixture import noise_field, picture
from make_method_fixture import write_json, write_png
from make_vae_fixtures import randomize

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
AREA, SHARED = FIXTURES / "pipeline", FIXTURES / "img2img" / "model"
SIDE, STEPS, RUN, SEED = 48, 8, 4, 11
PROMPT, NEGATIVE = "a photo of the old harbour at dusk, blue sky!", "a wet wall"
PARTS = {
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
SECOND = {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
MODELS = {
    "sdxl": {"_class_name": "StableDiffusionXLPipeline", **PARTS, **SECOND},
    "sd15": {"_class_name": "StableDiffusionPipeline", **PARTS},
}
CASES = {
    "sdxl": ("sdxl", "ddim", 0.0),
    "sdxl_guided": ("sdxl", "euler", 4.0),
    "sd15": ("sd15", "euler", 0.0),
    "sd15_guided": ("sd15", "ddim", 4.0),
}


def build(name):
    """VAE and UNet with weights that f16 holds, computing in f32."""
    sdxl = name == "sdxl"
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.5,
    )
    added = {
        "transformer_layers_per_block": [1, 2],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 58,
    }
    unet = UNet2DConditionModel(
        sample_size=12,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=[1, 2],
        cross_attention_dim=20 if sdxl else 8,
        norm_num_groups=4,
        **(added if sdxl else {}),
    )
    folder = AREA / name
    write_json_in(folder / "model_index.json", MODELS[name])
    for seed, (part, model) in enumerate({"vae": vae, "unet": unet}.items()):
        randomize(model, torch.Generator().manual_seed(40 + seed + 2 * sdxl))
        model.half().eval().save_pretrained(folder / part)
        model.float()
        path = folder / part / "config.json"
        config = json.loads(path.read_text())
        # The list of defaults is a set: its order changes from run to run.
        config.pop("_use_default_values", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    return vae, unet


def write_json_in(path, value):
    path.parent.mkdir(parents=True)
    write_json(path, value)


def pipeline(name, vae, unet):
    def load(kind, part):
        return kind.from_pretrained(SHARED / part, torch_dtype=torch.float32).eval()

    parts = {
        "vae": vae,
        "unet": unet,
        "scheduler": DDIMScheduler.from_pretrained(SHARED / "scheduler"),
        "text_encoder": load(CLIPTextModel, "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(SHARED / "tokenizer"),
    }
    if name == "sdxl":
        parts["text_encoder_2"] = load(CLIPTextModelWithProjection, "text_encoder_2")
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(SHARED / "tokenizer_2")
        return StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    return StableDiffusionImg2ImgPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def run(pipe, image, sampler, guidance):
    """[H, W, 3] in 0..1."""
    if sampler == "euler":
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    else:
        pipe.scheduler = DDIMScheduler.from_pretrained(SHARED / "scheduler")
    pipe.set_progress_bar_config(disable=True)
    noise = lambda shape, **_: noise_field(SEED, *shape[1:])
    no_noise = lambda shape, **_: torch.zeros(shape)
    with (
        mock.patch(f"{type(pipe).__module__}.randn_tensor", noise),
        mock.patch("diffusers.models.autoencoders.vae.randn_tensor", no_noise),
    ):
        output = pipe(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            image=image,
            strength=RUN / STEPS,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="pt",
        )
    return output.images[0].permute(1, 2, 0).contiguous()


def options(sampler, guidance):
    text = f"--scale 1 --steps {STEPS} --denoise-steps {RUN} --seed {SEED} --sampler {sampler}"
    chosen = text.split() + ["--prompt", PROMPT]
    return chosen + (["--guidance", str(guidance), "--negative-prompt", NEGATIVE] if guidance else [])


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    shutil.rmtree(AREA, ignore_errors=True)
    pipes = {name: pipeline(name, *build(name)) for name in MODELS}
    image = (picture(SIDE, SIDE, torch.Generator().manual_seed(SEED)) + 1) / 2
    samples = (image.double() * 65535).round()
    write_png(AREA / "in.png", samples[0].permute(1, 2, 0).numpy().astype(np.uint16))
    image = (samples / 65535).float()
    expected = {
        case: run(pipes[model], image, sampler, guidance)
        for case, (model, sampler, guidance) in CASES.items()
    }
    for case, result in expected.items():
        # Pixels that are clamped prove nothing.
        inside = ((result > 0) & (result < 1)).double().mean().item()
        assert inside > 0.5, (case, inside)
    save_file(expected, AREA / "expected.safetensors")
    write_json(
        AREA / "cases.json",
        {case: {"model": model, "options": options(*rest)} for case, (model, *rest) in CASES.items()},
    )


if __name__ == "__main__":
    main()
