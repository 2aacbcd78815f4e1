"""Makes tests/fixtures/image/inputs: pictures of the formats that are only read, and what they look like.

    python tests/make_fixtures/make_input_kinds_fixtures.py

Needs numpy, Pillow 11 or later, safetensors, imagecodecs, pillow-heif and brotli, and the programs convert (ImageMagick 6), cjxl and djxl (libjxl),
heif-enc and heif-convert (libheif, with x265), avifenc and avifdec (libavif) and exiftool. What the Rust side should read is in pixels.safetensors (float
samples of red, green, blue and, where there is one, alpha; [h, w, c]): the pixels that a lossless file was made from, and of
others those that Pillow or the format's own program reads. Frames of animations are `NAME/1`, `NAME/2` …, as Pillow or
ImageMagick composes them.
"""

import io
import pathlib
import struct
import subprocess
import tempfile
import zlib

import brotli
import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image, ImageOps
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "image" / "inputs"
OUT.mkdir(parents=True, exist_ok=True)
work = pathlib.Path(tempfile.mkdtemp())
pixels = {}


def smooth(h, w, c, seed):
    """A smooth random picture in [0, 1]."""
    r = np.random.default_rng(seed)
    small = Image.fromarray((r.random((4, 4, c)) * 255).astype(np.uint8).squeeze())
    return np.asarray(small.resize((w, h), Image.BICUBIC), np.float64).reshape(h, w, c) / 255


def note(name, array):
    array = np.asarray(array, np.float32)
    pixels[name] = np.ascontiguousarray(np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array)


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


rgb = np.round(smooth(21, 27, 3, 1) * 255).astype(np.uint8)
grey = np.ascontiguousarray(rgb[..., 1])
alpha = np.round(smooth(21, 27, 1, 2) * 255).astype(np.uint8).clip(1, 255)
rgba = np.dstack([rgb, alpha])
deep = np.round(smooth(21, 27, 3, 3) * 65535).astype(np.uint16)
Image.fromarray(rgb).save(work / "rgb.png")
Image.fromarray(grey).save(work / "grey.png")
Image.fromarray(rgba).save(work / "rgba.png")
(work / "deep.ppm").write_bytes(b"P6\n27 21\n65535\n" + deep.astype(">u2").tobytes())
(work / "deep.pgm").write_bytes(b"P5\n27 21\n65535\n" + deep[..., 1].astype(">u2").tobytes())

# Simple formats.
for name, picture in [("rgb.bmp", rgb), ("rgb.tga", rgb), ("rgba.tga", rgba), ("grey.tga", grey)]:
    Image.fromarray(picture).save(OUT / name, **({"compression": "tga_rle"} if name == "rgba.tga" else {}))
    note(name, picture / 255)
Image.fromarray(grey).save(OUT / "grey.bmp")
note("grey.bmp", grey / 255)
run("convert", work / "rgba.png", f"BMP:{OUT / 'rgba.bmp'}")
note("rgba.bmp", rgba / 255)
(OUT / "rgba.qoi").write_bytes(imagecodecs.qoi_encode(rgba))
note("rgba.qoi", rgba / 255)
Image.fromarray(rgba).save(OUT / "icon.ico", sizes=[(16, 12), (27, 21)])
note("icon.ico", rgba / 255)
run("convert", work / "rgba.png", "-resize", "28x20!", "-define", "dds:mipmaps=0", OUT / "rgba.dds")
note("rgba.dds", np.asarray(Image.open(OUT / "rgba.dds").convert("RGBA")) / 255)

# GIF: a palette, a grey one, a transparent one.
few = Image.fromarray(rgb).quantize(60)
few.save(OUT / "palette.gif")
note("palette.gif", np.asarray(few.convert("RGB")) / 255)
Image.fromarray(grey).save(OUT / "grey.gif")
note("grey.gif", grey / 255)

# Photoshop, by ImageMagick: packed and plain, 16 bits, CMYK, with a transparent layer.
run("convert", work / "rgb.png", "-compress", "RLE", OUT / "rgb.psd")
note("rgb.psd", rgb / 255)
run("convert", work / "deep.ppm", "-compress", "None", OUT / "deep.psd")
note("deep.psd", deep / 65535)
run("convert", work / "deep.pgm", "-density", "300", OUT / "deep_grey.psb")
note("deep_grey.psb", deep[..., 1] / 65535)
run("convert", work / "rgb.png", "-colorspace", "CMYK", OUT / "cmyk.psd")
ink = np.asarray(Image.open(OUT / "cmyk.psd"), np.float64) / 255
note("cmyk.psd", (1 - ink[..., :3]) * (1 - ink[..., 3:]))
few_psd = few.copy()
few_psd.save(work / "few.png")
run("convert", work / "few.png", "-type", "Palette", OUT / "palette.psd")
note("palette.psd", np.asarray(few.convert("RGB")) / 255)

