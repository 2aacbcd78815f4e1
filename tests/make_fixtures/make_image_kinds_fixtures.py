"""Makes tests/fixtures/image/kinds: JPEG and TIFF files of kinds that Pillow does not write, and what they look like.

    python tests/make_fixtures/make_image_kinds_fixtures.py

Needs numpy, Pillow, safetensors, tifffile and imagecodecs, and the programs cjpeg (libjpeg-turbo), tiffcp and convert
(ImageMagick 6). What the Rust side should read from each file is in pixels.safetensors (float samples, [h, w, c]): the
pixels that Pillow reads or, where it cannot, those that the file was made from.
"""

import pathlib
import subprocess
import tempfile

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "image" / "kinds"
OUT.mkdir(parents=True, exist_ok=True)
pixels = {}


def smooth(h, w, c, seed):
    """A smooth random picture in [0, 1], so that lossy formats come close to it."""
    r = np.random.default_rng(seed)
    small = Image.fromarray((r.random((4, 4, c)) * 255).astype(np.uint8).squeeze())
    return np.asarray(small.resize((w, h), Image.BICUBIC), np.float64).reshape(h, w, c) / 255


def note(name, array):
    array = np.asarray(array, np.float32)
    pixels[name] = np.ascontiguousarray(np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array)


def seen_by_pillow(name):
    picture = Image.open(OUT / name)
    array = np.asarray(picture, np.float64) / 255
    if picture.mode == "CMYK":
        array = (1 - array[..., :3]) * (1 - array[..., 3:])
    note(name, array)


def run(command, **options):
    subprocess.run(command, check=True, **options)


rgb = np.round(smooth(21, 27, 3, 1) * 255).astype(np.uint8)
grey = rgb[..., 1]
work = pathlib.Path(tempfile.mkdtemp())
Image.fromarray(rgb).save(work / "rgb.ppm")
Image.fromarray(rgb).save(work / "rgb.tif")

# JPEG: scans of one component each, with subsampled chroma; unusual factors; YCCK; 12 bits; arithmetic coding.
(work / "scans").write_text("0;\n1;\n2;\n")
for name, options in [
    ("apart_2x2.jpg", ["-sample", "2x2", "-scans", work / "scans"]),
    ("apart_1x2.jpg", ["-sample", "1x2", "-scans", work / "scans"]),
    ("progressive_2x2.jpg", ["-sample", "2x2", "-progressive"]),
    ("restart_2x1.jpg", ["-sample", "2x1", "-restart", "1"]),
    ("rgb.jpg", ["-rgb"]),
    ("sample_4x1.jpg", ["-sample", "4x1"]),
    ("arithmetic.jpg", ["-arithmetic"]),
]:
    with open(OUT / name, "wb") as out:
        run(["cjpeg", "-quality", "90", *options, work / "rgb.ppm"], stdout=out)
    if name != "arithmetic.jpg":
        seen_by_pillow(name)
ink = np.round(smooth(16, 24, 4, 2) * 255).astype(np.uint8)
(OUT / "ycck.jpg").write_bytes(imagecodecs.jpeg8_encode(255 - ink, level=95, colorspace="CMYK", outcolorspace="YCCK"))
seen_by_pillow("ycck.jpg")
deep = np.round(smooth(21, 19, 3, 3) * 4095).astype(np.uint16)
(OUT / "twelve.jpg").write_bytes(imagecodecs.jpeg8_encode(deep, level=97, bitspersample=12, subsampling="444"))
note("twelve.jpg", deep / 4095)

# TIFF.
run(["tiffcp", "-c", "jpeg:90", work / "rgb.tif", OUT / "ycbcr_jpeg.tif"])
seen_by_pillow("ycbcr_jpeg.tif")
bits = (grey > 128).astype(np.uint8)
Image.fromarray(bits * 255).convert("1").save(OUT / "group3.tif", compression="group3")
note("group3.tif", bits.astype(np.float64))
Image.fromarray(bits * 255).convert("1").save(work / "bits.tif")
run(["tiffcp", "-c", "g4", "-f", "lsb2msb", work / "bits.tif", OUT / "group4_lsb.tif"])
note("group4_lsb.tif", bits.astype(np.float64))
with tifffile.TiffWriter(OUT / "preview_first.tif") as out:
    out.write(rgb[::3, ::3], photometric="rgb", subfiletype=1)
    out.write(rgb, photometric="rgb", subfiletype=0, compression="lzw", predictor=True)
note("preview_first.tif", rgb / 255)
tifffile.imwrite(OUT / "webp.tif", rgb, photometric="rgb", compression="webp", compressionargs={"lossless": True})
note("webp.tif", rgb / 255)
tifffile.imwrite(OUT / "float_tiles.tif", smooth(21, 27, 3, 1).astype(np.float32), photometric="rgb", tile=(16, 32), compression="deflate", predictor=True)
note("float_tiles.tif", smooth(21, 27, 3, 1))
tifffile.imwrite(OUT / "planes.tif", rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="packbits", rowsperstrip=6)
note("planes.tif", rgb / 255)

save_file(pixels, OUT / "pixels.safetensors")
(OUT / "pixels.safetensors").chmod(0o644)
print(sum(p.stat().st_size for p in OUT.iterdir()) // 1024, "KiB")
