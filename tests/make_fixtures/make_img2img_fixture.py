"""Makes tests/fixtures/img2img: a tiny SDXL-shaped model with random weights in diffusers layout, and
a whole img2img of one region computed with diffusers' modules (docs/method.md, section 2).

    python tests/make_fixtures/make_img2img_fixture.py

The UNet sees the noisy latent and the low-resolution latent side by side, the schedule is DDIM with
trailing spacing, the last 4 of 8 steps are run, there is no guidance, and no prior. `wide` is a
region of 32 x 48 pixels, `square` one of the model's native 48 x 48. The picture holds 16-bit values
and the noise is the program's own counter-based field (docs/method.md, section 2, written here once more),
so that the whole program can be held against the result. Per region, channels-last:
`image` [H, W, 3], `zL`, `n` [h, w, C], `z` [5, h, w, C] (the start, then after each step), `eps`
[4, h, w, C], `decoded` [H, W, 3]; and `context`, `pooled`, `time_ids`, `timesteps`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from make_text_fixtures import clip_vocabulary, randomize, tokenizer_configs, write_json, write_tokenizer

AREA = Path(__file__).resolve().parent.parent / "fixtures" / "img2img"
PROMPT = "a photo of the old harbour at dusk, blue sky!"
STEPS, DENOISE_STEPS = 8, 4
REGIONS = {"wide": (32, 48), "square": (48, 48)}
INDEX = {
    "_class_name": "StableDiffusionXLInstructPix2PixPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}


def build():
    """The models with their weights rounded to f16, as they are stored, but computing in f32."""
    size = len(clip_vocabulary()[0])
    text = {
        "vocab_size": size,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
    }
    models = {
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(**text, hidden_size=8, intermediate_size=16, projection_dim=8)
        ),
        "text_encoder_2": CLIPTextModelWithProjection(
            CLIPTextConfig(
                **text, hidden_size=12, intermediate_size=24, projection_dim=10, hidden_act="gelu"
            )
        ),
        "vae": AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(0, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=4,
            scaling_factor=1.25,
        ),
        "unet": UNet2DConditionModel(
            sample_size=12,
            in_channels=8,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=[1, 2],
            attention_head_dim=[1, 2],
            cross_attention_dim=20,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=58,
        ),
    }
    for seed, model in enumerate(models.values()):
        generator = torch.Generator().manual_seed(100 + seed)
        randomize(model, generator)
        if not isinstance(model, (CLIPTextModel, CLIPTextModelWithProjection)):
            # Convolutions' fan-in counts their taps.
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 4:
                        parameter.div_(parameter[0, 0].numel() ** 0.5)
        model.half().float().eval()
    return models


def save(models, scheduler):
    folder = AREA / "model"
    write_json(folder / "model_index.json", INDEX)
    for name, model in {**models, "scheduler": scheduler}.items():
        if name != "scheduler":
            model.half()
        model.save_pretrained(folder / name)
        if name != "scheduler":
            model.float()
        for path in (folder / name).glob("*config.json"):
            config = json.loads(path.read_text())
            # The list of defaults is a set: its order changes from run to run.
            config.pop("_use_default_values", None)
            path.write_text(json.dumps(config, indent=2) + "\n")
    configs = tokenizer_configs(clip_vocabulary()[0])
    write_tokenizer(folder / "tokenizer", *configs["first"])
    write_tokenizer(folder / "tokenizer_2", *configs["second"])
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(
        folder / "tokenizer_2"
    )


def noise_field(seed, channels, height, width, draw=0):
    """Philox4x32-10 keyed by the seed, counted by (draw, c, y, x), and Box-Muller: [1, C, h, w]."""
    c, y, x = np.meshgrid(
        *(np.arange(n, dtype=np.uint64) for n in (channels, height, width)), indexing="ij"
    )
    counter = [np.full_like(c, draw), c, y, x]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        counter = [
            (p1 >> shift) ^ counter[1] ^ np.uint64(key[0]),
            p1 & low,
            (p0 >> shift) ^ counter[3] ^ np.uint64(key[1]),
            p0 & low,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    u1, u2 = ((word.astype(np.float64) + 0.5) / 2.0**32 for word in counter[:2])
    normal = np.sqrt(-2.0 * np.log(u1)) * np.cos(2.0 * np.pi * u2)
    return torch.from_numpy(normal.astype(np.float32)).unsqueeze(0)


def picture(height, width, generator):
    """Smooth shapes and some noise, in -1..1, in steps of 16 bits."""
    y = torch.linspace(0, 1, height).view(1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, -1)
    phase = torch.tensor([0.0, 2.0, 4.0]).view(3, 1, 1)
    smooth = torch.sin(7 * x + 4 * y * y + phase) * torch.cos(3 * y - 5 * x * y)
    noise = torch.randn((3, height, width), generator=generator)
    fine = (0.8 * smooth + 0.1 * noise).clamp(-1, 1).unsqueeze(0)
    return ((fine + 1) / 2 * 65535).round() / 65535 * 2 - 1


@torch.no_grad()
def img2img(models, scheduler, context, pooled, size, seed):
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    vae, unet = models["vae"], models["unet"]
    image = picture(height, width, generator)
    low = vae.encode(image).latents * vae.config.scaling_factor
    noise = noise_field(seed, *low.shape[1:])
    # original size, crop, target size: the region is a photo of its own
    time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps[STEPS - DENOISE_STEPS :]
    z = scheduler.add_noise(low, noise, timesteps[:1])
    trace, predictions = [z], []
    for t in timesteps:
        eps = unet(
            torch.cat([z, low], dim=1),
            t,
            encoder_hidden_states=context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample
        z = scheduler.step(eps, t, z, eta=0.0).prev_sample
        predictions.append(eps)
        trace.append(z)
    decoded = vae.decode(z / vae.config.scaling_factor).sample

    def last(x):
        return x.permute(0, 2, 3, 1).contiguous()

    return {
        "image": last(image)[0].contiguous(),
        "zL": last(low)[0].contiguous(),
        "n": last(noise)[0].contiguous(),
        "z": last(torch.cat(trace)),
        "eps": last(torch.cat(predictions)),
        "decoded": last(decoded)[0].contiguous(),
        "context": context.contiguous(),
        "pooled": pooled.contiguous(),
        "time_ids": time_ids,
        "timesteps": timesteps.to(torch.int64),
    }


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    shutil.rmtree(AREA, ignore_errors=True)
    models = build()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    first, second = save(models, scheduler)
    pipeline = StableDiffusionXLPipeline(
        vae=models["vae"],
        unet=models["unet"],
        scheduler=scheduler,
        text_encoder=models["text_encoder"],
        text_encoder_2=models["text_encoder_2"],
        tokenizer=first,
        tokenizer_2=second,
    )
    context, _, pooled, _ = pipeline.encode_prompt(
        PROMPT, device="cpu", do_classifier_free_guidance=False
    )
    for seed, (name, size) in enumerate(REGIONS.items()):
        expected = img2img(models, scheduler, context, pooled, size, seed)
        save_file(expected, AREA / f"expected_{name}.safetensors")
    settings = {
        "prompt": PROMPT,
        "steps": STEPS,
        "denoise_steps": DENOISE_STEPS,
        "guidance": 0.0,
        "regions": REGIONS,
    }
    write_json(AREA / "settings.json", settings)


if __name__ == "__main__":
    main()
