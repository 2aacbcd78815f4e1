"""Makes tests/fixtures/sd3/model, a tiny Stable Diffusion 3.5 with random weights (transformer, autoencoder and scheduler
in diffusers layout; its text encoders and tokenizers are those of the fixtures t5 and img2img), the same transformer with the
original names in one file and in GGUF, and tests/fixtures/sd3/method: whole jobs with it by the method of docs/method.md,
written in PyTorch and diffusers, in f64.

    pip install gguf
    python tests/make_fixtures/make_sd3_method_fixture.py

It is flow_method.py with joint attention, whose regional attention prior keeps the softmax maps over the text's tokens.

Written in model/: also `original.safetensors` (transformer and text encoders of a single file) and `transformer.gguf`
(Q8_0, as ComfyUI-GGUF has it), which diffusers' own converter brings back to the folder's tensors. In method/: `in.png`,
`captions.json`, `cases.json`, `expected.safetensors`.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from flow_method import FlowMethod, write_jobs
from make_method_fixture import NEGATIVE, Case, write_json
from make_sd3_fixtures import LiteralPrior
from make_text_fixtures import randomize

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
MODEL, AREA = FIXTURES / "sd3" / "model", FIXTURES / "sd3" / "method"
INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
}


def build():
    """The models with their weights rounded to f16, as they are stored."""
    models = {
        "transformer": SD3Transformer2DModel(
            sample_size=12, patch_size=2, in_channels=8, out_channels=8, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=40, caption_projection_dim=32, pooled_projection_dim=26,
            pos_embed_max_size=16, dual_attention_layers=[0], qk_norm="rms_norm",
        ),
        "vae": AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=[8, 8, 12], layers_per_block=1, latent_channels=8, norm_num_groups=4,
            scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
        ),
    }
    for seed, model in enumerate(models.values()):
        randomize(model, torch.Generator().manual_seed(300 + seed))
        with torch.no_grad():
            for parameter in model.parameters():
                # Convolutions' fan-in counts their taps.
                if parameter.dim() == 4:
                    parameter.div_(parameter[0, 0].numel() ** 0.5)
        model.half().float().eval()
    return models


def save(models):
    MODEL.mkdir(parents=True, exist_ok=True)
    write_json(MODEL / "model_index.json", INDEX)
    for name, model in models.items():
        model.half().save_pretrained(MODEL / name)
        model.float()
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(MODEL / "scheduler")
    for path in MODEL.glob("*/*config.json"):
        config = json.loads(path.read_text())
        # The list of defaults is a set: its order changes from run to run.
        config.pop("_use_default_values", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


def original_names(state, layers, dual):
    """The transformer's tensors as Stability AI's code has them."""

    def swapped(x):
        scale, shift = x.chunk(2)
        return torch.cat([shift, scale])

    out = {"pos_embed": state["pos_embed.pos_embed"]}
    for kind in ("weight", "bias"):
        for ours, theirs in {
            "pos_embed.proj": "x_embedder.proj",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
            "context_embedder": "context_embedder",
            "proj_out": "final_layer.linear",
        }.items():
            out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        out[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(state[f"norm_out.linear.{kind}"])
        for layer in range(layers):
            last, ours = layer == layers - 1, f"transformer_blocks.{layer}"
            x, c = (f"joint_blocks.{layer}.{block}" for block in ("x_block", "context_block"))

            def joined(names):
                return torch.cat([state[f"{ours}.{name}.{kind}"] for name in names])

            out[f"{x}.attn.qkv.{kind}"] = joined([f"attn.to_{part}" for part in "qkv"])
            out[f"{c}.attn.qkv.{kind}"] = joined([f"attn.add_{part}_proj" for part in "qkv"])
            names = {f"{x}.attn.proj": "attn.to_out.0", f"{x}.adaLN_modulation.1": "norm1.linear"}
            names |= {f"{x}.mlp.fc1": "ff.net.0.proj", f"{x}.mlp.fc2": "ff.net.2"}
            if not last:
                names |= {f"{c}.attn.proj": "attn.to_add_out", f"{c}.adaLN_modulation.1": "norm1_context.linear"}
                names |= {f"{c}.mlp.fc1": "ff_context.net.0.proj", f"{c}.mlp.fc2": "ff_context.net.2"}
            if layer in dual:
                out[f"{x}.attn2.qkv.{kind}"] = joined([f"attn2.to_{part}" for part in "qkv"])
                names |= {f"{x}.attn2.proj": "attn2.to_out.0"}
            for theirs, name in names.items():
                out[f"{theirs}.{kind}"] = state[f"{ours}.{name}.{kind}"]
            if last:
                out[f"{c}.adaLN_modulation.1.{kind}"] = swapped(state[f"{ours}.norm1_context.linear.{kind}"])
    for layer in range(layers):
        ours = f"transformer_blocks.{layer}.attn"
        x, c = (f"joint_blocks.{layer}.{block}.attn" for block in ("x_block", "context_block"))
        for part in "qk":
            out[f"{x}.ln_{part}.weight"] = state[f"{ours}.norm_{part}.weight"]
            out[f"{c}.ln_{part}.weight"] = state[f"{ours}.norm_added_{part}.weight"]
            if layer in dual:
                out[f"{x}2.ln_{part}.weight"] = state[f"{ours}2.norm_{part}.weight"]
    return out


def save_other_forms(transformer):
    state = {name: tensor.half() for name, tensor in transformer.state_dict().items()}
    config = transformer.config
    original = original_names(state, config.num_layers, config.dual_attention_layers)
    back = convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    whole = {f"model.diffusion_model.{name}": tensor for name, tensor in original.items()}
    for folder, name in [("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")]:
        encoder = load_file(FIXTURES / "t5" / "pipelines" / folder / "model.safetensors")
        for key, tensor in encoder.items():
            whole[f"text_encoders.{name}.transformer.{key}"] = tensor.half()
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, MODEL / "original.safetensors")
    writer = GGUFWriter(MODEL / "transformer.gguf", "sd3")
    for name, tensor in original.items():
        values = tensor.float().numpy()
        is_matrix = values.ndim == 2 and values.shape[1] % 32 == 0
        kind = GGMLQuantizationType.Q8_0 if is_matrix else GGMLQuantizationType.F16
        if values.ndim == 1:
            kind = GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


ALL = Case()
CASES = {
    "all": ALL,
    "no_attention": replace(ALL, rap=0.0, size=(80, 56), captions=""),
    "guided": replace(ALL, guidance=3.5, negative=NEGATIVE, size=(80, 56), captions=""),
    # an empty negative prompt is encoded; 8 latent rows where a region has 12
    "strip": replace(ALL, size=(98, 30), gsp=0.6, captions="", guidance=2.0, rap=0.8),
}


class Method(FlowMethod):
    def __init__(self):
        def load(kind, folder):
            return kind.from_pretrained(folder, torch_dtype=torch.float32).double().eval()

        texts, shared = FIXTURES / "t5" / "pipelines", FIXTURES / "img2img" / "model"
        self.vae = load(AutoencoderKL, MODEL / "vae")
        self.transformer = load(SD3Transformer2DModel, MODEL / "transformer")
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(MODEL / "scheduler")
        self.text = StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=load(CLIPTextModelWithProjection, texts / "text_encoder"),
            text_encoder_2=load(CLIPTextModelWithProjection, texts / "text_encoder_2"),
            text_encoder_3=load(T5EncoderModel, texts / "text_encoder_3"),
            tokenizer=CLIPTokenizer.from_pretrained(shared / "tokenizer"),
            tokenizer_2=CLIPTokenizer.from_pretrained(shared / "tokenizer_2"),
            tokenizer_3=AutoTokenizer.from_pretrained(FIXTURES / "t5" / "json"),
        )
        self.own = dict(self.transformer.attn_processors)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.region, self.patch = self.transformer.config.sample_size, self.transformer.config.patch_size

    def condition(self, text):
        context, _, pooled, _ = self.text.encode_prompt(
            text, None, None, device="cpu", do_classifier_free_guidance=False
        )
        return context, pooled

    def predict(self, z, t, condition):
        context, pooled = condition
        # diffusers' timestep of the pipeline is f32.
        time = torch.full((z.shape[0],), float(t), dtype=torch.float64)
        return self.transformer(
            z, timestep=time, encoder_hidden_states=context, pooled_projections=pooled
        ).sample

    def blended(self, own, prompt, share):
        return tuple(share * a + (1 - share) * b for a, b in zip(own, prompt))

    def priors(self, weight):
        return [LiteralPrior(weight) for _ in self.transformer.transformer_blocks]

    def set_priors(self, priors, size, rects):
        plain = LiteralPrior(0.0)
        plain.size = (0, 0)
        for block, prior in zip(self.transformer.transformer_blocks, priors):
            prior.size, prior.rects = tuple(side // self.patch for side in size), rects
            block.attn.set_processor(prior)
            if block.attn2 is not None:
                block.attn2.set_processor(plain)

    def without_priors(self):
        self.transformer.set_attn_processor(dict(self.own))


def options(case):
    # Without the option the program takes the guidance that the makers recommend.
    return case.options() + ([] if case.guidance else ["--guidance", "1"])


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    models = build()
    save(models)
    save_other_forms(models["transformer"])
    write_jobs(AREA, Method(), CASES, options)


if __name__ == "__main__":
    main()
