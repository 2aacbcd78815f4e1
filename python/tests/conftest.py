"""What the tests share: pictures, the program, and an engine."""

import os
import pathlib
import subprocess
import sys

import numpy
import pytest
from PIL import Image

import cupscale

SAMPLES = pathlib.Path(__file__).resolve().parents[2] / "samples"


@pytest.fixture(scope="session")
def program():
    """Runs the program of the same sources, whose path is in $CUPSCALE_FAST; returns what it printed."""
    path = os.environ.get("CUPSCALE_FAST")
    assert path, "set CUPSCALE_FAST to the program: its bytes are what these tests hold the package to"

    def run(*words, code=0):
        words = [path, *map(str, words)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == code, (words, done.returncode, done.stderr)
        return done.stdout + done.stderr if code else done.stdout

    return run


@pytest.fixture(scope="session")
def engine():
    return cupscale.Engine()


@pytest.fixture(scope="session")
def photo():
    """64 × 48 of a photograph, as an array of uint8."""
    with Image.open(SAMPLES / "nuthatch.jpg") as image:
        array = numpy.asarray(image.convert("RGB"))[100:148, 120:184].copy()
    array.flags.writeable = False
    return array


@pytest.fixture(scope="session")
def large():
    """96 × 96 of a photograph, which three times enlarged has four regions."""
    with Image.open(SAMPLES / "nuthatch.jpg") as image:
        return numpy.asarray(image.convert("RGB"))[100:196, 100:196].copy()


@pytest.fixture
def python():
    """Runs a script with the package in a process of its own; returns the process, ended."""

    def run(script, *words, timeout=120):
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
