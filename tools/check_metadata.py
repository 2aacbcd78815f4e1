#!/usr/bin/env python3
"""What a picture keeps on its way through the program, format by format, as OTHER programs read it: makes pictures with
Pillow, ImageMagick, libvips, libavif, libheif, OpenEXR and ExifTool, enlarges each into every format, reads the outputs with
programs that are not this one, and prints docs/guide.md's table. Exit code 1: a cell is not as expected.

    python3 tools/check_metadata.py target/release/cupscale-fast

Outputs with the same cells share a row. The program needs the features heic and avif. Needs Pillow, pillow-heif, numpy and
OpenEXR (PyPI), and the programs exiftool, convert (ImageMagick), vips, avifenc, heif-enc, ff2png and png2ff (Debian:
libimage-exiftool-perl, imagemagick, libvips-tools, libavif-bin, libheif-examples, farbfeld).
"""

import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
import OpenEXR
import pillow_heif
from PIL import Image, ImageCms

pillow_heif.register_heif_opener()

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ["jpg", "png", "tif", "webp", "ppm", "pam", "ff", "exr", "hdr", "heic", "avif"]
TARGETS = ["jpg", "png", "tif", "webp", "ppm", "pam", "ff", "exr"]
NAMES = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WebP", "ppm": "PPM", "pam": "PAM", "ff": "farbfeld",
         "exr": "OpenEXR", "hdr": "Radiance HDR", "heic": "HEIC", "avif": "AVIF"}
# Formats that hold an EXIF block, a profile and the like, and that ExifTool writes them into.
WITH_METADATA = ["jpg", "png", "tif", "webp", "heic", "avif"]
COLUMNS = ["ICC", "EXIF", "XMP", "IPTC", "DPI", "alpha", "16 bits", "float", "grey", "maker note", "old thumbnail"]
SIZE = (48, 32)
# The model of the tests is a random one: a little of what it repaints leaves the colours what they are.
QUICK = ["-s", "2", "--denoise-steps", "1", "--captioner", "none", "--blend", "0.05", "-q"]
MODEL = ROOT / "tests/fixtures/img2img/model"
# Options of ExifTool, and what it then reads.
EXIF = {
    "EXIF:Artist": "Someone",
    "EXIF:ISO": 400,
    "EXIF:DateTimeOriginal": "2024:05:17 10:20:30",
    "EXIF:GPSLatitude": 48.2,
}
XMP = {"XMP:Rating": 4, "XMP:Label": "green"}
IPTC = {
    "IPTC:Caption-Abstract": "A caption",
    "IPTC:Keywords": ["one", "two"],
    "IPTC:City": "Vienna",
    "IPTC:By-line": "Someone Else",
}
IPTC_AS_XMP = {
    "XMP:Description": "A caption",
    "XMP:Subject": ["one", "two"],
    "XMP:City": "Vienna",
    "XMP:Creator": ["Someone Else"],
}
NOTE = "IMG:A camera that is none"
# Primaries and white of Adobe RGB, as OpenEXR states them, and its exponent.
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329)
EXPONENT = 563 / 256
# Light of the brightest pixel of the pictures of light, of which white is 1.
PEAK = 3.8


def run(*command, stdin=None):
    result = subprocess.run([str(word) for word in command], capture_output=True, input=stdin)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {result.stdout[-500:]}{result.stderr.decode(errors='replace')}")
    return result.stdout


def told(*command):
    return run(*command).decode().strip()


def exiftool(path):
    return json.loads(told("exiftool", "-j", "-n", "-G", "-struct", path))[0]


def holds(found, wanted):
    same = lambda a, b: abs(a - b) < 1e-3 if isinstance(b, float) else a == b
    return all(name in found and same(found[name], value) for name, value in wanted.items())


