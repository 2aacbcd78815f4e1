"""Makes tests/fixtures/z_image/model, a tiny Z-Image: the files of its folder but for the weights, which both sides draw from
one formula (`weight` of make_unet_fixtures.py), the names that the original code gives the transformer's tensors, and the
transformer in GGUF; and tests/fixtures/z_image/method: whole jobs with it by the method of docs/method.md, written in PyTorch
and diffusers, in f64. Run make_z_image_fixtures.py first: the tokenizer and the text encoder are that script's.

    pip install gguf
    python tests/make_fixtures/make_z_image_method_fixture.py

It is flow_method.py with one stream of tokens, at the pipeline's sigmas; the regional attention prior keeps the softmax maps
over the text's tokens.

Written in model/: also `shapes.json` (tensors of every part), `original.json` (each tensor of the original code with those of
diffusers that it is made of, row behind row), which diffusers' own converter brings back, and `transformer.gguf` (Q8_0, the
timestep's layers Q4_0), `gguf.safetensors` (what diffusers computes with those weights). In method/: `in.png`, `captions.json`, `cases.json`, `expected.safetensors`; and `words.safetensors`,
what the pipeline itself makes of a prompt (`words.json`: width, height, steps, guidance).
"""

import json
import shutil
from dataclasses import replace

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from flow_method import FlowMethod, write_jobs
from make_img2img_fixture import noise_field
from make_method_fixture import NEGATIVE, PROMPT, STEPS, Case, write_json
from make_unet_fixtures import field, weight
from make_z_image_fixtures import ENCODERS, OUT, LiteralPrior, predict, wide_rotation

MODEL, AREA = OUT / "model", OUT / "method"
# Native size in latent pixels; the configuration has none.
SIDE, FACTOR = 12, 4
INDEX = {
    "_class_name": "ZImagePipeline",
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "cupscale": {"native_size": SIDE * FACTOR},
}


def build():
    models = {
        "transformer": ZImageTransformer2DModel(
            in_channels=8, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=40,
            axes_dims=[4, 6, 6], axes_lens=[1536, 512, 512],
        ),
        "vae": AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=[8, 8, 12], layers_per_block=1, latent_channels=8, norm_num_groups=4,
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        ),
        "text_encoder": Qwen3ForCausalLM(Qwen3Config(**ENCODERS["shared_heads"][1])),
    }
    shapes = {}
    for part, model in models.items():
        shapes[part] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        shapes[part].pop("lm_head.weight", None)
        drawn = {name: weight(name, shape) for name, shape in shapes[part].items()}
        model.load_state_dict(drawn, strict=False)
        model.eval()
    return models, shapes


