"""The figures of the README: this program beside PyTorch on the same weights, shapes and threads.

    cargo bench --bench unet --no-run && cargo build --release
    python benches/compare.py            # needs models/train/requirements.txt

Prints Markdown: one UNet call (median of interleaved rounds, GFLOP/s, ratio), and the whole job with
its peak memory.
"""

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

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = ((1, 64, 64), (4, 64, 64))
ROUNDS = 5


def torch_unet(unet, batch, height, width):
    """A call on fixed random inputs, as a closure."""
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((batch, config.in_channels, height, width), generator=generator)
    arguments = {
        "sample": sample.contiguous(memory_format=torch.channels_last),
        "timestep": 499,
        "encoder_hidden_states": torch.randn((batch, 77, config.cross_attention_dim), generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn((batch, pooled), generator=generator),
            "time_ids": torch.full((batch, 6), 256.0),
        },
    }
    return lambda: unet(**arguments)


@torch.inference_mode()
def compare_unet(threads):
    unet = UNet2DConditionModel.from_pretrained(ROOT / "models/mini/unet", torch_dtype=torch.float32)
    unet = unet.eval().to(memory_format=torch.channels_last)
    print(f"| UNet call, f32, {threads} threads | GFLOP | PyTorch ms | GFLOP/s | ours ms | GFLOP/s | ours / PyTorch |")
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        call = torch_unet(unet, *shape)
        with FlopCounterMode(display=False) as counter:
            call()
        flop = counter.get_total_flops()
        theirs, ours = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            call()
            theirs.append(time.perf_counter() - started)
            line = subprocess.run(
                ["cargo", "bench", "-q", "--bench", "unet", "--", "--batch", str(shape[0]), "--height", str(shape[1]),
                 "--width", str(shape[2]), "--repetitions", "3"],
                cwd=ROOT, check=True, capture_output=True, text=True,
                env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
            ).stdout.strip().splitlines()[-1]
            ours.append(json.loads(line)["median_s"])
        a, b = statistics.median(theirs), statistics.median(ours)
        ratio = statistics.median(y / x for x, y in zip(theirs, ours))
        print(f"| {' × '.join(map(str, shape))} | {flop / 1e9:.1f} | {a * 1e3:.0f} | {flop / a / 1e9:.0f} "
              f"| {b * 1e3:.0f} | {flop / b / 1e9:.0f} | {ratio:.2f} |")


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
    # The largest child so far: jobs therefore run from small to large.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return statistics.median(seconds), peak


def main():
    threads = int(os.environ.get("THREADS", os.cpu_count()))
    torch.set_num_threads(threads)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "release" / "cupscale-fast"
    print("| whole job, embedded model, f32 | seconds | peak memory |")
    print("|---|---|---|")
    for scale, repetitions in ((2, 3), (4, 1)):
        seconds, peak = whole_job(program, scale, repetitions)
        print(f"| 512² → {512 * scale}² | {seconds:.1f} | {peak:.0f} MiB |")
        sys.stdout.flush()
    print()
    compare_unet(threads)


if __name__ == "__main__":
    main()
