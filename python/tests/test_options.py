"""Keywords: they are the program's options, with its ranges; what is wrong with one is told in one line."""

import re

import numpy
import pytest

import cupscale
from cupscale import _cupscale

ARRAY = numpy.zeros((8, 8, 3), numpy.uint8)

# Options that say how the command line works, and what has another form here.
OF_THE_PROGRAM = {
    "input": "arguments",
    "output": "arguments",
    "skip-existing": "a script's own",
    "frames": "many outputs",
    "shard": "a script's own",
    "skip-locked": "a script's own",
    "grace": "a script's own",
    "reuse": "read_settings",
    "threads": "set_threads",
    "dry-run": "plan",
    "progress": "progress=",
    "progress-fd": "progress=",
    "preview": "",
    "report": "",
    "quiet": "logging",
    "verbose": "logging",
    "help": "",
    "version": "",
    "lora": "loras",
    "embedding": "embeddings",
    "control": "controls",
    "control-kind": "Control",
    "control-image": "Control",
    "caption-engine": "a process of the program",
}


def test_the_keywords_are_the_programs_options(program):
    options = set(re.findall(r"^ +(?:-\w, )?--([a-z][a-z-]+)", program("--help"), re.MULTILINE))
    here = {name.replace("_", "-") for name in _cupscale.JOB_OPTIONS + _cupscale.ENGINE_OPTIONS}
    assert here - options == {"loras", "embeddings", "controls"}
    assert options - here - set(OF_THE_PROGRAM) == set()


def test_every_keyword_is_typed():
    from cupscale import _types

    typed = set(_types.FileSettings.__annotations__) | set(_types.Settings.__annotations__)
    assert typed | {"scale"} == set(_cupscale.JOB_OPTIONS)
    assert set(_types.EngineOptions.__annotations__) | {"model"} == set(_cupscale.ENGINE_OPTIONS)


# Each with values that are taken, and values that are not.
RANGES = [
    ("scale", [0.01, 100], [0, -1, float("nan"), float("inf")]),
    ("size", ["10x12"], ["10", "0x5", "axb"]),
    ("long_edge", [1], [0, -1]),
    ("prompt_syntax", ["plain", "weighted"], ["a1111"]),
    ("captioner", ["attributes", "none"], ["blip"]),
    ("profile", ["faithful", "balanced", "creative", "fast"], ["bold"]),
    ("seed", [0, 2**64 - 1], [-1, 2**64]),
    ("steps", [1, 1000], [0, 1001]),
    ("strength", [1, 0.001], [0, 1.001, -1, float("nan")]),
    ("denoise_steps", [0, 1], [-1, 1001]),
    ("sampler", ["ddim", "euler"], ["plms"]),
    ("eta", [0, 1], [-0.1, 1.1]),
    ("spacing", ["leading", "trailing", "linspace"], ["even"]),
    ("sigmas", ["simple"], ["normal"]),
    ("guidance", [0, 100], [-0.1, 100.1, float("inf")]),
    ("overlap", [0, 0.9], [-0.1, 0.91]),
    ("fusion", ["feather", "average"], ["blend"]),
    ("gsp", [0, 1], [-0.1, 1.1]),
    ("rap", [0, 1], [-0.1, 1.1]),
    ("rsp", [0, 1], [-0.1, 1.1]),
    ("sharpen", [0, 2], [-0.1, 2.1]),
    ("grain", [0, 20], [-0.1, 20.1]),
    ("fidelity", [0, 1], [-0.1, 1.1]),
    ("coherence", [0, 1], [-0.1, 1.1]),
    ("first_share", [0, 1], [-0.1, 1.1]),
    ("texture", [0, 1], [-0.1, 1.1]),
    ("color_fix", ["wavelet", "adain", "lab", "none"], ["all"]),
    ("blend", [0, 1], [-0.1, 1.1]),
    ("batch", [1, 1024], [0, 1025]),
    ("tile", [32, 16384], [31, 16385]),
    ("vae_disk", [0, 1 << 20, "8GiB"], [1, "8", "8QiB", -1]),
    ("max_memory", ["8GiB", 8 << 30, "6g"], [0, 8, "8", "-1G", "8QiB"]),
]


@pytest.mark.parametrize(("name", "taken", "refused"), RANGES, ids=[row[0] for row in RANGES])
def test_ranges_are_the_programs(engine, program, tmp_path, name, taken, refused):
    from PIL import Image

    picture = tmp_path / "in.png"
    Image.fromarray(ARRAY).save(picture)
    option = "--" + name.replace("_", "-")
    # What is of DDIM or of samplers in sigma needs one.
    beside = {"eta": {"sampler": "ddim"}, "sigmas": {"sampler": "euler"}}.get(name, {})
    # What is free changes from moment to moment, and a plan names it.
    if name != "max_memory":
        beside = {"max_memory": "8GiB", **beside}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in beside.items()]
    for value in taken:
        plan = engine.plan((8, 8), **{name: value}, **beside)
        printed = program("plan", picture, f"{option}={value}", *words)
        # The program cuts long lines, as that of a thousand timesteps.
        assert plan.width and all(line in printed for line in str(plan).splitlines() if len(line) < 500)
    for value in refused:
        with pytest.raises(cupscale.SettingsError, match=f"^{name}=") as caught:
            engine.plan((8, 8), **{name: value}, **beside)
        assert "\n" not in str(caught.value)
        program("plan", picture, f"{option}={value}", *words, code=2)


