"""Seconds of the whole program beside those of Real-ESRGAN x4plus in PyTorch, in turn on the same machine; medians, as Markdown.

    timing.py HELDOUT PROGRAM [--times 5]

HELDOUT is what heldout.py wrote; one picture of each size is taken. The program runs with all defaults, start, captions, encode and decode
included; of the network only its call is timed, on the whole picture at once, with as many threads as there are cores.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
from PIL import Image

import teacher
from targets import chw


def seconds(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=pathlib.Path)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    net, sizes = teacher.load(), {}
    for path in sorted(args.heldout.glob("*_low.png")):
        sizes.setdefault(Image.open(path).size, path)
    print("| output | this program, s | Real-ESRGAN, s | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for (width, height), path in sorted(sizes.items()):
            x = chw(Image.open(path).convert("RGB"))[None].float().div(255).contiguous(memory_format=torch.channels_last)
            ours, theirs = [], []
            for _ in range(args.times):
                line = [args.program, path, "-o", pathlib.Path(folder) / "out.png", "--quiet"]
                ours.append(seconds(lambda: subprocess.run(line, check=True)))
                theirs.append(seconds(lambda: net(x)))
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"| {4 * width} × {4 * height} | {a:.2f} | {b:.2f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
