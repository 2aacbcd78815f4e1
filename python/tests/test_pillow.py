"""Pillow's images: modes, profiles, EXIF; files that come back as images."""

import io

import numpy
import pytest
from PIL import Image, ImageCms, ImageOps

import cupscale

SETTINGS = {"scale": 2, "seed": 3}


def of_program(program, folder, image, **saved):
    """What the program makes of the image as a PNG."""
    source, output = folder / "in.png", folder / "out.png"
    image.save(source, **saved)
    program("-q", source, "-o", output, "-s", 2, "--seed", 3)
    made = Image.open(output)
    made.load()
    return made


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_come_back_as_the_programs_samples(engine, program, photo, tmp_path, mode):
    image = Image.fromarray(photo)
    if mode == "I;16":
        image = Image.fromarray(photo[:, :, 1].astype(numpy.uint16) * 257)
    else:
        image = image.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert image.mode == mode
    made = engine.upscale(image, **SETTINGS)
    expected = "L" if mode == "1" else mode
    assert made.mode == expected and made.size == (128, 96)
    theirs = of_program(program, tmp_path, image)
    if mode == "I;16":
        assert numpy.array_equal(numpy.asarray(made), numpy.asarray(theirs))
    else:
        assert numpy.array_equal(numpy.asarray(made), numpy.asarray(theirs.convert(expected)))


def test_palettes_and_transparent_colours(engine, photo):
    image = Image.fromarray(photo)
    palette = image.quantize(64)
    made = engine.upscale(palette, **SETTINGS)
    assert made.mode == "RGB"
    assert made.tobytes() == engine.upscale(palette.convert("RGB"), **SETTINGS).tobytes()
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=3)
    transparent = Image.open(file)
    assert engine.upscale(transparent, **SETTINGS).mode == "RGBA"
    grey = image.convert("L")
    grey.info["transparency"] = 40
    assert engine.upscale(grey, **SETTINGS).mode == "LA"


@pytest.mark.parametrize("mode", ["CMYK", "F", "I", "LAB"])
def test_modes_that_lose_something_are_refused_with_what_helps(engine, mode):
    with pytest.raises(cupscale.InputError, match=f"mode {mode}: ") as caught:
        engine.upscale(Image.new(mode, (8, 8)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX"])
def test_modes_of_other_colours_become_rgb(engine, photo, mode):
    image = Image.fromarray(photo).convert(mode)
    made = engine.upscale(image, **SETTINGS)
    assert made.tobytes() == engine.upscale(image.convert("RGB"), **SETTINGS).tobytes()


def wide_profile():
    """A profile of sRGB's colours with a gamma of its own, so that samples must be converted."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return profile.tobytes()


def test_a_profile_is_kept_and_the_colours_are_converted_as_a_files(engine, program, photo, tmp_path):
    image = Image.fromarray(photo)
    image.info["icc_profile"] = profile = wide_profile()
    made = engine.upscale(image, **SETTINGS)
    theirs = of_program(program, tmp_path, image, icc_profile=profile)
    assert made.tobytes() == theirs.tobytes()
    assert made.info["icc_profile"] == theirs.info["icc_profile"] == profile


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_an_image_is_turned_upright_and_keeps_its_exif(engine, program, photo, tmp_path, orientation):
    image = Image.fromarray(photo)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    exif.get_ifd(0x8769).update({0xA002: 64, 0xA003: 48})
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif, dpi=(300, 300))
    image = Image.open(file)
    made = engine.upscale(image, **SETTINGS)
    upright = ImageOps.exif_transpose(image)
    assert made.size == (2 * upright.width, 2 * upright.height)
    found = made.getexif()
    assert found.get(0x0112, 1) == 1 and found[0x010F] == "Maker"
    assert found.get_ifd(0x8769)[0xA002] == made.width and found.get_ifd(0x8769)[0xA003] == made.height
    assert round(made.info["dpi"][0]) == 300
    source, output = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(file.getvalue())
    program("-q", source, "-o", output, "-s", 2, "--seed", 3)
    assert made.tobytes() == Image.open(output).tobytes()
    # The same as a file.
    for given in (source, str(source), source.read_bytes(), bytearray(source.read_bytes())):
        of_file = engine.upscale(given, **SETTINGS)
        assert of_file.tobytes() == made.tobytes() and of_file.mode == made.mode
        assert of_file.getexif()[0x010F] == "Maker" and of_file.getexif().get(0x0112, 1) == 1
        assert of_file.getexif().get_ifd(0x8769)[0xA002] == made.width


def test_files_of_every_shape_come_back_as_images(engine, photo, tmp_path):
    grey = photo[:, :, 0].astype(numpy.uint16) * 257
    path = tmp_path / "grey.png"
    Image.fromarray(grey).save(path)
    assert engine.upscale(path, scale=1, blend=0).mode == "I;16"
    Image.fromarray(photo).convert("LA").save(path)
    assert engine.upscale(path, scale=1, blend=0).mode == "LA"
    pages = tmp_path / "pages.tif"
    first = Image.fromarray(photo)
    first.save(pages, save_all=True, append_images=[first.resize((20, 10))])
    assert engine.upscale(pages, scale=1, blend=0, page=2).size == (20, 10)
    with pytest.raises(cupscale.InputError, match="has no picture 3"):
        engine.upscale(pages, page=3)


def test_files_that_are_not_there_or_no_pictures(engine, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file") as caught:
        engine.upscale(tmp_path / "none.png")
    assert isinstance(caught.value, cupscale.InputError)
    for given in (b"", b"no picture", tmp_path):
        with pytest.raises(cupscale.InputError) as caught:
            engine.upscale(given)
        assert "\n" not in str(caught.value)
    # What is of files is none of an image's.
    with pytest.raises(TypeError, match="page"):
        engine.upscale(Image.new("RGB", (8, 8)), page=1)
