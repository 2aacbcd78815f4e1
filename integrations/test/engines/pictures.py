"""Pictures for tests of many, and what is said of the outputs: cut from a sample, with nothing but the program and Python."""

import hashlib
import json
import pathlib
import subprocess

SAMPLES = pathlib.Path(__file__).resolve().parents[3] / "samples"


def cut(program, folder, count, width, height):
    """So many pictures in a folder and in folders below it, each from another place of a photograph."""
    folder.mkdir(parents=True)
    whole = folder.parent / "whole.ppm"
    # A job that repaints nothing only converts.
    subprocess.run(
        [program, "-q", SAMPLES / "nuthatch.jpg", "-o", whole, "--scale", "1", "--blend", "0"], check=True,
    )
    data = whole.read_bytes()
    whole.unlink()
    columns, rows = (int(word) for word in data.split(b"\n", 3)[1].split())
    pixels = data[len(data) - columns * rows * 3 :]
    for number in range(count):
        left, top = number * 37 % (columns - width), number * 23 % (rows - height)
        body = b"".join(
            pixels[((top + row) * columns + left) * 3 :][: width * 3] for row in range(height)
        )
        # Every fourth lies deeper.
        place = folder / "below" if number % 4 == 3 else folder
        place.mkdir(exist_ok=True)
        (place / f"{number:04}.ppm").write_bytes(b"P6\n%d %d\n255\n" % (width, height) + body)


def outputs(folder):
    """Every file below an output folder that is no hidden one, by its place: the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def unfinished(folder):
    """Work folders and parts of outputs that are left below an output folder."""
    return [str(path) for path in folder.rglob(".*.cupscale*")]


def same(reference, folder, count):
    """Every output is there once and has the bytes of one process's; nothing else is left."""
    found = outputs(folder)
    assert len(reference) == count, f"the one process made {len(reference)} of {count}"
    assert found.keys() == reference.keys(), sorted(found.keys() ^ reference.keys())
    different = [name for name in reference if found[name] != reference[name]]
    assert not different, f"other bytes than one process's: {different}"
    left = unfinished(folder)
    assert not left, f"left: {left}"


def status(program, folder):
    """What `status --json` says of an output folder, and its exit code."""
    done = subprocess.run([program, "status", folder, "--json"], stdout=subprocess.PIPE, text=True)
    assert done.stdout, f"status says nothing of {folder} (exit code {done.returncode})"
    return json.loads(done.stdout), done.returncode
