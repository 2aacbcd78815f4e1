"""Jobs from file to file: the program's bytes, unfinished work, errors.

Files are compared by `filecmp`: of two long strings of bytes that differ, pytest would look for the difference for hours.
"""

import filecmp
import os
import pathlib

import numpy
import pytest
from PIL import Image

import cupscale

SAMPLE = pathlib.Path(__file__).resolve().parents[2] / "samples" / "nuthatch.jpg"


@pytest.fixture
def source(photo, tmp_path):
    """A JPEG with metadata."""
    path = tmp_path / "in.jpg"
    with Image.open(SAMPLE) as sample:
        exif = sample.getexif()
    exif[0x010F] = "Maker"
    Image.fromarray(photo).save(path, quality=95, exif=exif, dpi=(240, 240))
    return path


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("out.png", {"scale": 2}, ["-s", "2"]),
        ("out.jpg", {"size": (100, 70), "quality": 80}, ["--size", "100x70", "--quality", "80"]),
        ("out.tif", {"long_edge": 90, "bit_depth": 16}, ["--long-edge", "90", "--bit-depth", "16"]),
        ("out", {"scale": 1.5, "format": "webp"}, ["-s", "1.5", "-f", "webp"]),
        (
            "out.png",
            {
                "scale": 2,
                "prompt": " a bird ",
                "seed": 2**64 - 1,
                "steps": 4,
                "denoise_steps": 2,
                "sampler": "euler",
                "overlap": 0.25,
                "fusion": "average",
                "tile_jitter": True,
                "gsp": 0.4,
                "rap": 0.25,
                "rsp": 0.5,
                "first_share": 0.6,
                "sharpen": 0.3,
                "grain": 2,
                "fidelity": 0.6,
                "coherence": 0.7,
                "texture": 0.8,
                "color_fix": "lab",
                "blend": 0.75,
                "captioner": "none",
                "batch": 1,
                "max_memory": "2GiB",
            },
            "-s 2 -p|a bird --seed 18446744073709551615 --steps 4 --denoise-steps 2 --sampler euler --overlap 0.25 "
            "--fusion average --tile-jitter --gsp 0.4 --rap 0.25 --rsp 0.5 --first-share 0.6 --sharpen 0.3 --grain 2 --fidelity 0.6 --coherence 0.7 --texture 0.8 --color-fix lab --blend 0.75 "
            "--captioner none --batch 1 --max-memory 2GiB".split(),
        ),
        ("out.png", {"scale": 2, "profile": "faithful", "gsp": 0.3}, ["-s", "2", "--profile", "faithful", "--gsp", "0.3"]),
        ("out.png", {"scale": 2, "timesteps": [800, 400], "strength": 1.0}, ["-s", "2", "--timesteps", "800,400", "--strength", "1"]),
    ],
)
def test_the_bytes_are_the_programs(engine, program, source, tmp_path, name, settings, words):
    output, theirs = tmp_path / name, tmp_path / "theirs" / name
    theirs.parent.mkdir()
    report = engine.upscale_file(source, output, **settings)
    words = [part for word in words for part in word.split("|")]
    words = ["--prompt=a bird" if word == "bird" else word for word in words if word not in ("-p", "a")]
    program("-q", source, "-o", theirs, *words)
    assert filecmp.cmp(output, theirs, shallow=False)
    with Image.open(output) as made:
        assert (report.width, report.height) == made.size
    assert report.path == str(output) and report.regions >= 1 and report.steps >= 1
    assert report.settings == cupscale.read_settings(output)
    assert report.settings["seed"] == settings.get("seed", 0)
    assert len(report.captions["regions"]) == report.captions["grid"]["rows"] * report.captions["grid"]["cols"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_captions_are_given_back_as_a_dict_or_a_file(engine, program, source, tmp_path):
    captions = engine.caption(source.read_bytes(), scale=4, prompt="a bird")
    theirs = tmp_path / "theirs.json"
    program("caption", source, "-o", theirs, "-s", 4, "-p", "a bird")
    import json

    assert captions == json.loads(theirs.read_text())
    captions["regions"][0]["caption"] = "a grey bird on a branch"
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(captions))
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    report = engine.upscale_file(source, one, scale=4, captions=captions)
    engine.upscale_file(source, other, scale=4, captions=edited)
    assert report.captions["regions"][0]["caption"] == "a grey bird on a branch"
    assert filecmp.cmp(one, other, shallow=False)
    captions["regions"][0]["captoin"] = ""
    with pytest.raises(cupscale.InputError, match="captoin"):
        engine.upscale_file(source, one, scale=4, captions=captions)
    with pytest.raises(cupscale.InputError, match="cannot read captions"):
        engine.upscale_file(source, one, captions=tmp_path / "none.json")


