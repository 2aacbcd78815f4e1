"""Arrays: shapes, types, strides; what is refused; and the program's samples."""

import numpy
import pytest
from PIL import Image

import cupscale

SETTINGS = {"scale": 2, "seed": 3, "prompt": "a bird"}


def of_program(program, folder, array, *words):
    """What the program makes of the array as a PNG."""
    source, output = folder / "in.png", folder / "out.png"
    Image.fromarray(array).save(source)
    program("-q", source, "-o", output, "-s", 2, "--seed", 3, "-p", "a bird", *words)
    return numpy.asarray(Image.open(output))


def test_colours_of_8_bits_are_the_programs(engine, program, photo, tmp_path):
    made = engine.upscale(photo, **SETTINGS)
    assert made.shape == (96, 128, 3) and made.dtype == numpy.uint8 and made.flags.writeable
    assert numpy.array_equal(made, of_program(program, tmp_path, photo))


def test_alpha_is_the_programs(engine, program, photo, tmp_path):
    alpha = numpy.linspace(0, 255, 48 * 64).reshape(48, 64, 1).astype(numpy.uint8)
    array = numpy.concatenate([photo, alpha], axis=2)
    made = engine.upscale(array, **SETTINGS)
    assert made.shape == (96, 128, 4)
    assert numpy.array_equal(made, of_program(program, tmp_path, array))


@pytest.mark.parametrize("dtype", [numpy.uint8, numpy.uint16])
def test_greys_are_the_programs_and_keep_their_shape(engine, program, photo, tmp_path, dtype):
    array = photo[:, :, 1].astype(dtype) * (1 if dtype == numpy.uint8 else 257)
    made = engine.upscale(array, **SETTINGS)
    assert made.shape == (96, 128) and made.dtype == dtype
    assert numpy.array_equal(made, of_program(program, tmp_path, array).astype(dtype))
    lone = engine.upscale(array[:, :, None], **SETTINGS)
    assert lone.shape == (96, 128, 1) and numpy.array_equal(lone[:, :, 0], made)


def test_16_bits_hold_more_than_8(engine, photo):
    wide = engine.upscale(photo.astype(numpy.uint16) * 257, **SETTINGS)
    assert wide.dtype == numpy.uint16
    narrow = engine.upscale(photo, **SETTINGS)
    # The same picture to the rounding of 8 bits.
    assert numpy.abs(wide / 257 - narrow).max() <= 0.502
    assert len(numpy.unique(wide)) > 256


def test_floats_are_shares_of_white_and_alpha_of_16_bits_is_kept(engine, photo):
    floats = engine.upscale((photo / numpy.float32(255)).astype(numpy.float32), **SETTINGS)
    assert floats.dtype == numpy.float32 and 0 <= floats.min() and floats.max() <= 1
    narrow = engine.upscale(photo, **SETTINGS)
    assert numpy.abs(floats * 255 - narrow).max() <= 0.502
    rgba = numpy.dstack([photo, numpy.full((48, 64), 128, numpy.uint8)]).astype(numpy.uint16) * 257
    made = engine.upscale(rgba, **SETTINGS)
    assert made.shape == (96, 128, 4) and made.dtype == numpy.uint16
    assert (numpy.abs(made[:, :, 3].astype(int) - 128 * 257) <= 1).all()


def test_light_above_white_comes_back(engine):
    array = numpy.full((48, 64, 3), 0.5, numpy.float32)
    array[16:32, 16:48] = 3.0
    made = engine.upscale(array, scale=1, blend=0)
    assert made.max() > 2.5 and abs(float(made[0, 0, 0]) - 0.5) < 0.01
    array[0, 0] = numpy.nan
    assert numpy.isfinite(engine.upscale(array, scale=1, blend=0)).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda array: numpy.asfortranarray(array),
        lambda array: array[::-1, ::-1][::-1, ::-1],
        lambda array: numpy.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array[:, :, ::-1][:, :, ::-1],
        lambda array: array.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    ],
)
def test_strides_may_be_any(engine, photo, view):
    assert numpy.array_equal(engine.upscale(view(photo), **SETTINGS), engine.upscale(photo, **SETTINGS))


def test_reversed_and_foreign_bytes(engine, photo):
    # Resized: a network that enlarges is not symmetric.
    resizing = cupscale.Engine(first="lanczos")
    mirrored = resizing.upscale(photo[:, ::-1], scale=2, blend=0)
    plain = resizing.upscale(photo, scale=2, blend=0)
    assert numpy.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 1
    wide = photo.astype(numpy.uint16) * 257
    swapped = engine.upscale(wide.astype(">u2"), **SETTINGS)
    assert swapped.dtype == numpy.dtype(">u2")
    assert numpy.array_equal(swapped, engine.upscale(wide, **SETTINGS))


def test_whatever_is_an_array_will_do(engine, photo):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return photo

    expected = engine.upscale(photo, **SETTINGS)
    assert numpy.array_equal(engine.upscale(Tensor(), **SETTINGS), expected)
    assert numpy.array_equal(engine.upscale(memoryview(photo), **SETTINGS), expected)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (numpy.zeros((4, 4, 3), numpy.float64), "float64"),
        (numpy.zeros((4, 4, 3), numpy.float16), "float16"),
        (numpy.zeros((4, 4, 3), numpy.int32), "int32"),
        (numpy.zeros((4, 4, 3), bool), "bool"),
        (numpy.zeros((4, 4), object), "object"),
        (numpy.zeros((3, 4, 5), numpy.uint8), "channels come last"),
        (numpy.zeros((4, 4, 2), numpy.uint8), "4 × 4 × 2"),
        (numpy.zeros((2, 4, 4, 3), numpy.uint8), "2 × 4 × 4 × 3"),
        (numpy.zeros(4, numpy.uint8), "an array of 4"),
        (numpy.zeros((), numpy.uint8), "an array"),
        (numpy.zeros((0, 4, 3), numpy.uint8), "no pixels"),
        (numpy.zeros((4, 0), numpy.float32), "no pixels"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(engine, array, said):
    with pytest.raises(ValueError, match=said) as caught:
        engine.upscale(array)
    assert isinstance(caught.value, cupscale.InputError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [None, 3, [[1, 2]], object()])
def test_other_things_are_a_type_error(engine, given):
    with pytest.raises(TypeError, match="a picture is"):
        engine.upscale(given)


def test_tensors_on_a_device_say_why_they_are_none(engine):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu()")

    with pytest.raises(cupscale.InputError, match="can't convert cuda:0") as caught:
        engine.upscale(Tensor())
    assert "\n" not in str(caught.value)


def test_masks_are_arrays_of_bool_too_and_keep_the_rest(engine, photo):
    mask = numpy.zeros((48, 64), bool)
    mask[:, 32:] = True
    made = engine.upscale(photo, scale=2, mask=mask)
    kept = engine.upscale(photo, scale=2, blend=0)
    assert numpy.array_equal(made[:, :60], kept[:, :60]) and not numpy.array_equal(made, kept)
    inverted = engine.upscale(photo, scale=2, mask=~mask, invert_mask=True)
    assert numpy.array_equal(made, inverted)
    whole = numpy.where(mask, 255, 0).astype(numpy.uint8)
    assert numpy.array_equal(made, engine.upscale(photo, scale=2, mask=whole))
    assert not numpy.array_equal(made, engine.upscale(photo, scale=2, mask=mask, mask_feather=8))


def test_the_functions_share_an_engine(engine, photo):
    assert numpy.array_equal(cupscale.upscale(photo, scale=2), engine.upscale(photo, scale=2))
    assert cupscale.upscale(photo, 1).shape == photo.shape