FILE_RANGES = [
    ("quality", [1, 100], [0, 101]),
    ("bit_depth", [8, 16, 32], [4, 12, 64]),
    ("format", ["png", "jpeg", "tiff"], ["bmp"]),
    ("page", [1], [0]),
    ("max_metadata", ["1MiB", 1 << 30], ["1", 0]),
]


@pytest.mark.parametrize(("name", "taken", "refused"), FILE_RANGES, ids=[row[0] for row in FILE_RANGES])
def test_ranges_of_files_are_the_programs(engine, program, tmp_path, name, taken, refused):
    from PIL import Image

    picture, output = tmp_path / "in.jpg", tmp_path / "out.jpg"
    Image.fromarray(ARRAY).save(picture)
    option = "--" + name.replace("_", "-")
    for value in taken:
        engine.upscale_file(picture, output, 1, blend=0, **{name: value})
    for value in refused:
        with pytest.raises(cupscale.SettingsError, match=f"^{name}="):
            engine.upscale_file(picture, output, 1, blend=0, **{name: value})
        program(picture, "-o", output, "--blend=0", f"{option}={value}", code=2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strenght": 0.4}, "there is no keyword `strenght`; did you mean `strength`?"),
        ({"lora": "x"}, "did you mean `loras`?"),
        ({"colour_fix": "lab"}, "did you mean `color_fix`?"),
        ({"zzz": 1}, "there is no keyword `zzz`$"),
        ({"model": "x"}, "`model` is a keyword of cupscale.Engine"),
        ({"quality": 80}, "`quality` is a keyword of upscale_file"),
        ({"strength": "much"}, "strength: a number is wanted, not str"),
        ({"strength": True}, "strength: a number is wanted, not bool"),
        ({"seed": 1.5}, "seed: a whole number is wanted, not float"),
        ({"steps": True}, "steps: a whole number is wanted, not bool"),
        ({"tile_jitter": 1}, "tile_jitter: True or False is wanted, not int"),
        ({"prompt": 3}, "prompt: a str is wanted, not int"),
        ({"size": 3}, "size: a pair"),
        ({"size": (3, "a")}, "size: a whole number"),
        ({"timesteps": 3}, "timesteps: a list of whole numbers"),
        ({"max_memory": 1.5}, "max_memory: a number of bytes"),
        ({"captions": 3}, "captions: a str or a path"),
        ({"mask": 3}, "a picture is"),
    ],
)
def test_names_and_types_are_type_errors(engine, settings, said):
    with pytest.raises(TypeError, match=said) as caught:
        engine.upscale(ARRAY, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale": 2, "size": (8, 8)}, "`scale` and `size`"),
        ({"size": (8, 8), "long_edge": 8}, "`size` and `long_edge`"),
        ({"strength": 0.5, "denoise_steps": 2}, "`strength` and `denoise_steps`"),
        ({"steps": 5, "timesteps": [800]}, "`steps` and `timesteps`"),
        ({"captions": "x.json", "captioner": "none"}, "`captions` and `captioner`"),
        ({"invert_mask": True}, "invert_mask: there is no mask"),
        ({"mask_feather": 2}, "mask_feather: there is no mask"),
        ({"captioner": "llava"}, "the engine has none"),
        ({"steps": 4, "denoise_steps": 5}, "5 steps cannot run"),
        ({"timesteps": [100, 800]}, "timesteps"),
        ({"timesteps": []}, "each must be below"),
        ({"prompt": "[a:b:0.5]", "prompt_syntax": "weighted"}, "prompt editing"),
        ({"prompt": "<lora:night:0.7> a", "prompt_syntax": "weighted"}, "Engine\\(loras="),
        ({"negative_prompt": "<lora:night:0.7>", "prompt_syntax": "weighted"}, "name it in the prompt"),
    ],
)
def test_what_does_not_go_together_is_a_settings_error(engine, settings, said):
    with pytest.raises(cupscale.SettingsError, match=said) as caught:
        engine.upscale(ARRAY, **settings)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_none_is_as_good_as_nothing_and_numbers_of_numpy_are_numbers(engine, photo):
    nothing = dict.fromkeys(["size", "strength", "prompt", "mask", "captions", "max_memory", "invert_mask"])
    assert numpy.array_equal(engine.upscale(photo, 2, **nothing), engine.upscale(photo, 2))
    given = {"seed": numpy.int64(3), "gsp": numpy.float32(0.5), "tile_jitter": numpy.bool_(False)}
    assert numpy.array_equal(engine.upscale(photo, 2, **given), engine.upscale(photo, 2, seed=3, gsp=0.5))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"model": "no-such-model"}, cupscale.ModelError, "no such model"),
        ({"model": "hyper-sdlx"}, cupscale.ModelError, "hyper-sdxl"),
        ({"model": "hyper-sdxl"}, cupscale.ModelError, "cupscale-fast models pull hyper-sdxl"),
        ({"device": "gpu"}, cupscale.SettingsError, "device='gpu': unknown device"),
        ({"device": "cpu,cuda"}, cupscale.SettingsError, "of one kind"),
        ({"device": "metal"}, cupscale.DeviceError, "device metal"),
        ({"dtype": "f16"}, cupscale.SettingsError, "f32, bf16 or auto"),
        ({"quantize": "q2"}, cupscale.SettingsError, "not one of f16"),
        ({"kernels": "mine"}, cupscale.SettingsError, "own, composed"),
        ({"captioner": "blip"}, cupscale.SettingsError, "attributes, none, llava"),
        ({"caption_model": "x"}, cupscale.SettingsError, "is for captioner"),
        ({"captioner": "llava", "caption_temperature": 3}, cupscale.SettingsError, "not in 0..2"),
        ({"captioner": "llava", "caption_model": "none.gguf"}, cupscale.ModelError, "none.gguf"),
        ({"loras": [("none.safetensors", 0.8)]}, cupscale.ModelError, "none.safetensors"),
        ({"loras": "none.safetensors:0.5"}, cupscale.ModelError, "none.safetensors: "),
        ({"loras": [("x", float("nan"))]}, cupscale.SettingsError, "not a number"),
        ({"loras": [3]}, TypeError, "loras: "),
        ({"loras": 3}, TypeError, "loras: a list"),
        ({"embeddings": {"ink": "none.safetensors"}}, cupscale.Error, "none.safetensors"),
        ({"controls": ["tile:11"]}, cupscale.SettingsError, "scale 11"),
        ({"controls": cupscale.Control("none")}, cupscale.ModelError, "none"),
        ({"controls": [("none", 0.5, 0, 1, "edges")]}, cupscale.SettingsError, "tile, canny or blur"),
        ({"first": "none.pth"}, cupscale.ModelError, "none.pth"),
        ({"vae": "none"}, cupscale.ModelError, "none"),
        ({"unet": "none"}, cupscale.Error, "none"),
        ({"batch": 0}, cupscale.SettingsError, "batch=0"),
        ({"modle": "x"}, TypeError, "did you mean `model`"),
        ({"prompt": "x"}, TypeError, "keyword of upscale"),
    ],
)
def test_engines_that_cannot_be(options, error, said):
    with pytest.raises(error, match=said) as caught:
        cupscale.Engine(**options)
    assert "\n" not in str(caught.value)


