"""T5-XXL at full size, with random weights in q8_0 made on the spot: seconds and memory of a job's texts on the CPU.

    pip install -r models/train/requirements.txt gguf && cargo build --release
    python benches/t5_full_size.py --work /path/with/6-GB [--program target/release/cupscale-fast]

The encoder is a GGUF file as ComfyUI-GGUF carries it (24 layers, 4096 wide, 64 heads, 4.76 billion weights); around it is
a Stable Diffusion 3 that is too small to matter. Random weights compute the same products as trained ones. Prints the
seconds from the log of the stage, the peak of the process, and what was planned.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 24, 4096, 10240, 64, 32128
PROMPT = "a photograph of an old harbour at dusk, boats, wet stone, warm windows"


def write_encoder(path):
    """4.76 billion weights of about 1/sqrt(inputs) each, from one block of random numbers."""
    import gguf

    tokens = json.loads((FIXTURES / "t5/json/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    pieces = [piece for piece, _ in tokens if not piece.startswith("<extra_id_")]
    scores = [score for _, score in tokens][: len(pieces)]
    filler = VOCABULARY - len(pieces)
    chance = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "t5encoder")
    writer.add_tokenizer_model("t5")
    writer.add_token_list(pieces + [f"[PAD{index}]" for index in range(filler)])
    writer.add_token_scores(scores + [-10000.0] * filler)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(pieces) + [gguf.TokenType.UNUSED] * filler)
    tensors = {}

    def matrix(name, rows, columns):
        writer.add_tensor_info(
            name, (rows, columns // 32 * 34), np.dtype(np.uint8), rows * columns // 32 * 34, gguf.GGMLQuantizationType.Q8_0
        )
        tensors[name] = (rows, columns)

    def plain(name, values):
        values = values.astype(np.float32)
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes, gguf.GGMLQuantizationType.F32)
        tensors[name] = values

    matrix("token_embd.weight", VOCABULARY, WIDTH)
    plain("enc.blk.0.attn_rel_b.weight", chance.normal(size=(32, HEADS)))
    for layer in range(LAYERS):
        block = f"enc.blk.{layer}"
        for name in ["attn_q", "attn_k", "attn_v", "attn_o"]:
            matrix(f"{block}.{name}.weight", WIDTH, WIDTH)
        for name in ["ffn_gate", "ffn_up"]:
            matrix(f"{block}.{name}.weight", INNER, WIDTH)
        matrix(f"{block}.ffn_down.weight", WIDTH, INNER)
        for name in ["attn_norm", "ffn_norm"]:
            plain(f"{block}.{name}.weight", 1 + 0.1 * chance.normal(size=WIDTH))
    plain("enc.output_norm.weight", np.ones(WIDTH))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    numbers = chance.integers(-127, 128, size=(1 << 16, 32), dtype=np.int8)
    for name, tensor in tensors.items():
        if not isinstance(tensor, tuple):
            writer.write_tensor_data(tensor)
            continue
        rows, columns = tensor
        blocks = np.empty((1 << 16, 34), np.uint8)
        # Uniform numbers of 8 bits have a deviation of 73.
        blocks[:, :2] = np.frombuffer(np.float16(columns**-0.5 / 73).tobytes(), np.uint8)
        blocks[:, 2:] = np.roll(numbers, len(name) + rows, axis=0).view(np.uint8)
        count = rows * columns // 32
        data = np.concatenate([blocks] * (count // len(blocks)) + [blocks[: count % len(blocks)]])
        writer.write_tensor_data(data.reshape(rows, -1))
    writer.close()


def write_model(folder):
    """A Stable Diffusion 3 of a few layers that reads text of T5's width; its T5 is absent."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    torch.manual_seed(1)
    SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=WIDTH, caption_projection_dim=64, pooled_projection_dim=26, out_channels=16, pos_embed_max_size=24,
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        block_out_channels=(16, 16, 16, 16), norm_num_groups=4, latent_channels=16, sample_size=64, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    ).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    for number, tokenizer in [("", "first"), ("_2", "second")]:
        shutil.copytree(FIXTURES / f"t5/pipelines/text_encoder{number}", folder / f"text_encoder{number}")
        target = folder / f"tokenizer{number}"
        shutil.copytree(FIXTURES / f"text/tokenizer_{tokenizer}", target)
        for name in ["vocab.json", "merges.txt"]:
            shutil.copy(FIXTURES / "text/tokenizer_first" / name, target)
    clip = ["transformers", "CLIPTextModelWithProjection"]
    index = {
        "_class_name": "StableDiffusion3Pipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": clip, "text_encoder_2": clip, "text_encoder_3": [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": [None, None], "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def run(program, arguments):
    """The log of a run, the peak of the process in bytes, and the seconds of all its threads."""
    process = subprocess.Popen([program, *arguments], stderr=subprocess.PIPE, text=True)
    log = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, log
    return log, usage.ru_maxrss << 10, usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/cupscale-fast")
    args = parser.parse_args()
    model, encoder, output = args.work / "sd3", args.work / "t5-q8_0.gguf", args.work / "out.png"
    if not encoder.exists():
        args.work.mkdir(parents=True, exist_ok=True)
        write_encoder(encoder)
    if not model.exists():
        write_model(model)
    job = [
        args.work / "in.png", "-o", output, "--scale", "1", "--model", model, "--text-encoder", encoder, "--steps", "1",
        "--rap", "0", "--device", "cpu", "--captioner", "none", "--prompt", PROMPT, "--guidance", "0",
    ]
    from PIL import Image

    Image.effect_noise((128, 128), 60).convert("RGB").save(args.work / "in.png")
    plan = subprocess.run([args.program, "plan", "--json", *job], check=True, stdout=subprocess.PIPE, text=True).stdout
    log, peak, seconds = run(args.program, [*job, "-vv"])
    print(f"{seconds:.0f} seconds of all threads, peak {peak / 2**30:.2f} GiB")
    for line in log.splitlines():
        if re.search(r"condition|text|close", line):
            print(line)
    print(json.dumps(json.loads(plan).get("memory"), indent=1))


if __name__ == "__main__":
    main()
