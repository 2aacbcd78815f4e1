"""Pictures of Python on their way in and out: arrays, Pillow's images, files.

Neither numpy nor Pillow is needed to import this package: what is given brings its own. Pixels cross over as bytes: the buffer
protocol is in no stable interface of Python 3.10, and numpy's own would tie a wheel to its versions. Their one copy is a quarter
of what the library holds of a picture anyway, as floats."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Tuple

from . import _cupscale
from ._errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ._types import Array

# Bits of the samples of an array, by its type without the order of bytes.
_BITS = {"u1": 8, "u2": 16, "f4": 32}

# What Pillow makes of its modes without any loss; those that are not here are refused.
_MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "I;16": "I;16",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "YCbCr": "RGB",
    "HSV": "RGB",
}
_FORMS = {"L": (1, 8), "LA": (2, 8), "RGB": (3, 8), "RGBA": (4, 8), "I;16": (1, 16)}
_REFUSED = {
    "CMYK": "convert it by its profile (PIL.ImageCms), or roughly by image.convert('RGB')",
    "LAB": "convert it with PIL.ImageCms",
    "F": "its values have no range of their own: give a numpy array of float32 in which 1 is white",
    "I": "its values have no range of their own: give a numpy array of uint16",
}

_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_SIZES = {0x0100: 0, 0x0101: 1}
_EXIF_SIZES = {0xA002: 0, 0xA003: 1}


class Read(NamedTuple):
    """A picture that has been read: the samples that are wanted of its output (channels, bits), and what makes of these what the
    caller gave."""

    picture: _cupscale.Picture
    form: Tuple[int, int]
    back: Callable[[bytearray, int, int], Any]


def read(given: Any, options: Dict[str, Any]) -> Read:
    """Reads whatever is a picture; options of reading a file are taken out of `options`."""
    image_class = _loaded("PIL.Image", "Image")
    if image_class is not None and isinstance(given, image_class):
        return _of_image(given)
    if isinstance(given, (str, os.PathLike, bytes, bytearray)) or _is_flat(given):
        return _of_file(given, options)
    arrays = ("__array__", "__array_interface__", "__dlpack__")
    if isinstance(given, memoryview) or any(hasattr(given, name) for name in arrays):
        return _of_array(given)
    raise TypeError(f"a picture is a Pillow image, an array, a path or the bytes of a file, not {type(given).__name__}")


def mask(given: Any) -> _cupscale.Picture:
    """Reads a mask, which may be an array of bool too."""
    numpy = _loaded("numpy")
    if numpy is not None and isinstance(given, numpy.ndarray) and given.dtype == bool:
        given = given.astype(numpy.uint8) * 255
    return read(given, {}).picture


def size(given: Any) -> Optional[Tuple[int, int]]:
    """A pair of width and height, if it is one."""
    if isinstance(given, tuple) and len(given) == 2:
        return given
    return None


def _loaded(module: str, name: str = "") -> Any:
    """A module that somebody has imported, or what it has by a name."""
    found = sys.modules.get(module)
    return getattr(found, name, None) if name else found


def _is_flat(given: Any) -> bool:
    return isinstance(given, memoryview) and given.ndim == 1


def _of_array(given: Any) -> Read:
    import numpy

    try:
        array = numpy.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{type(given).__name__}: no array can be made of it ({_line(error)})") from error
    bits = _BITS.get(array.dtype.str[1:])
    if bits is None:
        raise InputError(f"an array of {array.dtype}: a picture is of uint8, uint16 or float32")
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        shape = " × ".join(map(str, array.shape)) or "no"
        hint = ": channels come last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise InputError(
            f"an array of {shape}{hint}: a picture is (height, width), or (height, width, channels) with 1, 3 or 4 channels"
        )
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    little = array.dtype.newbyteorder("<")
    # Whatever its strides are, its samples row by row.
    samples = array.astype(little, copy=False).tobytes()
    picture = _cupscale.Picture.from_pixels(samples, (width, height), channels, bits)

    def back(pixels: bytearray, width: int, height: int) -> Array:
        shape = (height, width) if array.ndim == 2 else (height, width, channels)
        made: Array = numpy.frombuffer(pixels, little).reshape(shape)
        return made.astype(array.dtype, copy=False)

    return Read(picture, (channels, bits), back)


def _of_image(image: Image) -> Read:
    from PIL import Image as images
    from PIL import ImageOps

    if image.mode not in _MODES:
        advice = _REFUSED.get(image.mode, f"convert it to one of {', '.join(_FORMS)}")
        raise InputError(f"a picture of Pillow's mode {image.mode}: {advice}")
    if _exif(image).get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    mode = _MODES[image.mode]
    if "transparency" in image.info and mode in ("L", "RGB"):
        mode = "LA" if image.mode == "L" else "RGBA"
    plain = image if image.mode == mode else image.convert(mode)
    profile = image.info.get("icc_profile")
    channels, bits = _FORMS[mode]
    if profile:
        # Its colours are converted as those of a file.
        file = io.BytesIO()
        images.frombytes(mode, plain.size, plain.tobytes()).save(file, "TIFF", icc_profile=profile)
        picture = _cupscale.Picture.read(file.getvalue(), {})
    else:
        picture = _cupscale.Picture.from_pixels(plain.tobytes(), plain.size, channels, bits)

    def back(pixels: bytearray, width: int, height: int) -> Image:
        made = images.frombytes(mode, (width, height), bytes(pixels))
        if "dpi" in image.info:
            made.info["dpi"] = image.info["dpi"]
        return _described(made, picture.icc, _exif(image))

    return Read(picture, (channels, bits), back)


def _of_file(given: Any, options: Dict[str, Any]) -> Read:
    try:
        from PIL import Image as images
    except ImportError as error:
        raise ImportError(
            "a picture that is given as a file comes back as a Pillow image: pip install pillow, or use upscale_file"
        ) from error
    names = ("page", "allow_truncated", "max_metadata")
    reading = {name: options.pop(name) for name in names if name in options}
    if isinstance(given, (bytearray, memoryview)):
        given = bytes(given)
    picture = _cupscale.Picture.read(given, reading)
    grey, alpha = picture.is_grey, picture.has_alpha
    # Pillow has no colours of 16 bits.
    if grey and not alpha and picture.bit_depth > 8:
        mode = "I;16"
    else:
        mode = ("L" if grey else "RGB") + ("A" if alpha else "")

    def back(pixels: bytearray, width: int, height: int) -> Image:
        made = images.frombytes(mode, (width, height), bytes(pixels))
        if picture.dpi is not None:
            made.info["dpi"] = picture.dpi
        exif = images.Exif()
        if picture.exif is not None:
            exif.load(b"Exif\0\0" + picture.exif)
        return _described(made, picture.icc, exif)

    return Read(picture, _FORMS[mode], back)


def _exif(image: Image) -> Any:
    try:
        return image.getexif()
    except Exception:  # whatever a damaged block makes Pillow raise
        from PIL.Image import Exif

        return Exif()


def _described(image: Image, profile: Optional[bytes], exif: Any) -> Image:
    """The image with its profile, and with its EXIF, whose sizes are made true."""
    if profile:
        image.info["icc_profile"] = profile
    try:
        if exif:
            inner = exif.get_ifd(_EXIF_IFD)
            for block, sizes in ((exif, _SIZES), (inner, _EXIF_SIZES)):
                for tag, side in sizes.items():
                    if tag in block:
                        block[tag] = image.size[side]
            exif.pop(_ORIENTATION, None)
            image.info["exif"] = exif.tobytes()
    except Exception:  # what Pillow cannot write again is left out
        image.info.pop("exif", None)
    return image


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
