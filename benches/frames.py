"""Frames through `raw` between two ffmpegs, against the same pictures as a folder, each with one loaded model, in turn.

    python3 benches/frames.py target/release/cupscale-fast PICTURE --size 128x72 --frames 48 -- -s 2 --captioner none

The film is PICTURE, moved. Needs ffmpeg. What is behind `--` are options of the job. The frames of the pipe are compared
with the pictures of the folder, byte by byte.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

FFMPEG = ["ffmpeg", "-v", "error", "-y"]


def raw_video(size):
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]


def film(picture, size, frames, path):
    """A loss-free film of the picture, of which each frame shows another part."""
    width, height = map(int, size.split("x"))
    crop = f"scale={2 * width}:-1,crop={width}:{height}:n:n/2"
    subprocess.run([*FFMPEG, "-loop", "1", "-i", picture, "-vf", crop, "-frames:v", str(frames), "-r", "24",
                    "-c:v", "ffv1", "-pix_fmt", "bgr0", path], check=True)


def through_pipe(program, size, options, scaled, source, target):
    """Seconds of ffmpeg | raw | ffmpeg."""
    begun = time.perf_counter()
    reader = subprocess.Popen([*FFMPEG, "-i", source, *raw_video(size)[:4], "-"], stdout=subprocess.PIPE)
    raw = subprocess.Popen([program, "raw", size, "--pix", "rgb24", "-q", *options], stdin=reader.stdout,
                           stdout=subprocess.PIPE)
    reader.stdout.close()
    subprocess.run([*FFMPEG, *raw_video(scaled), "-r", "24", "-i", "-", "-c:v", "ffv1", "-pix_fmt", "bgr0", target],
                   stdin=raw.stdout, check=True)
    raw.stdout.close()
    if raw.wait() or reader.wait():
        raise SystemExit("the pipe failed")
    return time.perf_counter() - begun


def as_folder(program, options, folder, target):
    """Seconds of the folder run alone: what makes its pictures is not counted."""
    begun = time.perf_counter()
    subprocess.run([program, folder, "-o", target, "-q", *options], check=True)
    return time.perf_counter() - begun


def digests(arguments):
    """One digest of the pixels of each frame."""
    text = subprocess.run([*FFMPEG, *arguments, "-pix_fmt", "rgb24", "-f", "framehash", "-hash", "sha256", "-"],
                          check=True, capture_output=True, text=True).stdout
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("picture")
    parser.add_argument("--size", default="128x72")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    program = str(Path(args.program).resolve())
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        source, pictures = work / "in.mkv", work / "in"
        pictures.mkdir()
        film(args.picture, args.size, args.frames, source)
        subprocess.run([*FFMPEG, "-i", source, "-pix_fmt", "rgb24", pictures / "%05d.png"], check=True)
        # The size of the output, from a job.
        first = next(pictures.iterdir())
        one = work / "one.png"
        subprocess.run([program, first, "-o", one, "-q", *args.options], check=True)
        probe = ["ffprobe", "-v", "error", "-show_entries", "stream=width,height", "-of", "csv=p=0:s=x", one]
        scaled = subprocess.run(probe, check=True, capture_output=True, text=True).stdout.strip()
        pipe, folder = [], []
        for run in range(args.runs):
            pipe.append(through_pipe(program, args.size, args.options, scaled, source, work / "out.mkv"))
            folder.append(as_folder(program, args.options, pictures, work / f"out{run}"))
        same = digests(["-i", work / "out.mkv"]) == digests(["-i", work / "out0/%05d.png"])
    for name, seconds in [("raw between two ffmpegs", pipe), ("folder", folder)]:
        best = min(seconds)
        print(f"{name}: {args.frames / best:.2f} frames a second (best of {args.runs}; {best:.2f} s)")
    print(f"{args.frames} frames of {args.size} to {scaled}, {'equal' if same else 'DIFFERENT'} pixels")


if __name__ == "__main__":
    main()
