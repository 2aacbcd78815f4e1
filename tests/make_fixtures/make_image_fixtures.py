"""Makes tests/fixtures/image: small pictures as Pillow writes them, and Pillow's resizes.

    python tests/make_fixtures/make_image_fixtures.py

Needs numpy, Pillow and safetensors. Deterministic. What the Rust side should read from each file is in
pixels.safetensors (float samples, [h, w, c]); resizes of mode-F images are in resize.safetensors.
"""

import pathlib
import struct

import numpy as np
from PIL import Image, ImageCms, ImageOps
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "image"
OUT.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(7)


def smooth(h, w, c, seed):
    """A smooth random picture in [0, 1], so that lossy formats come close to it."""
    r = np.random.default_rng(seed)
    small = Image.fromarray((r.random((4, 4, c)) * 255).astype(np.uint8).squeeze())
    return np.asarray(small.resize((w, h), Image.BICUBIC), np.float64).reshape(h, w, c) / 255


def u8(x):
    return np.round(x * 255).astype(np.uint8)


pixels = {}


def note(name, array):
    pixels[name] = np.ascontiguousarray(array, np.float32)


rgb = u8(smooth(23, 31, 3, 1))
icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

exif = Image.Exif()
exif[271] = "Fixture maker"
exif[282], exif[283], exif[296] = 96.0, 96.0, 2
sub = exif.get_ifd(0x8769)
sub[0x8827] = 400
sub[0xA002], sub[0xA003] = 31, 23
xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="fixture"/></rdf:RDF></x:xmpmeta>'

# JPEG: what libjpeg decodes is the expectation. 4:4:4, so that decoders' ways of upsampling chroma do not matter.
jpeg = dict(quality=90, subsampling=0)
for name, image, options in [
    ("rgb.jpg", Image.fromarray(rgb), dict(icc_profile=icc, exif=exif, dpi=(300, 300), xmp=xmp)),
    ("grey.jpg", Image.fromarray(rgb[..., 0]), {}),
    ("progressive.jpg", Image.fromarray(rgb), dict(progressive=True)),
    ("cmyk.jpg", Image.fromarray(u8(smooth(16, 16, 4, 2)), "CMYK"), {}),
]:
    image.save(OUT / name, **jpeg, **options)
    back = Image.open(OUT / name)
    array = np.asarray(back, np.float64) / 255
    if back.mode == "CMYK":
        array = (1 - array[..., :3]) * (1 - array[..., 3:])
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, 2)
    note(name, array)

# All eight orientations of one picture, asymmetric in both directions; Pillow says what upright is.
pattern = u8(smooth(16, 24, 3, 3))
for n in range(1, 9):
    e = Image.Exif()
    e[274] = n
    name = f"orientation{n}.png"
    Image.fromarray(pattern).save(OUT / name, exif=e)
    upright = ImageOps.exif_transpose(Image.open(OUT / name))
    note(name, np.asarray(upright, np.float64) / 255)

# PNG kinds.
deep = np.round(smooth(9, 13, 3, 4) * 65535).astype(np.uint16) + rng.integers(0, 9, (9, 13, 3), np.uint16) * 7
grey16 = deep[..., 0]
Image.fromarray(grey16).save(OUT / "grey16.png")
note("grey16.png", np.repeat(grey16[..., None] / 65535, 3, 2))
rgba = np.concatenate([rgb, np.maximum(u8(smooth(23, 31, 1, 5)), 1)], 2)
Image.fromarray(rgba).save(OUT / "rgba.png")
note("rgba.png", rgba / 255)
indexed = Image.fromarray(rgb).quantize(16)
indexed.save(OUT / "palette.png", bits=4)
note("palette.png", np.asarray(indexed.convert("RGB"), np.float64) / 255)
bilevel = Image.fromarray(rgb[..., 1]).convert("1")
bilevel.save(OUT / "bilevel.png")
note("bilevel.png", np.repeat(np.asarray(bilevel, np.float64)[..., None], 3, 2))

