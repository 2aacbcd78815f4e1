"""SDXL at full size, with random weights made on the spot: this program beside PyTorch (diffusers), in one run.

    pip install -r models/train/requirements.txt && cargo build --release
    python benches/full_size.py --work /path/with/30-GB
    python benches/full_size.py --work DIR --only calls      # the UNet and the VAE in turn with PyTorch
    python benches/full_size.py --work DIR --only jobs --job-side 512 --sdcpp PYTHON      # with `pip install cyllama`

Random weights compute the same products as trained ones, so times, memory and agreement are those of the real model;
only the pictures mean nothing. Prints Markdown: seconds of single calls of the UNet and the VAE; seconds and peak
memory of one region (1024 x 1024) and four steps; the error of one UNet call against PyTorch in f32, and the table of
quantized types. stable-diffusion.cpp, which the package cyllama carries, joins the jobs on request, from a single file
with ldm's names. Jobs are processes of their own, so that each peak is its own.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

from turns import ROOT, Ours, bench_binary, take_turns, timed

SECTIONS = ("calls", "jobs", "errors")
# Latent sides of the UNet's calls and of the VAE's.
UNET_SIDES, VAE_SIDE = (64, 128), 64
CALLS = {"prompt": "a harbour at dusk", "negative_prompt": "", "strength": 0.5, "num_inference_steps": 8}
TYPES = ("f16", "q8_0", "q6_k", "q5_k", "q4_k")


def make_model(folder):
    """SDXL in diffusers layout, 6.9 GB; kept if it is there."""
    subprocess.run([bench_binary("random_model"), folder], check=True)


def make_inputs(path, side):
    """Fixed inputs of one UNet call; `sample` and `noise` are [1, 4, side, side]."""
    import torch
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(1)
    save_file({
        "sample": torch.randn((1, 4, side, side), generator=g), "noise": torch.randn((1, 4, side, side), generator=g),
        "context": torch.randn((1, 77, 2048), generator=g), "pooled": torch.randn((1, 1280), generator=g),
        "time_ids": torch.tensor([[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]]),
    }, path)


def torch_unet(model, inputs, outputs):
    """PyTorch's result for the inputs: `eps` at t = 499, `z` after four DDIM steps."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).eval()
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    given = load_file(inputs)

    @torch.inference_mode()
    def predict(z, t):
        return unet(z, t, given["context"], added_cond_kwargs={
            "text_embeds": given["pooled"], "time_ids": given["time_ids"]}).sample

    started = time.perf_counter()
    eps = predict(given["sample"], 499)
    first = time.perf_counter() - started
    scheduler.set_timesteps(8)
    steps = scheduler.timesteps[-4:]
    z = scheduler.add_noise(given["sample"], given["noise"], steps[:1])
    started = time.perf_counter()
    for t in steps:
        z = scheduler.step(predict(z, t), t, z).prev_sample
    save_file({"eps": eps, "z": z}, outputs)
    print(json.dumps({"first_s": first, "step_s": (time.perf_counter() - started) / 4}))


