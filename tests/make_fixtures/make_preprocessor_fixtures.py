"""Fixtures for `model::llava`'s preparation of pictures, from transformers' image processors.

    python tests/make_fixtures/make_preprocessor_fixtures.py

Writes tests/fixtures/llava/preprocessor.{json,safetensors}: pictures, files of every field that changes the result, and
the pixels that the vision tower gets. Deterministic. Made with transformers 5.24.0, Pillow 12.3.0 (from 13 on it resizes
rows before columns where that is less work), numpy 2.
"""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

logging.disable(logging.WARNING)
OUT = Path(__file__).resolve().parent.parent / "fixtures/llava"
SIDE = 12
PINPOINTS = [[12, 24], [24, 12], [24, 24]]
# Height and width: wide, tall, smaller than the tower's.
PICTURES = [(19, 31), (35, 15), (7, 9)]
CLASSES = {"clip": CLIPImageProcessorPil, "llava": LlavaImageProcessorPil, "next": LlavaNextImageProcessorPil}
SQUARE = {"height": SIDE, "width": SIDE}
SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}


def files():
    """Class and file by name."""
    found = {
        "clip_plain": {},
        "clip_squeeze": {"size": SQUARE},
        "clip_squeeze_uncropped": {"size": SQUARE, "do_center_crop": False},
        "clip_larger": {"size": {"shortest_edge": 15}},
        "clip_smaller": {"size": {"shortest_edge": 9}},
        "clip_oblong": {"size": {"height": 15, "width": 10}},
        "clip_number": {"size": SIDE, "crop_size": SIDE},
        "clip_square_number": {"size": SIDE, "default_to_square": True},
        "clip_unresized": {"do_resize": False},
        "clip_unscaled": {"do_rescale": False},
        "clip_unnormalized": {"do_normalize": False},
        "clip_raw": {"do_rescale": False, "do_normalize": False},
        "clip_factor": {"rescale_factor": 1 / 127.5},
        "clip_grey": {"image_mean": 0.5, "image_std": 0.25},
        "clip_null": {"do_normalize": None, "do_resize": None},
        "clip_pad": {"do_pad": True},
        "llava_plain": {},
        "llava_pad": {"do_pad": True},
        "llava_pad_uncropped": {"do_pad": True, "do_center_crop": False},
        "llava_pad_unnormalized": {"do_pad": True, "do_normalize": False},
        "next_plain": {},
        "next_square": {"size": SQUARE},
        "next_uncropped": {"do_center_crop": False, "do_resize": False},
        "next_raw": {"do_rescale": False, "do_normalize": False},
        "next_nearest": {"resample": 0},
    }
    for number, name in enumerate(["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]):
        found[f"clip_{name}"] = {"resample": number}
        found[f"clip_{name}_squeeze"] = {"resample": number, "size": SQUARE}
    for name, changes in found.items():
        kind = CLASSES[name.split("_")[0]]
        config = {"image_processor_type": kind.__name__.removesuffix("Pil"), **SIZES, **changes}
        if kind is LlavaNextImageProcessorPil:
            config["image_grid_pinpoints"] = PINPOINTS
        yield name, kind, config


def main():
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in PICTURES]
    tensors = {f"picture.{index}": torch.from_numpy(picture) for index, picture in enumerate(pictures)}
    about = {}
    for name, kind, config in files():
        about[name] = config
        processor = kind(**{key: value for key, value in config.items() if key != "image_processor_type"})
        for index, picture in enumerate(pictures):
            pixels = torch.as_tensor(np.asarray(processor(picture)["pixel_values"][0]))
            pixels = pixels.float().reshape(-1, 3, *pixels.shape[-2:])
            assert pixels.shape[-2:] == (SIDE, SIDE), (name, pixels.shape)
            tensors[f"{name}.{index}"] = pixels.contiguous()
    save_file(tensors, OUT / "preprocessor.safetensors")
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
    (OUT / "preprocessor.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
