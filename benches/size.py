"""Outputs of growing size: what they take of memory, and whether borders of regions and tiles show, as Markdown.

    cargo build --release && python benches/size.py                     # 1024² to 8192², one step
    python benches/size.py --sides 1024 2048 --steps 3 --seams          # all steps, and the seams

The peak is that of the process's resident set without the pages of mapped files, which the system takes back
when it needs them (`RssAnon` in /proc, Linux), and with them (`VmHWM`). The seam index is the mean absolute
difference between neighbouring pixels across the borders of regions and VAE tiles, divided by that where there
is no border; 1 is seamless. Pictures are not the same everywhere, so every border is compared with the same
place of the picture: the job is run again on the picture shifted by half a region's stride, where the place
lies between borders. The mean of the lines half a stride from all borders, compared in the same way, says
how far from 1 the index is by chance.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

Image.MAX_IMAGE_PIXELS = None
ROOT = pathlib.Path(__file__).resolve().parent.parent
SCALE = 4


def photo(side):
    image = Image.open(ROOT / "samples/nuthatch.jpg").convert("RGB")
    square = min(image.size)
    return image.crop((0, 0, square, square)).resize((side, side), Image.LANCZOS)


def gradient(side):
    y, x = np.mgrid[0:side, 0:side] / max(side - 1, 1)
    rgb = np.stack([40 + 160 * x, 50 + 150 * y, 200 - 90 * x - 60 * y], -1)
    return Image.fromarray(rgb.round().astype(np.uint8))


def run(command):
    """Seconds, and the peaks in MiB without and with mapped files."""
    start = time.monotonic()
    process = subprocess.Popen([*command, "--quiet"])
    anonymous = resident = 0
    while process.poll() is None:
        try:
            lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            continue
        fields = {name: value for name, value in (line.split(":", 1) for line in lines)}
        # A process that has just ended has no memory left to tell about.
        if "VmHWM" in fields:
            kibibytes = lambda name: int(fields[name].split()[0])
            anonymous = max(anonymous, kibibytes("RssAnon") / 1024)
            resident = max(resident, kibibytes("VmHWM") / 1024)
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return time.monotonic() - start, anonymous, resident


def borders(command):
    """Columns and rows of pixels before which a region or a VAE tile begins or ends."""
    caption = [command[0], "caption", command[1], "--captioner", "none", *command[4:]]
    regions = json.loads(subprocess.run(caption, capture_output=True, check=True).stdout)["regions"]
    plan = subprocess.run([command[0], "plan", *command[1:]], capture_output=True, text=True, check=True).stdout
    columns, rows = map(int, re.search(r"^VAE tiles .*\((\d+) × (\d+)\)", plan, re.M).groups())
    width, height = map(int, re.search(r"^canvas +(\d+) × (\d+)", plan, re.M).groups())
    pixels = int(re.search(r"^output +(\d+) ×", plan, re.M)[1])
    factor = -(-pixels // width)
    found = []
    for start, length, count, size in [("x", "width", columns, width), ("y", "height", rows, height)]:
        lines = {region[start] for region in regions} | {region[start] + region[length] for region in regions}
        lines |= {index * size // count * factor for index in range(count)}
        found.append(np.array(sorted(lines)))
    return found


def profiles(target):
    """For columns and for rows, the mean absolute difference of each to the one before."""
    pixels = np.asarray(Image.open(target).convert("RGB"), dtype=np.float32)
    steps = [np.abs(np.diff(pixels, axis=axis)).mean(axis=2).mean(axis=1 - axis) for axis in (1, 0)]
    return [np.concatenate([[np.nan], line]) for line in steps]


def seams(jobs, stride):
    """Seam indices at the borders and between them. `jobs`: of the picture as it is and shifted by half a
    `stride` to the left and upwards, profiles and borders."""
    sums = np.zeros((2, 2))
    for (mine, borders_of_mine), (other, _), shift in [(*jobs, -stride // 2), (*jobs[::-1], stride // 2)]:
        for axis in (0, 1):
            # Lines that are borders, and lines that are none in either job.
            for kind, offset in enumerate((0, stride // 4)):
                at = borders_of_mine[axis] + offset
                at = at[(at >= 1) & (at < len(mine[axis])) & (at + shift >= 1) & (at + shift < len(mine[axis]))]
                sums[kind] += mine[axis][at].sum(), other[axis][at + shift].sum()
    return sums[:, 0] / sums[:, 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/cupscale-fast"))
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="of the outputs")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps; the peak is the same in each")
    parser.add_argument("--seams", action="store_true", help="measure the seams too, on a photo and on a gradient")
    parser.add_argument("--stride", type=int, default=128, help="of the regions in pixels; the embedded model's at half overlap")
    parser.add_argument("--options", default="", help="of every job")
    arguments = parser.parse_args()
    head = ["output", "picture", "seconds", "peak without mapped files, MiB", "with them, MiB"]
    head += ["seam index", "by chance"] if arguments.seams else []
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    first = None
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.png", f"{folder}/out.png"
        for side in arguments.sides:
            for name, make in [("photo", photo), ("gradient", gradient)][: 2 if arguments.seams else 1]:
                command = [arguments.program, source, "-o", target, "--denoise-steps", str(arguments.steps)]
                command += arguments.options.split()
                shift = arguments.stride // 2 // SCALE if arguments.seams else 0
                picture = make(side // SCALE + shift)
                jobs = []
                for corner in (0, shift)[: 2 if arguments.seams else 1]:
                    picture.crop((corner, corner, corner + side // SCALE, corner + side // SCALE)).save(source)
                    seconds, anonymous, resident = run(command)
                    first = first or anonymous
                    if arguments.seams:
                        jobs.append((profiles(target), borders(command)))
                row = [f"{side}²", name, f"{seconds:.0f}", f"{anonymous:.0f} ({anonymous / first:.2f} ×)", f"{resident:.0f}"]
                row += [f"{index:.3f}" for index in seams(jobs, arguments.stride)] if arguments.seams else []
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