def save(models, shapes):
    write_json(MODEL / "model_index.json", INDEX)
    (MODEL / "shapes.json").write_text(json.dumps(shapes) + "\n")
    for name in ("transformer", "vae"):
        models[name].save_config(MODEL / name)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_config(MODEL / "scheduler")
    for path in MODEL.glob("*/*config.json"):
        config = json.loads(path.read_text())
        # The list of defaults is a set: its order changes from run to run.
        config.pop("_use_default_values", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    written = json.loads((OUT / "shared_heads.json").read_text())
    (MODEL / "text_encoder").mkdir()
    write_json(MODEL / "text_encoder" / "config.json", written["config"])


def save_other_forms(transformer):
    state = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    parts, rounded = {}, {}
    for name in state:
        theirs = name.replace("all_final_layer.2-1.", "final_layer.").replace("all_x_embedder.2-1.", "x_embedder.")
        theirs = theirs.replace(".attention.to_out.0.", ".attention.out.")
        for letter in "qk":
            theirs = theirs.replace(f".attention.norm_{letter}.", f".attention.{letter}_norm.")
        for letter in "qkv":
            theirs = theirs.replace(f".attention.to_{letter}.", ".attention.qkv.")
        parts.setdefault(theirs, []).append(name)
    for names in parts.values():
        names.sort(key=lambda name: "qkv".find(name.rsplit(".", 2)[-2][-1]) if len(names) > 1 else 0)
    original = {theirs: torch.cat([state[name] for name in names]) for theirs, names in parts.items()}
    back = convert_z_image_transformer_checkpoint_to_diffusers(dict(original))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    (MODEL / "original.json").write_text(json.dumps(parts) + "\n")
    writer = GGUFWriter(MODEL / "transformer.gguf", "lumina2")
    for name, tensor in original.items():
        # Vectors have one axis in GGUF.
        values = tensor.squeeze().numpy()
        kind = GGMLQuantizationType.F32 if values.ndim == 1 else GGMLQuantizationType.F16
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            is_timestep = name.startswith("t_embedder")
            kind = GGMLQuantizationType.Q4_0 if is_timestep else GGMLQuantizationType.Q8_0
        stored = quantize(values, kind)
        rounded[name] = torch.from_numpy(dequantize(stored, kind)).reshape(tensor.shape)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # What diffusers computes with the rounded weights.
    transformer.load_state_dict(convert_z_image_transformer_checkpoint_to_diffusers(rounded))
    sample, context = field("sample", [2, 12, 8, 8]).permute(0, 3, 1, 2), field("context", [2, 40, 40])
    texts = [row[:length] for row, length in zip(context, [9, 40])]
    output = predict(transformer, dict(sample=list(sample), texts=texts), 640.0, torch.float32)
    save_file({"output": output.permute(0, 2, 3, 1).contiguous()}, MODEL / "gguf.safetensors")
    transformer.load_state_dict(state)


ALL = Case()
CASES = {
    "all": ALL,
    "no_attention": replace(ALL, rap=0.0, size=(80, 56), captions=""),
    "guided": replace(ALL, guidance=3.5, negative=NEGATIVE, size=(80, 56), captions=""),
    # an empty negative prompt is encoded; 8 latent rows where a region has 12
    "strip": replace(ALL, size=(98, 30), gsp=0.6, captions="", guidance=2.0, rap=0.8),
}


# Pictures from words by diffusers' own pipeline: width and height, steps, the pipeline's guidance.
WORDS = {"native": (48, 48, 8, 0.0), "wide": (64, 40, 9, 0.0), "guided": (40, 56, 8, 1.5)}


@torch.no_grad()
def from_words(models):
    """Pictures [H, W, 3], from the program's own noise."""
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        tokenizer=Qwen2Tokenizer.from_pretrained(OUT / "tokenizer"),
        **models,
    )
    pipe.set_progress_bar_config(disable=True)
    pictures = {}
    for name, (width, height, steps, guidance) in WORDS.items():
        pixels = pipe(
            prompt=PROMPT, negative_prompt=NEGATIVE, width=width, height=height, num_inference_steps=steps,
            guidance_scale=guidance, latents=noise_field(7, 8, height // FACTOR, width // FACTOR), output_type="pt",
        ).images
        pictures[name] = pixels[0].permute(1, 2, 0).contiguous()
    return pictures


class Method(FlowMethod):
    region, factor, patch = SIDE, FACTOR, 2

    def __init__(self, models):
        self.vae, self.transformer = (models[name].double() for name in ("vae", "transformer"))
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.text = ZImagePipeline(
            scheduler=None, vae=None, transformer=None, text_encoder=models["text_encoder"].double(),
            tokenizer=Qwen2Tokenizer.from_pretrained(OUT / "tokenizer"),
        )
        wide_rotation(self.transformer)
        for block in [*self.transformer.noise_refiner, *self.transformer.context_refiner]:
            block.attention.set_processor(LiteralPrior())

    def condition(self, text):
        (states,) = self.text._encode_prompt([text], device="cpu")
        return states

    def predict(self, z, t, condition):
        time = torch.full((1,), (1000 - float(t)) / 1000, dtype=torch.float64)
        (output,) = self.transformer([z[0].unsqueeze(1)], time, [condition], return_dict=False)[0]
        return -output.squeeze(1)[None]

    def set_timesteps(self):
        self.scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(STEPS))

    def priors(self, weight):
        return [LiteralPrior(weight) for _ in self.transformer.layers]

    def set_priors(self, priors, size, rects):
        for block, prior in zip(self.transformer.layers, priors):
            prior.size, prior.rects = tuple(side // self.patch for side in size), rects
            block.attention.set_processor(prior)

    def without_priors(self):
        for block in self.transformer.layers:
            block.attention.set_processor(LiteralPrior())


def main():
    torch.set_num_threads(1)
    for folder in (MODEL, AREA):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    models, shapes = build()
    save(models, shapes)
    save_other_forms(models["transformer"])
    # In f32, as the pipeline is; all that follows is f64.
    save_file(from_words(models), AREA / "words.safetensors")
    write_json(AREA / "words.json", {name: list(case) for name, case in WORDS.items()})
    write_jobs(AREA, Method(models), CASES)


if __name__ == "__main__":
    main()
