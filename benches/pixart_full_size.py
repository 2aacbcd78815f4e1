"""PixArt-α 1024 at full size, with random weights made on the spot: one region of 1024 x 1024 pixels by this program and by
PyTorch (diffusers), in one run, and the memory that the plan says.

    pip install -r models/train/requirements.txt sentencepiece protobuf && cargo build --release
    python benches/pixart_full_size.py --work /path/with/10-GB

Random weights compute the same products as trained ones. T5 has one of its 24 layers, because text is encoded before the
transformer is loaded and is no matter of this bench. Prints Markdown: seconds and peak memory of a job of two steps from
picture to picture, and what `plan` says. Jobs are processes of their own.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from full_size import measured
from memory import estimate, picture
from turns import ROOT

SIDE, STEPS = 1024, 20
PROMPT = "a harbour at dusk"
# PixArt-alpha/PixArt-XL-2-1024-MS.
TRANSFORMER = dict(sample_size=128, caption_channels=4096, num_layers=28)
SCHEDULER = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", timestep_spacing="linspace")
INDEX = {
    "_class_name": "PixArtAlphaPipeline",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def make_model(folder, layers):
    """The model in diffusers' layout, in f16; kept if it is there."""
    if (folder / "model_index.json").exists():
        return
    import torch
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    levels = 4
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4, scaling_factor=0.18215)
    text = T5Config(vocab_size=1000, d_model=4096, d_kv=64, d_ff=10240, num_layers=1, num_heads=64,
                    feed_forward_proj="gated-gelu")
    parts = {
        "transformer": PixArtTransformer2DModel(**{**TRANSFORMER, "num_layers": layers}),
        "vae": vae,
        "text_encoder": T5EncoderModel(text),
    }
    for name, part in parts.items():
        part.half().save_pretrained(folder / name)
    DPMSolverMultistepScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    shutil.copytree(ROOT / "tests/fixtures/t5/json", folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(INDEX))


def make_tiny_vae(folder):
    """An AutoencoderTiny, with which the transformer is what counts."""
    if not folder.exists():
        import torch
        from diffusers import AutoencoderTiny

        torch.manual_seed(0)
        AutoencoderTiny().half().save_pretrained(folder)


def torch_job(model, source, target, run, tiny):
    """Image to image as this program does it: diffusers has no such pipeline for PixArt."""
    import numpy as np
    import torch
    from diffusers import AutoencoderTiny, PixArtAlphaPipeline
    from PIL import Image

    other = {"vae": AutoencoderTiny.from_pretrained(tiny)} if tiny else {}
    pipe = PixArtAlphaPipeline.from_pretrained(model, torch_dtype=torch.float32, **other)
    with torch.inference_mode():
        context, mask, _, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False, device="cpu")
        pixels = torch.from_numpy(np.asarray(Image.open(source))).permute(2, 0, 1)[None] / 127.5 - 1
        encoded = pipe.vae.encode(pixels)
        z = (encoded.latents if tiny else encoded.latent_dist.mean) * pipe.vae.config.scaling_factor
        pipe.scheduler.set_timesteps(STEPS)
        steps = pipe.scheduler.timesteps[-run:]
        pipe.scheduler.set_begin_index(STEPS - run)
        z = pipe.scheduler.add_noise(z, torch.randn(z.shape, generator=torch.Generator().manual_seed(0)), steps[:1])
        sizes = dict(resolution=torch.tensor([[SIDE, SIDE]]).float(), aspect_ratio=torch.ones(1, 1))
        started = time.perf_counter()
        for t in steps:
            output = pipe.transformer(z, timestep=t[None], encoder_hidden_states=context, encoder_attention_mask=mask,
                                      added_cond_kwargs=sizes).sample
            z = pipe.scheduler.step(output.chunk(2, dim=1)[0], t, z).prev_sample
        steps_s = time.perf_counter() - started
        decoded = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    result = ((decoded[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(result).save(target)
    print(json.dumps({"steps_s": steps_s}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="holds the random model")
    parser.add_argument("--layers", type=int, default=28, help="of the transformer; fewer for a try")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--program", type=pathlib.Path, default=target / "release/cupscale-fast")
    parser.add_argument("--steps", type=int, default=2, help="that run")
    parser.add_argument("--tiny-vae", action="store_true", help="an AutoencoderTiny in the place of the model's own")
    parser.add_argument("--role", choices=["torch"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work.resolve()
    model, source, quantized = work / "pixart-random", work / "in.png", work / "pixart-q8_0.gguf"
    tiny = work / "taesd" if args.tiny_vae else None
    if args.role == "torch":
        return torch_job(model, source, work / "torch.png", args.steps, tiny)
    work.mkdir(parents=True, exist_ok=True)
    if tiny:
        make_tiny_vae(tiny)
    make_model(model, args.layers)
    picture(SIDE).save(source)
    if not quantized.exists():
        command = [args.program, "models", "quantize", model, "-o", quantized, "--type", "q8_0"]
        subprocess.run(command, check=True)
    ours = [args.program, source, "--scale", "1", "--steps", STEPS, "--denoise-steps", args.steps, "--rap", "0",
            "--guidance", "1", "--captioner", "none", "--color-fix", "none", "--gsp", "0", "--prompt", PROMPT, "--fresh"]
    if tiny:
        ours += ["--vae", tiny]
    print(f"| one {SIDE}² region, steps: {args.steps} | seconds (of all threads) | peak memory | planned | ratio |\n|---|---|---|---|---|",
          flush=True)
    result = measured([sys.executable, __file__, "--work", work, "--role", "torch",
                       "--steps", args.steps, *(["--tiny-vae"] if tiny else [])])
    print(f"| diffusers (PyTorch), f32 (steps alone {result['steps_s']:.0f} s) | {result['seconds']:.0f} ({result['all_threads']:.0f}) "
          f"| {result['peak']:.2f} GiB | | |", flush=True)
    for name, path in (("f16 folder", model), ("q8_0 GGUF", quantized)):
        command = [*map(str, ours), "--model", str(path), "-o", str(work / "out.png")]
        planned = estimate(command) / 1024
        result = measured([*command, "--quiet"])
        print(f"| cupscale-fast, {name} | {result['seconds']:.0f} ({result['all_threads']:.0f}) "
              f"| {result['peak']:.2f} GiB | {planned:.2f} GiB "
              f"| {planned / result['peak']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
