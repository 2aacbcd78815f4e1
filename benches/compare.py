"""The figures of the README: this program in turn with PyTorch on the same shapes and threads, in one run.

    pip install -r models/train/requirements.txt && cargo build --release
    python benches/compare.py                 # operations, the embedded model's UNet, whole jobs
    python benches/compare.py --only operations --filter attention

Prints Markdown. Operations have random weights and SDXL's shapes. Where our matmul precision is bf16, all of PyTorch's
operation is; a weight that is kept in 16 bits or quantized stands beside PyTorch's in f32. SDXL's UNet and VAE as wholes are in
`benches/full_size.py`.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from torch_operations import torch_operation
from turns import ROOT, Ours, bench_binary, take_turns, timed

PARTS = ("operations", "unet", "jobs")
SHAPES = ((1, 64, 64), (4, 64, 64))
# A turn takes about this long, so that one program's threads have slept when the other's begin.
TURN = 0.25


@torch.inference_mode()
def compare_operations(threads, rounds, wanted):
    program = bench_binary("ops")
    lines = subprocess.run([program, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    print(f"| operation, {threads} threads | PyTorch ms | ours ms | | ours / PyTorch |\n|---|---|---|---|---|")
    with Ours([program], threads) as ours:
        for case in map(json.loads, lines):
            name = case["name"]
            if not any(part in name for part in wanted):
                continue
            operation = torch_operation(case)
            operation()
            started = time.perf_counter()
            operation()
            count = max(2, min(200, int(TURN / (time.perf_counter() - started))))
            a, b, ratio = take_turns(timed(operation), lambda count: ours.seconds(name, count), rounds, count)
            amount, unit = (case["flops"], "GFLOP/s") if case["flops"] else (case["bytes"], "GB/s")
            print(f"| {name} | {a * 1e3:.2f} | {b * 1e3:.2f} | {amount / b / 1e9:.0f} {unit} | {ratio:.2f} |", flush=True)
    print()


def torch_unet(unet, batch, height, width):
    """A call on fixed random inputs, as a closure."""
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((batch, config.in_channels, height, width), generator=generator)
    context = torch.randn((batch, 77, config.cross_attention_dim), generator=generator)
    text = torch.randn((batch, pooled), generator=generator)
    arguments = {
        "sample": sample.to(unet.dtype).contiguous(memory_format=torch.channels_last),
        "timestep": 499,
        "encoder_hidden_states": context.to(unet.dtype),
        "added_cond_kwargs": {"text_embeds": text.to(unet.dtype), "time_ids": torch.full((batch, 6), 256.0)},
    }
    return lambda: unet(**arguments)


@torch.inference_mode()
def compare_unet(threads, rounds):
    unet = UNet2DConditionModel.from_pretrained(ROOT / "models/mini/unet", torch_dtype=torch.float32)
    unet = unet.eval().to(memory_format=torch.channels_last)
    print(f"| UNet call, f32, {threads} threads | GFLOP | PyTorch ms | GFLOP/s | ours ms | GFLOP/s | ours / PyTorch |")
    print("|---|---|---|---|---|---|---|")
    with Ours([bench_binary("parts")], threads) as ours:
        for shape in SHAPES:
            call, name = torch_unet(unet, *shape), "x".join(map(str, shape))
            with FlopCounterMode(display=False) as counter:
                call()
            flop = counter.get_total_flops()
            a, b, ratio = take_turns(timed(call), lambda count: ours.seconds(name, count), rounds, 3)
            print(f"| {' × '.join(map(str, shape))} | {flop / 1e9:.1f} | {a * 1e3:.0f} | {flop / a / 1e9:.0f} "
                  f"| {b * 1e3:.0f} | {flop / b / 1e9:.0f} | {ratio:.2f} |", flush=True)


def whole_job(program, scale, repetitions):
    """Seconds (median) and peak resident MiB of 512² enlarged by `scale`."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "in.png"
        photo = Image.open(next((ROOT / "samples").glob("*.jpg"))).convert("RGB")
        photo.resize((512, 512), Image.Resampling.LANCZOS).save(source)
        seconds = []
        for _ in range(repetitions):
            started = time.perf_counter()
            subprocess.run([program, source, "-o", source.with_name("out.png"), "--scale", str(scale), "--quiet"],
                           check=True)
            seconds.append(time.perf_counter() - started)
    # The largest child so far: jobs therefore run before everything else, from small to large.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return statistics.median(seconds), peak


def jobs():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    print("| whole job, embedded model, f32 | seconds | peak memory |")
    print("|---|---|---|")
    for scale, repetitions in ((2, 3), (4, 1)):
        seconds, peak = whole_job(target / "release" / "cupscale-fast", scale, repetitions)
        print(f"| 512² → {512 * scale}² | {seconds:.1f} | {peak:.0f} MiB |", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--filter", nargs="*", default=[""], help="operations whose names have one of these")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "jobs" in args.only:
        jobs()
    if "operations" in args.only:
        compare_operations(args.threads, args.rounds, args.filter)
    if "unet" in args.only:
        compare_unet(args.threads, args.rounds)


if __name__ == "__main__":
    main()