# JPEG 2000 without losses, by OpenJPEG; one with XMP and EXIF.
for name, picture in [("rgb.jp2", rgb), ("rgba.jp2", rgba), ("grey.j2k", grey)]:
    Image.fromarray(picture).save(OUT / name, irreversible=False)
    note(name, picture / 255)
(OUT / "deep.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, level=0, reversible=True, codecformat="jp2"))
note("deep.jp2", deep / 65535)
run("exiftool", "-q", "-overwrite_original", "-XMP-dc:Title=A title", "-EXIF:Artist=Somebody", OUT / "rgb.jp2")

# JPEG XL without losses; one that lies on its side, with EXIF and XMP, which cjxl compresses.
for name, picture in [("rgb.jxl", "rgb.png"), ("rgba.jxl", "rgba.png"), ("deep.jxl", "deep.ppm"), ("grey.jxl", "grey.png")]:
    run("cjxl", "-d", "0", work / picture, OUT / name)
note("rgb.jxl", rgb / 255)
note("rgba.jxl", rgba / 255)
note("deep.jxl", deep / 65535)
note("grey.jxl", grey / 255)
Image.fromarray(rgb).save(work / "side.jpg", quality=95, subsampling=0)
run("exiftool", "-q", "-overwrite_original", "-n", "-Orientation=6", "-Artist=Somebody", work / "side.jpg")
run("cjxl", work / "side.jpg", "--lossless_jpeg=0", "-d", "0", OUT / "side.jxl")
run("exiftool", "-q", "-overwrite_original", "-XMP-dc:Title=A title", OUT / "side.jxl")
# As newer versions of cjxl write it.
packed = b"Exif" + brotli.compress(bytes(4) + Image.open(work / "side.jpg").info["exif"][6:])
with open(OUT / "side.jxl", "ab") as file:
    file.write((len(packed) + 8).to_bytes(4, "big") + b"brob" + packed)
note("side.jxl", np.rot90(np.asarray(Image.open(work / "side.jpg")), 3) / 255)

# HEIC by x265, and what libheif reads.
for name, options, picture in [
    ("rgb.heic", ["-q", "90", "-p", "chroma=444"], "rgb.png"),
    ("rgba.heic", ["-q", "90", "-p", "chroma=444"], "rgba.png"),
    ("side.heic", ["-q", "90", "-p", "chroma=444"], "side.jpg"),
]:
    run("heif-enc", *options, work / picture, "-o", OUT / name)
    run("heif-convert", OUT / name, work / "seen.png")
    note(name, imagecodecs.png_decode((work / "seen.png").read_bytes()) / 255)
pillow_heif.from_bytes("RGB;16", (27, 21), deep.tobytes()).save(OUT / "deep.heic", quality=95, chroma=444)
seen = pillow_heif.open_heif(OUT / "deep.heic", convert_hdr_to_8bit=False)
note("deep.heic", np.asarray(seen, np.float64) / (65535 if np.asarray(seen).max() > 1023 else 1023))
run("convert", work / "deep.ppm", work / "deep.png")

# AVIF by Pillow's libavif, and what it reads; one that lies on its side, and one of tiles.
Image.fromarray(rgba).save(OUT / "rgba.avif", quality=95, subsampling="4:4:4")
Image.fromarray(rgb).save(OUT / "rgb.avif", quality=95)
Image.fromarray(grey).save(OUT / "grey.avif", quality=95)
run("avifenc", "--irot", "1", "--imir", "0", "--min", "2", "--max", "6", "-y", "444", "-r", "limited", work / "rgb.png", OUT / "side.avif")
run("avifenc", "-d", "10", "--min", "2", "--max", "6", "-y", "422", work / "deep.png", OUT / "deep.avif")
big = Image.fromarray(np.round(smooth(96, 160, 3, 5) * 255).astype(np.uint8))
big.save(work / "big.png")
run("avifenc", "--min", "10", "--max", "20", "--grid", "2x1", work / "big.png", OUT / "tiles.avif")
for name in ["rgba.avif", "rgb.avif", "grey.avif", "side.avif", "deep.avif", "tiles.avif"]:
    run("avifdec", "-d", "16", OUT / name, work / "seen.png")
    seen = imagecodecs.png_decode((work / "seen.png").read_bytes())
    note(name, seen / 65535)
# Of how a picture lies Pillow makes an orientation.
note("side.avif", np.asarray(ImageOps.exif_transpose(Image.open(OUT / "side.avif"))) / 255)

# Animations: frames of a part of the canvas that dispose of themselves in every way, and blend.
frames = []
for at in range(4):
    frame = np.zeros((18, 24, 4), np.uint8)
    frame[2 * at:2 * at + 8, 3 * at:3 * at + 9] = [60 * at, 200 - 40 * at, 90, 255]
    if at == 0:
        frame[..., :] = np.dstack([np.full((18, 24), v, np.uint8) for v in (200, 30, 60, 255)])
    frames.append(Image.fromarray(frame))
frames[0].save(OUT / "frames.gif", save_all=True, append_images=frames[1:], duration=90, disposal=[1, 2, 3, 1])
frames[0].save(OUT / "frames.png", save_all=True, append_images=frames[1:], duration=90, disposal=[0, 1, 2, 0], blend=[0, 1, 1, 1])
frames[0].save(OUT / "frames.webp", save_all=True, append_images=frames[1:], duration=90, lossless=True, exact=True)
animation = Image.open(OUT / "frames.webp")
for at in range(animation.n_frames):
    animation.seek(at)
    note(f"frames.webp/{at + 1}", np.asarray(animation.convert("RGBA")) / 255)


def compose(data):
    """Frames of an APNG by the letter of the PNG specification, 12.4 and 13.11; Pillow loses what a frame has gone back to."""
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at:at + 4], "big")
        chunks.append((data[at + 4:at + 8], data[at + 8:at + 8 + length]))
        at += 12 + length
    frames = []
    for kind, body in chunks:
        if kind == b"fcTL":
            frames.append([struct.unpack(">5I2H2B", body), b""])
        elif kind in (b"IDAT", b"fdAT"):
            frames[-1][1] += body[4 * (kind == b"fdAT"):]
    head = chunks[0][1]
    canvas = np.zeros((*struct.unpack(">II", head[:8])[::-1], 4))
    make = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for (_, width, height, x, y, _, _, dispose, blend), body in frames:
        png = data[:8] + make(b"IHDR", struct.pack(">II", width, height) + head[8:])
        png += b"".join(make(*chunk) for chunk in chunks if chunk[0] in (b"PLTE", b"tRNS")) + make(b"IDAT", body) + make(b"IEND", b"")
        frame = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")) / 255
        before = canvas.copy()
        part = canvas[y:y + height, x:x + width]
        # All pixels here are opaque or invisible.
        part[:] = frame if blend == 0 else np.where(frame[..., 3:] > 0, frame, part)
        yield canvas.copy()
        if dispose == 1:
            part[:] = 0
        elif dispose == 2:
            canvas = before


