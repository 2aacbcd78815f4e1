"""Makes tests/fixtures/image/light: netpbm's formats, farbfeld, OpenEXR, Radiance HDR and float TIFF, written by other programs.

    python tests/make_fixtures/make_light_fixtures.py

Needs numpy, Pillow, OpenEXR, tifffile and imagecodecs, and the programs convert (ImageMagick) and vips. Every picture is 27 x 21
pixels of the same formula, so that the Rust side needs no file to compare with.
"""

import pathlib
import struct
import subprocess

import numpy as np
import OpenEXR
import tifffile
from PIL import Image

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "image" / "light"
OUT.mkdir(parents=True, exist_ok=True)
WIDTH, HEIGHT = 27, 21
y, x, c = np.mgrid[0:HEIGHT, 0:WIDTH, 0:3]
number = x * 7 + y * 13 + c * 29

# Whole numbers.
rgb8 = (number % 256).astype(np.uint8)
rgb16 = (number * 401 % 65536).astype(np.uint16)
alpha8 = ((x[..., :1] * 3 + y[..., :1] * 5) % 256).astype(np.uint8)
bits = (number[..., 0] % 3 == 0)


def convert(source, *options):
    subprocess.run(["convert", source, *options], check=True)


work = OUT / "work"
work.mkdir(exist_ok=True)
Image.fromarray(rgb8).save(work / "rgb8.png")
Image.fromarray(rgb8[..., 0]).save(work / "grey8.png")
Image.fromarray(np.concatenate([rgb8, alpha8], 2)).save(work / "rgba8.png")
Image.fromarray(bits).save(work / "bits.png")
tifffile.imwrite(work / "rgb16.tif", rgb16, photometric="rgb")
for name, source, options in [
    ("rgb8.ppm", "rgb8.png", []),
    ("rgb8_plain.ppm", "rgb8.png", ["-compress", "none"]),
    ("rgb16.ppm", "rgb16.tif", ["-depth", "16"]),
    ("grey8.pgm", "grey8.png", []),
    ("grey8_plain.pgm", "grey8.png", ["-compress", "none"]),
    ("bits.pbm", "bits.png", []),
    ("bits_plain.pbm", "bits.png", ["-compress", "none"]),
    ("rgba8.pam", "rgba8.png", []),
    ("grey8.pam", "grey8.png", []),
]:
    convert(work / source, *options, OUT / name)
# No program at hand writes it; this is the whole of its manual.
rgba16 = np.concatenate([rgb16, alpha8.astype(np.uint16) * 257], 2)
(OUT / "rgba16.ff").write_bytes(b"farbfeld" + struct.pack(">II", WIDTH, HEIGHT) + rgba16.astype(">u2").tobytes())

# Light, exact in 16 bits: up to 63/16.
light = (number % 64 / 16).astype(np.float32)
alpha = ((x[..., 0] * 3 + y[..., 0] * 5) % 4 + 1).astype(np.float32) / 4
half = np.float16


def exr(name, channels, **header):
    header.setdefault("compression", OpenEXR.ZIP_COMPRESSION)
    header.setdefault("type", OpenEXR.scanlineimage)
    channels = {key: np.ascontiguousarray(value) for key, value in channels.items()}
    OpenEXR.File(header, channels).write(str(OUT / name))


def planes(kind, prefix=""):
    return {prefix + key: light[..., at].astype(kind) for at, key in enumerate("RGB")}


for name in ["NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A"]:
    exr(f"{name.lower()}.exr", planes(half), compression=getattr(OpenEXR, f"{name}_COMPRESSION"))
exr("dwaa.exr", planes(half), compression=OpenEXR.DWAA_COMPRESSION)
exr("float_alpha.exr", {**{k: v * alpha for k, v in planes(np.float32).items()}, "A": alpha})
tiles = OpenEXR.TileDescription()
tiles.xSize = tiles.ySize = 8
exr("tiles.exr", planes(half), type=OpenEXR.tiledimage, tiles=tiles)
exr("decreasing.exr", planes(half), lineOrder=OpenEXR.DECREASING_Y)
exr("grey.exr", {"Y": light[..., 0].astype(half)})
exr("layers.exr", {**planes(half), "Z": light[..., 0], **planes(half, "diffuse.")})
exr("whole_numbers.exr", {key: (value * 16).astype(np.uint32) for key, value in planes(np.float32).items()})
aces = (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767)
exr("aces.exr", planes(half), chromaticities=aces)
parts = [OpenEXR.Part({}, planes(half), "first"), OpenEXR.Part({}, planes(half), "second")]
OpenEXR.File(parts).write(str(OUT / "parts.exr"))

tifffile.imwrite(OUT / "light.tif", light, photometric="rgb", compression="deflate", predictor=3)
# libvips cuts what its 8 bits of a number do not hold, up to 1/64 here.
subprocess.run(["vips", "copy", OUT / "light.tif", work / "light.v", "--interpretation", "scrgb"], check=True)
subprocess.run(["vips", "radsave", work / "light.v", OUT / "light.hdr"], check=True)
for file in work.iterdir():
    file.unlink()
work.rmdir()
