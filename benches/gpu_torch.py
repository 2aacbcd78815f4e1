"""This program in turn with PyTorch on one GPU, for `benches/gpu.sh`: operations, calls of the UNet, the VAE both ways. PyTorch
computes in the type that we have, channels-last, with its fused attention. Operations need torch, the others diffusers too.

    python gpu_torch.py operations --device cuda:0 --batch 8 [--json FILE] [FILTER ...]
    python gpu_torch.py unet --device cuda:0 --model FOLDER 1x128x128 8x128x128
    python gpu_torch.py vae --device cuda:0 --model FOLDER 1x128x128
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import torch

from torch_operations import torch_operation
from turns import Ours, take_turns

# Calls of a GPU between two waits for it, as `benches/ops.rs` has it.
CALLS = 20
ROUNDS = 3


def program(name):
    """A program beside this script."""
    return pathlib.Path(__file__).resolve().parent / name


def waited(operation, device, calls):
    """The mean of so many calls as a function that takes turns: a GPU is waited for at their end."""
    def seconds(count):
        times = []
        for _ in range(count + 1):
            started = time.perf_counter()
            for _ in range(calls):
                operation()
            if device != "cpu":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - started) / calls)
        return times[1:]
    return seconds


class Results:
    """Prints a table and appends lines of JSON."""

    def __init__(self, path, what):
        self.path = path
        print(f"| {what} | PyTorch ms | ours ms | ours / PyTorch |\n|---|---|---|---|", flush=True)

    def add(self, name, theirs, ours, count, **fields):
        a, b, ratio = take_turns(theirs, ours, ROUNDS, count)
        print(f"| {name} | {a * 1e3:.3f} | {b * 1e3:.3f} | {ratio:.2f} |", flush=True)
        if self.path:
            line = {**fields, "name": name, "torch_s": a, "median_s": b, "ratio": ratio}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return ratio


def operations(args):
    command = [program("ops"), "--device", args.device, "--batch", str(args.batch)]
    lines = subprocess.run([*command, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    results = Results(args.json, f"operation, batch {args.batch}")
    calls = 1 if args.device == "cpu" else CALLS
    worst = (0, "")
    with Ours(command, torch.get_num_threads()) as ours:
        for case in map(json.loads, lines):
            name = case["name"]
            if args.names and not any(part in name for part in args.names):
                continue
            # A quantized weight stands beside PyTorch's in the working type.
            theirs = waited(torch_operation(case, args.device), args.device, calls)
            ratio = results.add(name, theirs, lambda count: ours.seconds(name, count), 3, operation=name, batch=args.batch)
            worst = max(worst, (ratio, name))
    if worst[1]:
        print(f"\nworst: {worst[1]}, {worst[0]:.2f} × PyTorch's time")


def sizes(shape):
    return tuple(int(number) for number in shape.split("x"))


def unet(args):
    from diffusers import UNet2DConditionModel

    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    model = UNet2DConditionModel.from_pretrained(args.model / "unet", torch_dtype=dtype)
    model = model.eval().to(args.device, memory_format=torch.channels_last)
    config = model.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def random(*shape):
        return torch.randn(*shape, device=args.device).to(dtype)

    results = Results(args.json, f"UNet call, {dtype}")
    with Ours([program("parts"), "--device", args.device, "--model", args.model], torch.get_num_threads()) as ours:
        for shape in args.names:
            batch, height, width = sizes(shape)
            z = random(batch, config.in_channels, height, width).contiguous(memory_format=torch.channels_last)
            arguments = {
                "timestep": 499, "encoder_hidden_states": random(batch, 77, config.cross_attention_dim),
                "added_cond_kwargs": {
                    "text_embeds": random(batch, pooled),
                    "time_ids": torch.full((batch, 6), 1024.0, device=args.device),
                },
            }
            theirs = waited(lambda: model(z, **arguments), args.device, 1)
            results.add(shape, theirs, lambda count: ours.seconds(shape, count), 3, part="unet", shape=shape)


def vae(args):
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(args.model / "vae", torch_dtype=torch.float32)
    model = model.eval().to(args.device, memory_format=torch.channels_last)
    results = Results(args.json, "VAE, f32")

    def picture(batch, channels, height, width):
        x = torch.randn(batch, channels, height, width, device=args.device)
        return x.contiguous(memory_format=torch.channels_last)

    for part in ("vae", "encoder"):
        command = [program("parts"), "--device", args.device, "--model", args.model, "--part", part]
        with Ours(command, torch.get_num_threads()) as ours:
            for shape in args.names:
                batch, height, width = sizes(shape)
                if part == "vae":
                    z = picture(batch, 4, height, width)
                    call = lambda: model.decode(z)
                else:
                    pixels = picture(batch, 3, 8 * height, 8 * width)
                    call = lambda: model.encode(pixels)
                name = f"{'decode' if part == 'vae' else 'encode'} {shape}"
                theirs = waited(call, args.device, 1)
                results.add(name, theirs, lambda count: ours.seconds(shape, count), 2, part=part, shape=shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["operations", "unet", "vae"])
    parser.add_argument("names", nargs="*", help="parts of names of operations, or shapes BATCHxHEIGHTxWIDTH of latents")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--json", help="results as lines of JSON at the end of this file")
    args = parser.parse_intermixed_args()
    compute = {"operations": operations, "unet": unet, "vae": vae}[args.what]
    try:
        with torch.inference_mode():
            compute(args)
    except ImportError as missing:
        sys.exit(f"{missing}: without PyTorch's part")


if __name__ == "__main__":
    main()
