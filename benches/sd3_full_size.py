"""One region of Stable Diffusion 3.5 medium at full size, with random weights made on the spot: this program beside
diffusers.

    pip install -r models/train/requirements.txt gguf && cargo build --release
    python benches/sd3_full_size.py --work /path/with/5-GB
    python benches/sd3_full_size.py --work DIR --only ours --program target/release/cupscale-fast

The model is one GGUF file as `models quantize` writes it: transformer and text encoders of CLIP in q8_0, the autoencoder in
f16, without T5, which is optional (4.1 GB). Random weights compute the same products as trained ones, so times and memory
are those of the real model; only the picture means nothing. Prints Markdown: seconds and peak memory of one region
(1024 x 1024) and one step of four without guidance, from picture to picture; beside our peak the one that was planned.
"""

import argparse
import gzip
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from full_size import measured
from turns import ROOT

SIDE = 1024
TRANSFORMER = dict(
    sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
    joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
    pos_embed_max_size=384, dual_attention_layers=list(range(13)), qk_norm="rms_norm",
)
VAE = dict(
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=16, scaling_factor=1.5305,
    shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
)
CLIP_L = dict(
    vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    max_position_embeddings=77, projection_dim=768, hidden_act="quick_gelu", eos_token_id=49407,
)
CLIP_G = dict(
    vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
    max_position_embeddings=77, projection_dim=1280, hidden_act="gelu", eos_token_id=49407,
)
CLIP_CLASS = "CLIPTextModelWithProjection"
CONFIGS = {
    "transformer": ("SD3Transformer2DModel", TRANSFORMER), "vae": ("AutoencoderKL", VAE),
    "text_encoder": (CLIP_CLASS, CLIP_L), "text_encoder_2": (CLIP_CLASS, CLIP_G),
}
SCHEDULER = dict(_class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0)
JOB = dict(prompt="a harbour at dusk", strength=0.25, num_inference_steps=4)


def networks():
    """The parts of the model on no device: names and shapes of their tensors."""
    import torch
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.device("meta"):
        return {
            "transformer": SD3Transformer2DModel(**TRANSFORMER),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_L)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G)),
        }


