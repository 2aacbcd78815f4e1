"""Processes of the program that others started, found while they work, so that a test can stop them in the middle of a picture."""

import os
import pathlib
import time


def running(program, folder):
    """The processes of a program that have begun in a folder."""
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(place / "exe") == str(program) and os.readlink(place / "cwd") == str(folder):
                found.append(int(place.name))
        except OSError:
            pass
    return found


def begun(process):
    """A process has a file of unfinished work open: it is in the middle of a picture."""
    try:
        return any(".cupscale/" in os.readlink(it) for it in pathlib.Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def variable(process, name):
    """What a variable of a process's environment is; nothing where it has none, or is gone."""
    try:
        environment = pathlib.Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    start = name.encode() + b"="
    return next((it[len(start) :].decode() for it in environment if it.startswith(start)), None)


def parent(process):
    return int(pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def children(process):
    try:
        return [int(it) for it in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def until(condition, otherwise, seconds=120):
    """Waits for a condition, and gives what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{otherwise} (after {seconds} s)")