def torch_job(model, picture, output, side):
    """diffusers' own image-to-image pipeline on the enlarged picture."""
    import torch
    from diffusers import StableDiffusionXLImg2ImgPipeline
    from PIL import Image

    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(model, torch_dtype=torch.float32, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    image = Image.open(picture).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    pipe(image=image, guidance_scale=0.0, generator=torch.Generator().manual_seed(0), **CALLS).images[0].save(output)
    print("{}")


def compare_calls(model, threads, rounds):
    """Single calls of the UNet and of the VAE's decoder, in turn."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from compare import torch_unet as unet_call

    torch.set_num_threads(threads)
    print(f"| call, {threads} threads | PyTorch s | ours s | ours / PyTorch |\n|---|---|---|---|", flush=True)

    def row(name, call, ours, shape):
        a, b, ratio = take_turns(timed(call), lambda count: ours.seconds(shape, count), rounds, 1)
        print(f"| {name} | {a:.2f} | {b:.2f} | {ratio:.2f} |", flush=True)

    program = bench_binary("parts")
    for name, dtype, options in (("f32", torch.float32, []), ("bf16", torch.bfloat16, ["--bf16"])):
        with torch.inference_mode(), Ours([program, "--model", model, *options], threads) as ours:
            unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=dtype)
            unet = unet.eval().to(memory_format=torch.channels_last)
            for side in UNET_SIDES:
                row(f"UNet, {side} × {side} latent, {name}", unet_call(unet, 1, side, side), ours, f"1x{side}x{side}")
            del unet
    with torch.inference_mode(), Ours([program, "--model", model, "--part", "vae"], threads) as ours:
        vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32)
        vae = vae.eval().to(memory_format=torch.channels_last)
        latent = torch.randn(1, 4, VAE_SIDE, VAE_SIDE).to(memory_format=torch.channels_last)
        row(f"VAE decode, {8 * VAE_SIDE}², f32", lambda: vae.decode(latent), ours, f"1x{VAE_SIDE}x{VAE_SIDE}")


def measured(command, environment=None):
    """Runs a process; the last line of its output as JSON, its seconds, those of all threads, and its peak resident GiB."""
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, cwd=ROOT,
                               env={**os.environ, **(environment or {})})
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}: status {status}")
    lines = text.strip().splitlines()
    result = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {**result, "seconds": time.perf_counter() - started, "peak": usage.ru_maxrss / 2**20,
            "all_threads": usage.ru_utime + usage.ru_stime}


def relative_error(path, reference, name):
    """`|a - b| / |b|` of one tensor of two files."""
    from safetensors.numpy import load_file

    a, b = (load_file(p)[name].astype(np.float64) for p in (path, reference))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def gigabytes(path):
    files = [path] if path.is_file() else (path / "unet").glob("*.safetensors")
    return sum(f.stat().st_size for f in files) / 1e9


def make_single_file(model, path):
    """The model as checkpoints come, f16 with ldm's names; kept if it is there."""
    if path.exists():
        return
    sys.path.insert(0, str(ROOT / "tests/make_fixtures"))
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from make_single_file_fixtures import half, to_single_file
    from safetensors.torch import save_file
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    def part(kind, name):
        return kind.from_pretrained(model / name, torch_dtype=torch.float16)

    encoders = [part(CLIPTextModel, "text_encoder"), part(CLIPTextModelWithProjection, "text_encoder_2")]
    parts = {"unet": part(UNet2DConditionModel, "unet"), "vae": part(AutoencoderKL, "vae"), "encoders": encoders}
    save_file(half(to_single_file("sdxl", parts)[0]), path)


def sdcpp_job(python, single_file, picture, output, side, threads):
    """stable-diffusion.cpp's image to image with the same number of UNet calls, from the enlarged picture."""
    from PIL import Image

    enlarged = output.with_name("sdcpp-in.png")
    Image.open(picture).convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(enlarged)
    return [python, "-m", "cyllama.sd", "img2img", "--model", single_file, "--init-img", enlarged, "--prompt",
            CALLS["prompt"], "--strength", CALLS["strength"], "--steps", CALLS["num_inference_steps"], "--cfg-scale", 1,
            "--sampler", "euler", "--width", side, "--height", side, "--threads", threads, "--seed", 0, "--output", output]


def whole_jobs(work, model, program, sdcpp, side, threads):
    """One region, four of eight steps, in turn."""
    from PIL import Image

    picture = work / "in.png"
    photo = Image.open(next((ROOT / "samples").glob("*.jpg"))).convert("RGB")
    photo.resize((side // 4, side // 4), Image.Resampling.LANCZOS).save(picture)
    ours = [program, picture, "--scale", "4", "--steps", "8", "--denoise-steps", "4", "--captioner", "none",
            "--prompt", CALLS["prompt"], "--rap", "0", "--quiet"]
    print(f"| one {side}² region, 4 steps, f32 compute | seconds | peak memory |\n|---|---|---|", flush=True)
    quantized, single_file = work / "sdxl-q8_0.gguf", work / "sdxl-f16.safetensors"
    jobs = [
        ("diffusers (PyTorch), f32", [sys.executable, __file__, "--work", work, "--role", "job", "--job-side", side]),
        ("cupscale-fast, f16 folder", [*ours, "--model", model, "-o", work / "f16.png"]),
        ("cupscale-fast, q8_0 GGUF", [*ours, "--model", quantized, "-o", work / "q8_0.png"]),
    ]
    if sdcpp:
        subprocess.run([sys.executable, __file__, "--work", work, "--role", "single-file"], check=True)
        jobs += [
            ("stable-diffusion.cpp, f16 file", sdcpp_job(sdcpp, single_file, picture, work / "sdcpp.png", side, threads)),
            ("cupscale-fast, f16 file", [*ours, "--model", single_file, "-o", work / "single.png"]),
        ]
    for name, command in jobs:
        result = measured(command)
        print(f"| {name} | {result['seconds']:.0f} | {result['peak']:.1f} GiB |", flush=True)


def unet_errors(work, model, bench, side, types):
    """One UNet call of each kind of weights against PyTorch, and four steps."""
    inputs, reference = work / "inputs.safetensors", work / "reference.safetensors"
    make_inputs(inputs, side)
    result = measured([sys.executable, __file__, "--work", work, "--role", "unet"])
    print(f"\n| UNet alone, {side} × {side} latent | file | load | peak memory | one call | four steps |\n|---|---|---|---|---|---|")
    print(f"| PyTorch, f32 | {gigabytes(model):.1f} GB | | {result['peak']:.1f} GiB | | |", flush=True)
    for kind in types:
        path = model if kind == "f16" else work / f"sdxl-{kind}.gguf"
        outputs = work / f"{kind}.safetensors"
        result = measured([*bench, "--model", path, "--inputs", inputs, "--outputs", outputs])
        call, run = (relative_error(outputs, reference, name) for name in ("eps", "z"))
        print(f"| {kind} | {gigabytes(path):.1f} GB | {result['load_s']:.1f} s | {result['peak']:.1f} GiB "
              f"| {call:.1e} | {run:.1e} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="holds the random model and its GGUF files")
    parser.add_argument("--side", type=int, default=128, help="latent side of the UNet comparison")
    parser.add_argument("--types", nargs="*", default=TYPES, choices=TYPES)
    parser.add_argument("--only", nargs="*", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of single calls")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program in single calls")
    parser.add_argument("--role", choices=["calls", "job", "unet", "single-file"], help=argparse.SUPPRESS)
    parser.add_argument("--job-side", type=int, default=1024, help="side of the region of whole jobs")
    parser.add_argument("--sdcpp", type=pathlib.Path, help="Python of an environment that has cyllama")
    args = parser.parse_args()
    work, model = args.work.resolve(), args.work.resolve() / "sdxl-random"
    if args.role == "calls":
        return compare_calls(model, args.threads, args.rounds)
    if args.role == "single-file":
        return make_single_file(model, work / "sdxl-f16.safetensors")
    if args.role == "job":
        return torch_job(model, work / "in.png", work / "torch.png", args.job_side)
    if args.role == "unet":
        return torch_unet(model, work / "inputs.safetensors", work / "reference.safetensors")
    make_model(model)
    if "calls" in args.only:
        # A process of its own, whose memory is free again before the next.
        subprocess.run([sys.executable, __file__, "--work", work, "--role", "calls", "--threads", str(args.threads),
                        "--rounds", str(args.rounds)], check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "release/cupscale-fast"
    types = ({*args.types} if "errors" in args.only else set()) | ({"q8_0"} if "jobs" in args.only else set())
    for kind in types - {"f16"}:
        path = work / f"sdxl-{kind}.gguf"
        if not path.exists():
            subprocess.run([program, "models", "quantize", model, "-o", path, "--type", kind], check=True)
    if "jobs" in args.only:
        whole_jobs(work, model, program, args.sdcpp, args.job_side, args.threads)
    if "errors" in args.only:
        unet_errors(work, model, [bench_binary("parts")], args.side, args.types)
    print(f"\nfree disk: {shutil.disk_usage(work).free / 1e9:.0f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