def make_model(path):
    """The model in one file; kept if it is there."""
    if path.exists():
        return
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFWriter

    writer = GGUFWriter(path.with_suffix(".part"), "cupscale")
    index = {"_class_name": "StableDiffusion3Pipeline", "scheduler": ["diffusers", SCHEDULER["_class_name"]]}
    for part, (name, config) in CONFIGS.items():
        index[part] = ["diffusers", name]
        writer.add_string(f"cupscale.{part}.config", json.dumps({"_class_name": name, **config}))
    writer.add_string("cupscale.model_index", json.dumps(index))
    writer.add_string("cupscale.scheduler.config", json.dumps(SCHEDULER))
    for tokenizer, pad in [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")]:
        files = clip_files()
        files["tokenizer_config.json"] = json.dumps({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad, "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
        })
        for name, text in files.items():
            writer.add_string(f"cupscale.{tokenizer}.{name}", text)
    chance = np.random.default_rng(1)
    for part, network in networks().items():
        for name, tensor in network.state_dict().items():
            if name.endswith("position_ids"):
                continue
            values, kind = random_tensor(chance, part, name, tuple(tensor.shape), Type)
            writer.add_tensor(f"{part}.{name}", values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)


def clip_files():
    """CLIP's vocabulary, as the program carries it (OpenAI's `clip/simple_tokenizer.py`)."""
    merges = gzip.decompress((ROOT / "models" / "clip" / "merges.txt.gz").read_bytes()).decode()
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = [chr(byte) for byte in printed] + [chr(256 + i) for i in range(256 - len(printed))]
    pairs = [line.split() for line in merges.splitlines()[1:] if line]
    tokens = signs + [sign + "</w>" for sign in signs] + ["".join(pair) for pair in pairs]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return {"merges.txt": merges, "vocab.json": json.dumps(vocabulary)}


def random_tensor(chance, part, name, shape, kinds):
    """Numbers as `models quantize --type q8_0` would keep them, with the variance of a fresh layer."""
    if len(shape) < 2:
        values = (chance.standard_normal(shape) * 0.1).astype(np.float32)
        return (values + 1 if name.endswith("weight") else values), kinds.F32
    fan_in = int(np.prod(shape[1:])) if name != "pos_embed.pos_embed" else 3
    if part == "vae" or len(shape) > 2 or "embedding" in name or "projection" in name:
        flat = chance.random(int(np.prod(shape)), dtype=np.float32) * 2 - 1
        return (flat * np.float32((3 / fan_in) ** 0.5)).reshape(shape).astype(np.float16), kinds.F16
    # Blocks of a scale and 32 numbers of eight bits.
    rows, columns = shape
    blocks = np.empty((rows, columns // 32, 34), dtype=np.uint8)
    blocks[..., 2:] = chance.integers(0, 256, (rows, columns // 32, 32), dtype=np.uint8)
    scale = np.float16((1 / fan_in) ** 0.5 / 74)
    blocks[..., :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    return blocks.reshape(rows, -1), kinds.Q8_0


def torch_job(picture, output, dtype):
    """The same in diffusers; prints its load and run time."""
    import time

    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Img2ImgPipeline
    from PIL import Image

    kind = getattr(torch, dtype)
    parts = {}
    for name, network in networks().items():
        wanted = torch.float32 if name == "vae" else kind
        network = network.to(wanted).to_empty(device="cpu").eval()
        with torch.no_grad():
            for tensor in [*network.parameters(), *network.buffers()]:
                if tensor.is_floating_point():
                    tensor.uniform_(-0.02, 0.02)
        parts[name] = network
    parts["text_encoder"].text_model.embeddings.position_ids.copy_(torch.arange(77)[None])
    parts["text_encoder_2"].text_model.embeddings.position_ids.copy_(torch.arange(77)[None])
    pipe = StableDiffusion3Img2ImgPipeline(
        **parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), tokenizer=None, tokenizer_2=None,
        text_encoder_3=None, tokenizer_3=None,
    )
    image = Image.open(picture).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        ids = torch.randint(0, 49000, (1, 77), generator=generator)
        ids[:, -1] = 49407
        states = [parts[name](ids, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
        clip = torch.cat([state.hidden_states[-2] for state in states], dim=-1)
        clip = torch.nn.functional.pad(clip, (0, 4096 - clip.shape[-1]))
        context = torch.cat([clip, torch.zeros(1, 256, 4096, dtype=kind)], dim=1)
        pooled = torch.cat([state.text_embeds for state in states], dim=-1)
        pixels = pipe.image_processor.preprocess(image)
        config = pipe.vae.config
        latent = (pipe.vae.encode(pixels).latent_dist.mean - config.shift_factor) * config.scaling_factor
        pipe.scheduler.set_timesteps(JOB["num_inference_steps"])
        pipe.scheduler.set_begin_index(JOB["num_inference_steps"] - 1)
        t = pipe.scheduler.timesteps[-1:]
        z = pipe.scheduler.scale_noise(latent, t, torch.randn(latent.shape, generator=generator))
        started = time.perf_counter()
        velocity = pipe.transformer(
            z.to(kind), timestep=t, encoder_hidden_states=context.to(kind), pooled_projections=pooled.to(kind)
        ).sample.float()
        call = time.perf_counter() - started
        z = pipe.scheduler.step(velocity, t[0], z).prev_sample
        decoded = pipe.vae.decode(z / config.scaling_factor + config.shift_factor).sample
    pipe.image_processor.postprocess(decoded)[0].save(output)
    print(json.dumps({"call": call}))


def ours(program, model, picture, output, threads, work):
    options = ["-n", model, "--size", f"{SIDE}x{SIDE}", "--steps", JOB["num_inference_steps"], "--denoise-steps", 1]
    options += ["--guidance", 1, "--prompt", JOB["prompt"], "--threads", threads, "--device", "cpu", "--rap", 0]
    plan = subprocess.run(
        list(map(str, [program, "plan", picture, "--json", *options])), check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    result = measured([program, picture, "-o", output, "--fresh", "--captioner", "none", "--work-dir", work, *options])
    return {**result, "plan": json.loads(plan)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/cupscale-fast")
    parser.add_argument("--only", choices=["ours", "torch"])
    parser.add_argument("--dtype", default="float32", help="precision of diffusers' transformer and text encoders")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch-job", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    picture, output = ROOT / "samples" / "nuthatch.jpg", args.work / "out.png"
    if args.torch_job:
        return torch_job(picture, output, args.dtype)
    print("| | seconds | peak memory |\n|---|---|---|")
    if args.only != "torch":
        model = args.work / "sd3.5-medium-q8_0.gguf"
        make_model(model)
        result = ours(args.program, model, picture, output, args.threads, args.work)
        print(f"| `cupscale-fast`, `q8_0` file | {result['seconds']:.0f} | {result['peak']:.1f} GiB |")
        print(json.dumps(result["plan"], indent=1), file=sys.stderr)
    if args.only != "ours":
        command = [sys.executable, __file__, "--work", args.work, "--torch-job", "--dtype", args.dtype]
        result = measured(command, {"OMP_NUM_THREADS": str(args.threads)})
        print(f"| diffusers (PyTorch), {args.dtype} | {result['seconds']:.0f} | {result['peak']:.1f} GiB |")


if __name__ == "__main__":
    main()