def test_an_interrupted_job_goes_on_and_gives_the_same_bytes(engine, large, tmp_path):
    source, whole, output = (tmp_path / name for name in ("in.png", "whole.png", "out.png"))
    Image.fromarray(large).save(source)
    settings = {"scale": 3, "steps": 4, "denoise_steps": 3, "batch": 1}
    engine.upscale_file(source, whole, **settings)

    def stop(progress):
        return not (progress.stage == "denoise" and progress.done >= 7)

    with pytest.raises(cupscale.Interrupted, match="goes on from here"):
        engine.upscale_file(source, output, progress=stop, **settings)
    assert not output.exists()
    with pytest.raises(cupscale.WorkError, match="seed: .*fresh=True"):
        engine.upscale_file(source, output, seed=1, **settings)
    resumed = []
    engine.upscale_file(source, output, progress=lambda it: resumed.append((it.stage, it.done)), resume=True, **settings)
    # What was done before is told at once, and is not done again.
    assert [done for stage, done in resumed if stage == "denoise"][:2] == [0, 7]
    assert filecmp.cmp(output, whole, shallow=False)
    with pytest.raises(cupscale.WorkError, match="nothing to resume"):
        engine.upscale_file(source, output, resume=True, **settings)


def test_unfinished_work_is_dropped_and_lies_where_it_is_told_to(engine, large, tmp_path):
    source, output, work = tmp_path / "in.png", tmp_path / "out.png", tmp_path / "work"
    Image.fromarray(large[:64, :64]).save(source)
    work.mkdir()
    with pytest.raises(cupscale.Interrupted, match=str(work)):
        engine.upscale_file(source, output, 2, progress=lambda it: it.stage != "decode", work_dir=work)
    assert list(work.iterdir())
    engine.upscale_file(source, output, 2, seed=5, work_dir=work, fresh=True)
    assert output.exists() and not list(work.iterdir())


def test_outputs_that_cannot_be(engine, source, tmp_path):
    with pytest.raises(OSError, match="folder") as caught:
        engine.upscale_file(source, tmp_path / "none" / "out.png")
    assert isinstance(caught.value, cupscale.OutputError) and "\n" not in str(caught.value)
    with pytest.raises(cupscale.SettingsError, match="no picture format is called `.xyz`"):
        engine.upscale_file(source, tmp_path / "out.xyz")
    with pytest.raises(cupscale.SettingsError, match="quality=80: .*it is for JPEG"):
        engine.upscale_file(source, tmp_path / "out.png", quality=80)
    with pytest.raises(cupscale.SettingsError, match="WebP holds at most"):
        engine.upscale_file(source, tmp_path / "out.webp", long_edge=17000)
    with pytest.raises(FileNotFoundError, match="none.jpg: no such file"):
        engine.upscale_file(tmp_path / "none.jpg", tmp_path / "out.png")
    assert not list(tmp_path.glob("out*"))


def test_memory_that_does_not_suffice(engine, source, tmp_path):
    with pytest.raises(MemoryError, match="not enough memory.*max_memory") as caught:
        engine.upscale_file(source, tmp_path / "out.png", max_memory=2 << 20)
    assert isinstance(caught.value, cupscale.OutOfMemoryError)


def test_bytes_are_as_good_as_a_path(engine, source, tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    engine.upscale_file(source, str(one), 1)
    engine.upscale_file(memoryview(source.read_bytes()), os.fspath(other), 1)
    assert filecmp.cmp(one, other, shallow=False)
    assert numpy.asarray(Image.open(one)).shape == (48, 64, 3)
    assert cupscale.read_settings(source) is None
    cupscale.upscale_file(source, other, 1)
    assert filecmp.cmp(one, other, shallow=False)


def test_notes_go_to_the_logger(engine, source, tmp_path, caplog):
    caplog.set_level("INFO", "cupscale")
    engine.upscale_file(source, tmp_path / "out.png", blend=0)
    assert any("does not run" in record.getMessage() for record in caplog.records)
