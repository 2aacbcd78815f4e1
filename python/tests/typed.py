"""Uses of the package for type checkers; nothing here runs. A comment of an error that is none is an error itself."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy
import numpy.typing
from PIL import Image
from typing_extensions import assert_type

import cupscale


def told(progress: cupscale.Progress) -> bool:
    assert_type(progress.eta, float | None)
    return progress.share < 1


def uses(image: Image.Image, array: numpy.typing.NDArray[numpy.uint8], path: pathlib.Path) -> None:
    assert_type(cupscale.upscale(image, scale=4), Image.Image)
    assert_type(cupscale.upscale(path, 2, progress=told), Image.Image)
    assert_type(cupscale.upscale(b"", size=(3, 4)), Image.Image)
    engine = cupscale.Engine("mini", device="auto", max_memory="8GiB", loras=[("x.safetensors", 0.8), "y"])
    assert_type(engine.devices, list[str])
    large = engine.upscale(array, 2, prompt="a bird", strength=0.4, seed=7, mask=array, progress=told)
    numpy.asarray(large)
    captions = engine.caption(image, overlap=0.25)
    assert_type(captions, dict[str, Any])
    report = engine.upscale_file(path, "out.png", captions=captions, format="png", bit_depth=16)
    assert_type(report, cupscale.Report)
    assert_type(engine.plan((640, 480), scale=4).memory, dict[str, Any])
    assert_type([model.name for model in cupscale.models()], list[str])
    assert_type(cupscale.read_settings(path), dict[str, Any] | None)
    cupscale.Engine(controls=[cupscale.Control("tile", 0.6, kind="canny")])


def mistakes(image: Image.Image) -> None:
    cupscale.upscale(image, strenght=0.4)  # type: ignore[call-overload]
    cupscale.Engine(modle="x")  # type: ignore[call-arg]
    cupscale.upscale(image, color_fix="all")  # type: ignore[call-overload]
    cupscale.upscale_file("a", "b", bit_depth=12)  # type: ignore[arg-type]