def test_an_engine_says_what_it_is_and_has_defaults_for_its_jobs(photo):
    engine = cupscale.Engine("mini", device="cpu", dtype="f32", max_memory="2GiB", batch=2, captioner="none")
    assert engine.name == "mini" and engine.devices == ["cpu"] and "f32" in engine.computes_on
    assert repr(engine) == "<cupscale.Engine 'mini' on cpu>"
    plan = engine.plan((200, 100), 4)
    assert plan.memory["batch"] == 2 and plan.memory["budget"] == 2 << 30
    assert engine.plan((200, 100), 4, batch=1).memory["batch"] == 1
    assert {region["caption"] for region in engine.caption(photo)["regions"]} == {""}
    assert engine.upscale(photo, 2).shape == (96, 128, 3) and engine.weight_bytes > 1 << 20
    sixteen = cupscale.Engine(quantize="f16", device="cpu,cpu")
    assert sixteen.devices == ["cpu", "cpu"] and sixteen.upscale(photo, 2).shape == (96, 128, 3)


def test_plans_are_the_programs(engine, program, tmp_path, photo):
    import json

    from PIL import Image

    picture = tmp_path / "in.png"
    Image.fromarray(photo).save(picture)
    theirs = json.loads(program("plan", picture, "-s", 6, "--json"))
    for given in (photo, Image.fromarray(photo), picture):
        plan = engine.plan(given, 6)
        for field in ("width", "height", "regions", "regions_run", "steps", "sampler", "calls", "vae_tiles", "devices"):
            assert getattr(plan, field) == theirs[field], field
    assert str(plan).startswith("input         64 × 48 px")


def test_models_are_listed():
    listed = {model.name: model for model in cupscale.models()}
    assert listed["hyper-sdxl"].kind == "diffusion" and listed["hyper-sdxl"].licence
    assert {model.state for model in listed.values()} <= {"installed", "incomplete", "known"}
