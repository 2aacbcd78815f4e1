"""One region of Z-Image at full size, with random weights made on the spot: this program beside diffusers.

    pip install -r models/train/requirements.txt gguf && cargo build --release
    python benches/z_image_full_size.py --work /path/with/8-GB
    python benches/z_image_full_size.py --work DIR --only ours --program target/release/cupscale-fast
    python benches/z_image_full_size.py --work DIR --small

The model is one GGUF file as `models quantize` writes it: the transformer in q8_0, the autoencoder in f16 (6.8 GB). Qwen3 has
two of its 36 layers and a small vocabulary, because texts are encoded before the transformer is loaded and are no matter of this
bench. Random weights compute the same products as trained ones, so times and memory are those of the real model; only the
picture means nothing. Prints Markdown: seconds and peak memory of one region (1024 x 1024) and one step of four without
guidance, from picture to picture; on standard error what was planned. `--small` tries the bench with a small model.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from full_size import measured
from turns import ROOT

TOKENIZER = ROOT / "tests" / "fixtures" / "z_image" / "tokenizer"
# Tongyi-MAI/Z-Image-Turbo.
TRANSFORMER = dict(
    in_channels=16, dim=3840, n_layers=30, n_refiner_layers=2, n_heads=30, n_kv_heads=30, cap_feat_dim=2560,
    axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512],
)
VAE = dict(
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=16, scaling_factor=0.3611,
    shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
)
QWEN3 = dict(
    vocab_size=704, hidden_size=2560, intermediate_size=9728, num_hidden_layers=2, num_attention_heads=32,
    num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True,
)
SMALL = dict(dim=256, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2)
CLASSES = {
    "transformer": "ZImageTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": "Qwen3ForCausalLM",
}
SCHEDULER = dict(_class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0)
PROMPT, STEPS = "a harbour at dusk", 4
# What `models quantize` leaves in 16 bits.
SENSITIVE = ("all_x_embedder.", "all_final_layer.", "t_embedder.", "cap_embedder.", "adaLN_modulation.", "_pad_token")


def configs(small):
    return {
        "transformer": {**TRANSFORMER, **(SMALL if small else {})},
        "vae": {**VAE, "block_out_channels": [32, 32, 64, 64] if small else VAE["block_out_channels"]},
        "text_encoder": QWEN3,
    }


def side(small):
    """Side of the region in pixels."""
    return 256 if small else 1024


def networks(small):
    """The parts of the model on no device: names and shapes of their tensors."""
    import torch
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = configs(small)
    with torch.device("meta"):
        return {
            "transformer": ZImageTransformer2DModel(**config["transformer"]),
            "vae": AutoencoderKL(**config["vae"]),
            "text_encoder": Qwen3ForCausalLM(Qwen3Config(**config["text_encoder"])),
        }


def make_model(path, small):
    """The model in one file; kept if it is there."""
    if path.exists():
        return
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFWriter

    writer = GGUFWriter(path.with_suffix(".part"), "cupscale")
    index = {"_class_name": "ZImagePipeline", "scheduler": ["diffusers", SCHEDULER["_class_name"]]}
    index["cupscale"] = {"native_size": side(small)}
    for part, config in configs(small).items():
        index[part] = ["diffusers", CLASSES[part]]
        writer.add_string(f"cupscale.{part}.config", json.dumps({"_class_name": CLASSES[part], **config}))
    writer.add_string("cupscale.model_index", json.dumps(index))
    writer.add_string("cupscale.scheduler.config", json.dumps(SCHEDULER))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        writer.add_string(f"cupscale.tokenizer.{name}", (TOKENIZER / name).read_text())
    chance = np.random.default_rng(1)
    for part, network in networks(small).items():
        for name, tensor in network.state_dict().items():
            if name == "lm_head.weight":  # that of the tokens
                continue
            values, kind = random_tensor(chance, part, name, tuple(tensor.shape), Type)
            writer.add_tensor(f"{part}.{name}", values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)


def random_tensor(chance, part, name, shape, kinds):
    """Numbers as `models quantize --type q8_0` would keep them, with the variance of a fresh layer."""
    if len(shape) < 2:
        values = (chance.standard_normal(shape) * 0.1).astype(np.float32)
        return (values + 1 if name.endswith("weight") else values), kinds.F32
    fan_in = int(np.prod(shape[1:]))
    if part == "vae" or shape[1] % 32 or any(piece in name for piece in SENSITIVE):
        flat = chance.random(int(np.prod(shape)), dtype=np.float32) * 2 - 1
        return (flat * np.float32((3 / fan_in) ** 0.5)).reshape(shape).astype(np.float16), kinds.F16
    # Blocks of a scale and 32 numbers of eight bits.
    rows, columns = shape
    blocks = np.empty((rows, columns // 32, 34), dtype=np.uint8)
    blocks[..., 2:] = chance.integers(0, 256, (rows, columns // 32, 32), dtype=np.uint8)
    scale = np.float16((1 / fan_in) ** 0.5 / 74)
    blocks[..., :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    return blocks.reshape(rows, -1), kinds.Q8_0


def torch_job(picture, output, dtype, small):
    """The same in diffusers; prints the time of the one call of the transformer."""
    import time

    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageImg2ImgPipeline
    from PIL import Image
    from transformers import Qwen2Tokenizer

    kind, parts = getattr(torch, dtype), {}
    for name, network in networks(small).items():
        network = network.to(torch.float32 if name == "vae" else kind).to_empty(device="cpu").eval()
        with torch.no_grad():
            for tensor in [*network.parameters(), *network.buffers()]:
                if tensor.is_floating_point():
                    tensor.uniform_(-0.02, 0.02)
        parts[name] = network
    # What the model computes by itself has no place in its files.
    rotary = parts["text_encoder"].model.rotary_emb
    frequencies = 1 / 1e6 ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128)
    rotary.inv_freq = rotary.original_inv_freq = frequencies
    pipe = ZImageImg2ImgPipeline(
        **parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), tokenizer=Qwen2Tokenizer.from_pretrained(TOKENIZER)
    )
    pixels = side(small)
    image = Image.open(picture).convert("RGB").resize((pixels, pixels), Image.Resampling.LANCZOS)
    started = time.perf_counter()
    result = pipe(
        prompt=PROMPT, image=image, strength=1 / STEPS, num_inference_steps=STEPS, guidance_scale=0.0, height=pixels,
        width=pixels, generator=torch.Generator().manual_seed(1),
    )
    result.images[0].save(output)
    print(json.dumps({"job": time.perf_counter() - started}))


def ours(program, model, picture, output, threads, work, small):
    options = ["-n", model, "--size", f"{side(small)}x{side(small)}", "--steps", STEPS, "--denoise-steps", 1]
    options += ["--guidance", 1, "--prompt", PROMPT, "--threads", threads, "--device", "cpu", "--rap", 0]
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
    parser.add_argument("--dtype", default="float32", help="precision of diffusers' transformer and text encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="a small model, to try the bench")
    parser.add_argument("--torch-job", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    picture, output = ROOT / "samples" / "nuthatch.jpg", args.work / "out.png"
    if args.torch_job:
        return torch_job(picture, output, args.dtype, args.small)
    print("| | seconds | peak memory |\n|---|---|---|")
    if args.only != "torch":
        model = args.work / ("z-image-small-q8_0.gguf" if args.small else "z-image-q8_0.gguf")
        make_model(model, args.small)
        result = ours(args.program, model, picture, output, args.threads, args.work, args.small)
        print(f"| `cupscale-fast`, `q8_0` file | {result['seconds']:.1f} | {result['peak']:.1f} GiB |")
        print(json.dumps(result["plan"], indent=1), file=sys.stderr)
    if args.only != "ours":
        command = [sys.executable, __file__, "--work", args.work, "--torch-job", "--dtype", args.dtype]
        command += ["--small"] if args.small else []
        result = measured(command, {"OMP_NUM_THREADS": str(args.threads)})
        print(f"| diffusers (PyTorch), {args.dtype} | {result['seconds']:.1f} | {result['peak']:.1f} GiB |")


if __name__ == "__main__":
    main()