# TIFF kinds.
def tiff16(path, array, **tags):
    """Pillow writes no 16-bit RGB; a big-endian, uncompressed strip by hand."""
    h, w, c = array.shape
    body = array.astype(">u2").tobytes()
    entries = [(256, 3, 1, w << 16), (257, 3, 1, h << 16), (259, 3, 1, 1 << 16), (262, 3, 1, 2 << 16),
               (277, 3, 1, c << 16), (278, 3, 1, h << 16), (279, 4, 1, len(body))]
    after = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(258, 3, c, after), (273, 4, 1, after + 2 * c)]
    out = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    for tag, kind, count, value in sorted(entries):
        out += struct.pack(">HHII", tag, kind, count, value)
    out += struct.pack(">I", 0) + struct.pack(">H", 16) * c + body
    path.write_bytes(out)


tiff16(OUT / "rgb16.tif", deep)
note("rgb16.tif", deep / 65535)
Image.fromarray(rgb).save(OUT / "lzw.tif", compression="tiff_lzw", dpi=(240, 240), icc_profile=icc)
note("lzw.tif", rgb / 255)
f32 = smooth(7, 11, 1, 6)[..., 0].astype(np.float32)
Image.fromarray(f32).save(OUT / "float.tif")
note("float.tif", np.repeat(f32[..., None], 3, 2))
Image.fromarray(rgb[..., 2]).convert("1").save(OUT / "bilevel.tif")
note("bilevel.tif", np.repeat(np.asarray(Image.fromarray(rgb[..., 2]).convert("1"), np.float64)[..., None], 3, 2))
cmyk = u8(smooth(16, 16, 4, 2))
Image.fromarray(cmyk, "CMYK").save(OUT / "cmyk.tif")
ink = cmyk / 255
note("cmyk.tif", (1 - ink[..., :3]) * (1 - ink[..., 3:]))

# WebP kinds.
Image.fromarray(rgba).save(OUT / "lossless.webp", lossless=True, exact=True, exif=exif, icc_profile=icc, xmp=xmp)
note("lossless.webp", rgba / 255)
Image.fromarray(rgb).save(OUT / "lossy.webp", quality=95)
note("lossy.webp", np.asarray(Image.open(OUT / "lossy.webp").convert("RGB"), np.float64) / 255)

save_file(pixels, OUT / "pixels.safetensors")

# Resizes: f32 planes through Pillow's mode F.
resizes = {}
source = rng.random((29, 37)).astype(np.float32)
resizes["source"] = source
image = Image.fromarray(source)
for w, h in [(148, 116), (41, 32), (137, 107), (74, 58), (37, 29), (9, 7), (1, 1), (100, 5), (5, 100)]:
    resizes[f"lanczos_{w}x{h}"] = np.asarray(image.resize((w, h), Image.LANCZOS))
one = Image.fromarray(np.full((1, 1), 0.375, np.float32))
resizes["one_lanczos_5x3"] = np.asarray(one.resize((5, 3), Image.LANCZOS))
even = source[:28, :36]
resizes["even"] = np.ascontiguousarray(even)
for n in (2, 4):
    resizes[f"reduce_{n}"] = np.asarray(Image.fromarray(even).reduce(n))
# Area means at fractions, by the definition: integrate the piecewise constant picture exactly.
def area(n, m):
    edges = np.arange(m + 1) * n / m
    k = np.arange(n)
    low = np.maximum(edges[:-1, None], k)
    high = np.minimum(edges[1:, None], k + 1)
    return np.maximum(high - low, 0) * m / n
resizes["area_11x8"] = (area(29, 8) @ source.astype(np.float64) @ area(37, 11).T).astype(np.float32)
save_file(resizes, OUT / "resize.safetensors")
print(sum(p.stat().st_size for p in OUT.iterdir()) // 1024, "KiB")