def adobe_profile():
    """A profile with Adobe RGB's primaries and curve."""
    fixed = lambda *values: struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
    xyz = lambda *values: b"XYZ \0\0\0\0" + fixed(*values)
    name = b"Wide\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", xyz(0.9642, 1, 0.8249)),
        (b"rXYZ", xyz(0.60974, 0.31111, 0.01947)),
        (b"gXYZ", xyz(0.20528, 0.62567, 0.06087)),
        (b"bXYZ", xyz(0.14919, 0.06322, 0.74457)),
    ]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(EXPONENT * 256))
    tags += [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags:
        table += tag + struct.pack(">II", at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = at + len(data)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ") + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


ICC = adobe_profile()


def in_srgb(image, profile):
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB", renderingIntent=1)


def canon_block():
    """An EXIF block whose maker note points, as Canon's do, to a text by its place in the block."""
    entry = lambda tag, kind, count, value: struct.pack("<HHI", tag, kind, count) + value
    make, note_text = b"Canon\0", NOTE.encode() + b"\0"
    ifd0 = 8
    exif = ifd0 + 2 + 2 * 12 + 4
    make_at = exif + 2 + 12 + 4
    note = make_at + len(make)
    note_length = 2 + 12 + 4
    text = note + note_length + 10
    block = b"II*\0" + struct.pack("<I", ifd0)
    block += struct.pack("<H", 2) + entry(0x010F, 2, len(make), struct.pack("<I", make_at))
    block += entry(0x8769, 4, 1, struct.pack("<I", exif)) + bytes(4)
    block += struct.pack("<H", 1) + entry(0x927C, 7, note_length, struct.pack("<I", note)) + bytes(4)
    block += make
    block += struct.pack("<H", 1) + entry(6, 2, len(note_text), struct.pack("<I", text)) + bytes(4)
    return block + bytes(10) + note_text


def write_exr(path, pixels, header=None, half=False):
    """An OpenEXR of floats, [height, width, channels]; of one channel grey, of four with alpha multiplied in."""
    pixels = np.ascontiguousarray(pixels, np.float16 if half else np.float32)
    names = {1: "Y", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    channels = {name: np.ascontiguousarray(pixels[..., at]) for at, name in enumerate(names)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | (header or {})
    OpenEXR.File(header, channels).write(str(path))


def read_exr(path):
    """Header and channels by their names."""
    part = OpenEXR.File(str(path), separate_channels=True).parts[0]
    return part.header, {name: channel.pixels.astype(np.float64) for name, channel in part.channels.items()}


def from_png(png, path):
    """The picture of a PNG in another format, made by another program."""
    match path.suffix[1:]:
        case "ff":
            path.write_bytes(run("png2ff", stdin=png.read_bytes()))
        case "avif":
            grey = ["-y", "400"] if Image.open(png).mode in ("L", "I;16") else ["-y", "444"]
            deep = ["-d", "10"] if "16-bit" in told("file", png) else []
            run("avifenc", "-s", "8", "--min", "0", "--max", "5", *grey, *deep, png, path)
        case "heic":
            deep = ["-b", "10"] if "16-bit" in told("file", png) else []
            run("heif-enc", "-q", "95", *deep, png, "-o", path)
        case "pam" if Image.open(png).mode == "L":
            # ImageMagick writes a grey one as colours.
            image = Image.open(png)
            head = f"P7\nWIDTH {image.width}\nHEIGHT {image.height}\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n"
            path.write_bytes(head.encode() + image.tobytes())
        case _:
            run("convert", png, path)


def make_inputs(folder):
    """Pictures of each kind in each format that has the kind: {kind: {format: path}}."""
    # Colours that sRGB has as well.
    picture = Image.new("RGB", SIZE)
    picture.putdata([(140 + x // 2, 180 + y // 2, 130 + (x + y) % 30) for y in range(SIZE[1]) for x in range(SIZE[0])])
    light = (np.asarray(picture) / 255) ** EXPONENT
    kinds = {kind: {} for kind in ["metadata", "alpha", "deep", "light", "grey", "note", "thumbnail"]}
    deep = np.add.outer(np.arange(SIZE[1]) * 900, np.arange(SIZE[0]) * 617)
    plain = {kind: folder / f"{kind}_made.png" for kind in ["alpha", "deep", "grey"]}
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(SIZE))
    alpha.save(plain["alpha"])
    Image.fromarray(deep.astype(np.uint16)).save(folder / "deep_grey.png")
    run("convert", folder / "deep_grey.png", "-depth", "16", "-define", "png:color-type=2", f"PNG48:{plain['deep']}")
    picture.convert("L").save(plain["grey"])
    for extension in SOURCES:
        path = lambda kind: folder / f"{kind}.{extension}"
        lossless = {"lossless": True} if extension == "webp" else {"quality": 95} if extension in ("heic", "avif", "jpg") else {}
        if extension in WITH_METADATA:
            picture.save(path("metadata"), dpi=(300, 300), icc_profile=ICC, **lossless)
            options = [f"-{name}={item}" for name, value in {**EXIF, **XMP}.items()
                       for item in (value if isinstance(value, list) else [value])]
            options += ["-EXIF:GPSLatitudeRef=N", "-XResolution=300", "-YResolution=300", "-ResolutionUnit=inches"]
            if extension in ("jpg", "tif"):
                options += [f"-{name}={item}" for name, value in IPTC.items()
                            for item in (value if isinstance(value, list) else [value])]
            run("exiftool", "-q", "-m", "-overwrite_original", *options, path("metadata"))
            kinds["metadata"][extension] = path("metadata")
            if extension != "tif":
                exif = canon_block() if extension == "avif" else b"Exif\0\0" + canon_block()
                picture.save(path("note"), exif=exif, **lossless)
                kinds["note"][extension] = path("note")
        if extension == "exr":
            packet = folder / "packet.xmp"
            run("exiftool", "-q", *[f"-{name}={value}" for name, value in XMP.items()], packet)
            header = {"chromaticities": ADOBE, "xDensity": 300.0, "xmp": packet.read_text()}
            write_exr(path("metadata"), light, header)
            kinds["metadata"]["exr"] = path("metadata")
            opacity = np.asarray(alpha)[..., 3:] / 255
            write_exr(path("alpha"), np.concatenate([light * opacity, opacity], -1))
            write_exr(path("deep"), np.repeat(deep[..., None] / 65535, 3, -1), half=True)
            write_exr(path("grey"), light[..., :1])
            write_exr(path("light"), light / light.max() * PEAK)
            for kind in ["alpha", "deep", "grey", "light"]:
                kinds[kind]["exr"] = path(kind)
        elif extension in ("tif", "hdr"):
            # libvips scales a picture to floats.
            picture.save(folder / "light_made.png")
            top = np.asarray(picture).max()
            target = path("light") if extension == "tif" else folder / "light_made.v"
            run("vips", "linear", folder / "light_made.png", target, str(PEAK / top), "0")
            if extension == "hdr":
                run("vips", "copy", folder / "light_made.v", f"{folder}/light_scrgb.v", "--interpretation", "scrgb")
                run("vips", "radsave", folder / "light_scrgb.v", path("light"))
            kinds["light"][extension] = path("light")
        has = {"alpha": extension in ("png", "tif", "webp", "pam", "ff", "heic", "avif"),
               "deep": extension in ("png", "tif", "ppm", "pam", "ff", "heic", "avif"),
               "grey": extension in ("jpg", "png", "tif", "pam", "heic", "avif", "ppm")}
        for kind in [kind for kind in has if has[kind]]:
            # A grey PPM is a PGM.
            made = folder / f"{kind}.pgm" if (kind, extension) == ("grey", "ppm") else path(kind)
            if (kind, extension) == ("alpha", "webp"):
                alpha.save(made, lossless=True)
            elif (kind, extension) == ("alpha", "heic"):
                alpha.save(made, quality=95)
            else:
                from_png(plain[kind], made)
            kinds[kind][extension] = made
    # ImageMagick puts IPTC into a PNG.
    run("convert", kinds["metadata"]["jpg"], folder / "iptc.png")
    run("exiftool", "-q", "-m", "-overwrite_original", "-tagsfromfile", kinds["metadata"]["png"],
        "-EXIF:all", "-XMP:all", folder / "iptc.png")
    kinds["metadata"]["png"] = folder / "iptc.png"
    picture.resize((16, 8)).save(folder / "small.jpg")
    picture.save(folder / "thumbnail.jpg", exif=b"Exif\0\0" + canon_block())
    run("exiftool", "-q", "-m", "-overwrite_original", f"-ThumbnailImage<={folder / 'small.jpg'}", folder / "thumbnail.jpg")
    kinds["thumbnail"]["jpg"] = folder / "thumbnail.jpg"
    return picture, kinds


class Output:
    """An output as other programs read it: samples [height, width, channels], white at 1."""

    def __init__(self, path):
        extension = path.suffix[1:]
        self.path, self.header, self.is_float = path, {}, False
        if extension == "exr":
            self.header, channels = read_exr(path)
            names = [name for name in "RGBYA" if name in channels]
            samples = np.stack([channels[name] for name in names], -1)
            self.has_alpha, self.is_grey, self.is_float = "A" in names, "Y" in names, True
        else:
            if extension == "ff":
                plain = path.with_suffix(".ff.png")
                plain.write_bytes(run("ff2png", stdin=path.read_bytes()))
            elif extension == "pam":
                plain = path.with_suffix(".pam.png")
                run("convert", path, plain)
            else:
                plain = path
            # A format is told as `uchar`, or as `((VipsBandFormat) VIPS_FORMAT_UCHAR)`.
            field = lambda name: told("vipsheader", "-f", name, plain).rstrip(")").split("_")[-1].lower()
            width, height, bands = int(field("width")), int(field("height")), int(field("bands"))
            kind, most = {"uchar": ("u1", 255), "ushort": ("u2", 65535), "float": ("f4", 1)}[field("format")]
            raw = path.with_suffix(".raw")
            run("vips", "rawsave", plain, raw)
            samples = np.fromfile(raw, kind).reshape(height, width, bands) / most
            self.has_alpha, self.is_grey, self.is_float = bands in (2, 4), bands in (1, 2), kind == "f4"
        if self.has_alpha and samples[..., -1].min() == 1:
            self.has_alpha = False
        assert samples.shape[:2] == (2 * SIZE[1], 2 * SIZE[0]), f"{path}: {samples.shape}"
        self.samples = samples

    def found(self):
        """What ExifTool finds; of an OpenEXR in its XMP attribute, as OpenEXR reads it."""
        if self.path.suffix in (".pam", ".ff"):
            # ExifTool does not know them. They have no place for anything.
            return {}
        if self.path.suffix != ".exr":
            return exiftool(self.path)
        packet = self.path.with_suffix(".xmp")
        packet.write_text(self.header.get("xmp", "<x/>"))
        return exiftool(packet) if "xmp" in self.header else {}

    def dpi(self):
        if self.path.suffix == ".exr":
            return [self.header.get("xDensity", 0)] * 2
        if self.path.suffix in (".ppm", ".pam", ".ff"):
            return [0, 0]
        return told("identify", "-units", "PixelsPerInch", "-format", "%x %y", self.path).split()

    def profile(self):
        return subprocess.run(["exiftool", "-icc_profile", "-b", str(self.path)], capture_output=True).stdout


def of_colours(output, source, picture):
    """What became of the colours of another profile or of other primaries."""
    if output.path.suffix == ".exr":
        there = np.array(output.header.get("chromaticities", (0,) * 8), float)
        return "primaries" if np.abs(there - ADOBE).max() < 0.005 else "no"
    profile = output.profile()
    if profile and source != "exr":
        return "yes" if profile == ICC else "no"
    if profile:
        # Full and no red, green and blue are the same whatever the curve.
        pure = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
        lab = ImageCms.createProfile("LAB")
        seen = [np.asarray(ImageCms.profileToProfile(pure, ImageCms.ImageCmsProfile(io.BytesIO(p)), lab, outputMode="LAB"))
                for p in (profile, ICC)]
        return "yes" if np.abs(seen[0].astype(int) - seen[1]).max() <= 2 else "no"
    mean = output.samples[..., :3].mean((0, 1)) * 255
    converted, left = (np.asarray(image).mean((0, 1)) for image in (in_srgb(picture, ICC), picture))
    assert np.abs(converted - left).max() > 15
    return "as sRGB" if np.abs(mean - converted).max() < 4 else "no"


def cells(program, picture, kinds, folder, source, target):
    """What an output in `target` has of an input in `source`, as other programs read it."""
    def enlarged(kind):
        path = kinds[kind].get(source)
        if path is None:
            return None
        out = folder / f"{kind}_{source}.{target}"
        run(program, path, "-o", out, "--model", MODEL, *QUICK)
        return Output(out)

    row = dict.fromkeys(COLUMNS, "–")
    if out := enlarged("metadata"):
        found, given = out.found(), exiftool(kinds["metadata"][source])
        yes = lambda wanted: "yes" if holds(found, wanted) else "no"
        row["ICC"], row["XMP"] = of_colours(out, source, picture), yes(XMP)
        if holds(given, EXIF):
            row["EXIF"] = yes(EXIF)
        if holds(given, IPTC):
            row["IPTC"] = "as XMP" if yes(IPTC) == "no" and yes(IPTC_AS_XMP) == "yes" else yes(IPTC)
        stated = [found.get(f"EXIF:{axis}Resolution", 0) for axis in "XY"]
        is_300 = lambda values: all(abs(float(value) - 300) < 1 for value in values) and len(values) == 2
        row["DPI"] = "yes" if is_300(out.dpi()) or is_300(stated) else "no"

    def ask(kind, column, read):
        if out := enlarged(kind):
            row[column] = "yes" if read(out) else "no"

    ask("alpha", "alpha", lambda out: out.has_alpha)
    ask("deep", "16 bits", lambda out: len(np.unique(out.samples[..., 0])) > 300)
    ask("light", "float", lambda out: out.is_float and out.samples.max() > 0.8 * PEAK)
    ask("grey", "grey", lambda out: out.is_grey)
    if out := enlarged("note"):
        found = out.found()
        is_right = found.get("MakerNotes:CanonImageType") == NOTE and "ExifTool:Warning" not in found
        row["maker note"] = "yes" if is_right else "no"
    if out := enlarged("thumbnail"):
        row["old thumbnail"] = "LEFT" if "EXIF:ThumbnailImage" in out.found() else "left out"
    return row


# What is not "yes" in a cell, by column: outputs that have no place for it.
ALONE = {"ppm": "no", "pam": "no", "ff": "no"}
EXPECTED = {
    "ICC": {"ppm": "as sRGB", "pam": "as sRGB", "ff": "as sRGB", "exr": "primaries"},
    "EXIF": {**ALONE, "exr": "no"},
    "XMP": ALONE,
    "IPTC": {"webp": "as XMP", "exr": "as XMP", **ALONE},
    "DPI": ALONE,
    "alpha": {"jpg": "no", "ppm": "no"},
    "16 bits": {"jpg": "no", "webp": "no"},
    "float": {target: "no" for target in TARGETS if target not in ("tif", "exr")},
    "grey": {"webp": "no", "ff": "no"},
    "maker note": {**ALONE, "exr": "no"},
    "old thumbnail": {target: "left out" for target in TARGETS},
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = pathlib.Path(sys.argv[1]).resolve()
    wrong = []
    print("| input | output | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        picture, kinds = make_inputs(folder)
        for source in SOURCES:
            rows = {}
            for target in TARGETS:
                row = cells(program, picture, kinds, folder, source, target)
                rows.setdefault(tuple(row.values()), []).append(NAMES[target])
                for column, cell in row.items():
                    if cell not in ("–", EXPECTED.get(column, {}).get(target, "yes")):
                        wrong.append(f"{source} to {target}: {column} is {cell}")
            for row, targets in rows.items():
                print(f"| {NAMES[source]} | {', '.join(targets)} | " + " | ".join(row) + " |", flush=True)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
