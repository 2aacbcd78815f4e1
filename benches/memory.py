"""The planned memory of whole jobs beside what they take: job, estimate, measured peak, ratio, as Markdown.

    cargo build --release && python benches/memory.py
    python benches/memory.py --model /path/to/sdxl --options "--captioner none"     # a model of full size

The estimate is the line `memory` of `plan`; the peak is the largest resident set of the process, as the kernel
counted it. The estimate should lie between the peak and 1.25 times it.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Side of the input in pixels, and options; the embedded model has regions of 256 pixels.
JOBS = [
    (64, ""),
    (64, "--tile 128"),
    (128, "--batch 1"),
    (128, "--batch 1 --tile 128"),
    (128, "--batch 4 --tile 128"),
    (128, "--batch 8 --tile 128"),
    (128, "--batch 8 --tile 128 --guidance 3"),
    (128, "--batch 8 --tile 128 --rap 0"),
    (128, "--max-memory 250MiB"),
    (256, "--tile 256"),
    (256, "--tile 256 --threads 8"),
    (512, "--overlap 0 --tile 512"),
]


def picture(side):
    """A test picture with gradients and noise, so that no part of it compresses to nothing."""
    y, x = np.mgrid[0:side, 0:side] / side
    grain = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    rgb = np.stack([60 + 150 * x, 90 + 80 * y, 150 - 60 * x], -1) + grain
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def estimate(command):
    """The planned peak in MiB."""
    plan = subprocess.run([command[0], "plan", *command[1:]], capture_output=True, text=True)
    if plan.returncode:
        sys.exit(plan.stderr.strip())
    value, unit = re.search(r"^memory +(\S+) ([KMG])iB", plan.stdout, re.M).groups()
    return float(value) * {"K": 2**-10, "M": 1, "G": 2**10}[unit]


def measured(command):
    """Peak resident set in MiB; Linux counts it in KiB, macOS in bytes."""
    process = subprocess.Popen([*command, "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/cupscale-fast"))
    parser.add_argument("--steps", type=int, default=1, help="denoising steps; the peak is the same in each")
    parser.add_argument("--model", help="a model of the user's, for one job in the place of the table's")
    parser.add_argument("--side", type=int, default=256, help="side of that job's input in pixels")
    parser.add_argument("--options", default="", help="its options")
    arguments = parser.parse_args()
    jobs = JOBS
    if arguments.model:
        jobs = [(arguments.side, f"--model {arguments.model} {arguments.options}")]
    print("| input | options | estimate, MiB | measured, MiB | ratio |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.png", f"{folder}/out.png"
        for side, options in jobs:
            picture(side).save(source)
            steps = ["--denoise-steps", str(arguments.steps)]
            command = [arguments.program, source, "-o", target, *steps, *options.split()]
            planned, peak = estimate(command), measured(command)
            print(f"| {side}² | {options} | {planned:.0f} | {peak:.0f} | {planned / peak:.3f} |", flush=True)


if __name__ == "__main__":
    main()
