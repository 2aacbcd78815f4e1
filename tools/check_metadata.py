#!/usr/bin/env python3
"""What a picture keeps on its way through the program, format by format, as OTHER programs read it: makes pictures with
Pillow, ImageMagick and ExifTool, enlarges each into every format, reads the outputs with ExifTool, ImageMagick and
libvips, and prints docs/guide.md's table. Exit code 1: a cell is not as expected.

    python3 tools/check_metadata.py target/release/cupscale-fast

Needs Pillow and the programs exiftool, convert (ImageMagick) and vipsheader (Debian: libimage-exiftool-perl, imagemagick,
libvips-tools).
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

from PIL import Image, ImageCms

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORMATS = ["jpg", "png", "tif", "webp"]
NAMES = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WebP"}
SIZE = (48, 32)
QUICK = ["-s", "2", "--denoise-steps", "1", "--captioner", "none", "-q"]
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


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {result.stdout}{result.stderr}")
    return result.stdout.strip()


def exiftool(path):
    return json.loads(run("exiftool", "-j", "-n", "-G", "-struct", path))[0]


def holds(found, wanted):
    same = lambda a, b: abs(a - b) < 1e-3 if isinstance(b, float) else a == b
    return all(name in found and same(found[name], value) for name, value in wanted.items())


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


def make_inputs(folder):
    """Pictures of each kind in each format that has the kind: {kind: {format: path}}."""
    picture = Image.new("RGB", SIZE)
    picture.putdata([(x * 5, y * 7, (x * y) % 256) for y in range(SIZE[1]) for x in range(SIZE[0])])
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (folder / "p.icc").write_bytes(icc)
    kinds = {kind: {} for kind in ["metadata", "alpha", "deep", "grey", "note", "thumbnail"]}
    for extension in FORMATS:
        path = lambda kind: folder / f"{kind}.{extension}"
        lossless = {"lossless": True} if extension == "webp" else {}
        picture.save(path("metadata"), dpi=(300, 300), icc_profile=icc, **lossless)
        options = [f"-{name}={item}" for name, value in {**EXIF, **XMP}.items()
                   for item in (value if isinstance(value, list) else [value])]
        options += ["-EXIF:GPSLatitudeRef=N", "-XResolution=300", "-YResolution=300", "-ResolutionUnit=inches"]
        if extension in ("jpg", "tif"):
            options += [f"-{name}={item}" for name, value in IPTC.items()
                        for item in (value if isinstance(value, list) else [value])]
        run("exiftool", "-q", "-m", "-overwrite_original", *options, path("metadata"))
        kinds["metadata"][extension] = path("metadata")
        if extension != "jpg":
            alpha = picture.copy()
            alpha.putalpha(Image.linear_gradient("L").resize(SIZE))
            alpha.save(path("alpha"), **lossless)
            kinds["alpha"][extension] = path("alpha")
        if extension in ("png", "tif"):
            run("convert", "-size", f"{SIZE[0]}x{SIZE[1]}", "gradient:#123456-#fedcba", "-depth", "16", path("deep"))
            kinds["deep"][extension] = path("deep")
        if extension != "webp":
            picture.convert("L").save(path("grey"))
            kinds["grey"][extension] = path("grey")
        if extension != "tif":
            picture.save(path("note"), exif=b"Exif\0\0" + canon_block(), **lossless)
            kinds["note"][extension] = path("note")
    # ImageMagick puts IPTC into a PNG.
    run("convert", kinds["metadata"]["jpg"], folder / "iptc.png")
    run("exiftool", "-q", "-m", "-overwrite_original", "-tagsfromfile", kinds["metadata"]["png"],
        "-EXIF:all", "-XMP:all", folder / "iptc.png")
    kinds["metadata"]["png"] = folder / "iptc.png"
    picture.resize((16, 8)).save(folder / "small.jpg")
    picture.save(folder / "thumbnail.jpg", exif=b"Exif\0\0" + canon_block())
    run("exiftool", "-q", "-m", "-overwrite_original", f"-ThumbnailImage<={folder / 'small.jpg'}", folder / "thumbnail.jpg")
    kinds["thumbnail"]["jpg"] = folder / "thumbnail.jpg"
    return kinds


def profile(path):
    return subprocess.run(["exiftool", "-icc_profile", "-b", str(path)], capture_output=True).stdout


def cells(program, kinds, folder, source, target):
    """What an output in `target` has of an input in `source`, as other programs read it."""
    def enlarged(kind):
        picture = kinds[kind].get(source)
        if picture is None:
            return None
        out = folder / f"{kind}_{source}.{target}"
        run(program, picture, "-o", out, "--model", MODEL, *QUICK)
        size = run("vipsheader", "-f", "width", out), run("vipsheader", "-f", "height", out)
        assert size == (str(2 * SIZE[0]), str(2 * SIZE[1])), f"{out}: {size}"
        return out

    row = {}
    out = enlarged("metadata")
    found = exiftool(out)
    row["ICC"] = "yes" if profile(out) == profile(kinds["metadata"][source]) != b"" else "LOST"
    row["EXIF"] = "yes" if holds(found, EXIF) else "LOST"
    row["XMP"] = "yes" if holds(found, XMP) else "LOST"
    has_iptc = holds(exiftool(kinds["metadata"][source]), IPTC)
    if not has_iptc:
        row["IPTC"] = "–"
    elif holds(found, IPTC):
        row["IPTC"] = "yes"
    else:
        row["IPTC"] = "as XMP" if holds(found, IPTC_AS_XMP) else "LOST"
    density = run("identify", "-units", "PixelsPerInch", "-format", "%x %y", out).split()
    stated = [found.get(f"EXIF:{axis}Resolution", 0) for axis in "XY"]
    is_300 = lambda values: all(abs(float(value) - 300) < 1 for value in values) and len(values) == 2
    row["DPI"] = "yes" if is_300(density) or is_300(stated) else "LOST"

    def told(kind, column, read, yes):
        out = enlarged(kind)
        row[column] = "–" if out is None else "yes" if read(out) in yes else "no"

    told("alpha", "alpha", lambda out: int(run("vipsheader", "-f", "bands", out)), (2, 4))
    told("deep", "16 bits", lambda out: run("identify", "-format", "%z", out), ("16",))
    told("grey", "grey", lambda out: int(run("vipsheader", "-f", "bands", out)), (1, 2))
    out = enlarged("note")
    if out is None:
        row["maker note"] = "–"
    else:
        found = exiftool(out)
        is_right = found.get("MakerNotes:CanonImageType") == NOTE and "ExifTool:Warning" not in found
        row["maker note"] = "yes" if is_right else "LOST"
    out = enlarged("thumbnail")
    row["old thumbnail"] = "–" if out is None else "LEFT" if "EXIF:ThumbnailImage" in exiftool(out) else "left out"
    return row


# What is not "yes" in a cell, by column: outputs that have no place for it.
EXPECTED = {
    "IPTC": {"webp": "as XMP"},
    "alpha": {"jpg": "no"},
    "16 bits": {"jpg": "no", "webp": "no"},
    "grey": {"webp": "no"},
    "old thumbnail": {target: "left out" for target in FORMATS},
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = pathlib.Path(sys.argv[1]).resolve()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        kinds = make_inputs(folder)
        for source in FORMATS:
            for target in FORMATS:
                row = cells(program, kinds, folder, source, target)
                if (source, target) == (FORMATS[0], FORMATS[0]):
                    print("| input | output | " + " | ".join(row) + " |")
                    print("|---" * (len(row) + 2) + "|")
                print(f"| {NAMES[source]} | {NAMES[target]} | " + " | ".join(row.values()) + " |", flush=True)
                for column, cell in row.items():
                    if cell not in ("–", EXPECTED.get(column, {}).get(target, "yes")):
                        wrong.append(f"{source} to {target}: {column} is {cell}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