for at, frame in enumerate(compose((OUT / "frames.png").read_bytes())):
    note(f"frames.png/{at + 1}", frame)
# Pillow paints over a frame that disposes of itself, where viewers show what is behind the picture.
run("convert", OUT / "frames.gif", "-coalesce", work / "frame_%d.png")
for at in range(4):
    note(f"frames.gif/{at + 1}", np.asarray(Image.open(work / f"frame_{at}.png").convert("RGBA")) / 255)
run("cjxl", "-d", "0", OUT / "frames.gif", OUT / "frames.jxl")
run("djxl", OUT / "frames.jxl", work / "seen.apng")
for at, frame in enumerate(compose((work / "seen.apng").read_bytes())):
    note(f"frames.jxl/{at + 1}", frame)
# A frame that is smaller than the canvas comes first.
run("convert", "-size", "9x8", "xc:#3366cc", "-repage", "24x18+5+4", OUT / "offset.gif")
# Viewers show nothing where a GIF has no frame, and not its background colour.
whole = np.zeros((18, 24, 4))
whole[4:12, 5:14] = [0.2, 0.4, 0.8, 1]
note("offset.gif", whole)

# Pages of a TIFF.
pages = [Image.fromarray(np.roll(rgb, 5 * at, axis=1)) for at in range(3)]
pages[0].save(OUT / "pages.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
for at, page in enumerate(pages):
    note(f"pages.tif/{at + 1}", np.asarray(page) / 255)

save_file(pixels, OUT / "pixels.safetensors")
print(f"{len(pixels)} pictures in {OUT}")
