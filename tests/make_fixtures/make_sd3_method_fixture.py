"""Makes tests/fixtures/sd3/model, a tiny Stable Diffusion 3.5 with random weights (transformer, autoencoder and scheduler
in diffusers layout; its text encoders and tokenizers are those of the fixtures t5 and img2img), the same transformer with the
original names in one file and in GGUF, and tests/fixtures/sd3/method: whole jobs with it by the method of docs/method.md,
written in PyTorch and diffusers, in f64.

    pip install gguf
    python tests/make_fixtures/make_sd3_method_fixture.py

It is make_method_fixture.py for flow matching and joint attention (section 5b), literal in the same way: the regional
attention prior keeps the softmax maps over the text's tokens, the structure prior is autograd through equations 4 and 5
with ε held constant, steps are diffusers' own, every region is a call by itself, the VAE sees the picture whole.

Written in model/: also `original.safetensors` (transformer and text encoders of a single file) and `transformer.gguf`
(Q8_0, as ComfyUI-GGUF has it), which diffusers' own converter brings back to the folder's tensors. In method/: `in.png`,
`captions.json`, `cases.json`, `expected.safetensors`.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
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

from make_img2img_fixture import noise_field, picture
from make_method_fixture import (
    Case, HEIGHT, NEGATIVE, PROMPT, WIDTH, caption_document, continued, lanczos, low_band, profile, starts,
    write_json, write_png,
)
from make_sd3_fixtures import LiteralPrior
from make_text_fixtures import randomize

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
MODEL, AREA = FIXTURES / "sd3" / "model", FIXTURES / "sd3" / "method"
STEPS, RUN = 8, 4
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


class Method:
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
        self.region = self.transformer.config.sample_size

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

    def encode(self, image, height, width):
        f, config = self.factor, self.vae.config
        image = continued(image, (0, height * f - image.shape[-2]), (0, width * f - image.shape[-1]))
        return (self.vae.encode(2 * image - 1).latent_dist.mean - config.shift_factor) * config.scaling_factor

    def decode(self, z):
        config = self.vae.config
        return self.vae.decode(z / config.scaling_factor + config.shift_factor).sample

    def set_priors(self, priors, size, rects):
        """Literal priors of all blocks, for a call on so many latent pixels."""
        plain = LiteralPrior(0.0)
        patch = self.transformer.config.patch_size
        plain.size = (0, 0)
        for block, prior in zip(self.transformer.transformer_blocks, priors):
            prior.size, prior.rects = tuple(side // patch for side in size), rects
            block.attn.set_processor(prior)
            if block.attn2 is not None:
                block.attn2.set_processor(plain)

    @torch.no_grad()
    def run(self, image, case):
        side, f = self.region, self.factor
        (width, height), (in_height, in_width) = case.size, image.shape[-2:]
        canvas_h, canvas_w = (2 * math.ceil(math.ceil(n / f) / 2) for n in (height, width))
        resized = lanczos(image, width, height)
        low = self.encode(resized, canvas_h, canvas_w)

        self.scheduler.set_timesteps(STEPS)
        self.scheduler.set_begin_index(STEPS - RUN)
        timesteps = self.scheduler.timesteps[STEPS - RUN :]
        sigmas = self.scheduler.sigmas[STEPS - RUN :].double()
        noise = noise_field(case.seed, *low.shape[1:]).double()
        z = (1 - sigmas[0]) * low + sigmas[0] * noise

        aspect, stride = math.sqrt(in_width / in_height), self.transformer.config.patch_size
        small_h, small_w = (
            stride * max(1, math.floor(n / stride + 0.5)) for n in (side / aspect, side * aspect)
        )
        small = self.encode(lanczos(image, small_w * f, small_h * f), small_h, small_w)
        small_noise = noise_field(case.seed, *small.shape[1:], draw=1).double()

        overlap = math.floor(case.overlap * side + 0.5)
        ys, xs = starts(canvas_h, side, overlap), starts(canvas_w, side, overlap)
        weight = profile(side, overlap, case.fusion)
        weight = weight[:, None] * weight[None, :]
        texts = caption_document(ys, xs, case, side, f) if case.captions else None
        prompt, negative = self.condition(PROMPT), self.condition(case.negative)
        conditions = []
        for index in range(len(ys) * len(xs)):
            own = texts and texts["regions"][index]["caption"]
            own = self.condition(own) if own else prompt
            conditions.append(tuple(case.rsp * a + (1 - case.rsp) * b for a, b in zip(own, prompt)))

        self.transformer.set_attn_processor(dict(self.own))
        halves = 2 if case.guidance > 1 else 1
        twins = [[LiteralPrior(case.rap) for _ in self.transformer.transformer_blocks] for _ in range(halves)]
        for i, t in enumerate(timesteps):
            if case.rap > 0:
                state = (1 - sigmas[i]) * small + sigmas[i] * small_noise
                for priors, condition in zip(twins, (prompt, negative)):
                    self.set_priors(priors, (small_h, small_w), None)
                    self.predict(state, t, condition)
            total, weights = torch.zeros_like(z), torch.zeros_like(z)
            for (y, x), own in zip([(y, x) for y in ys for x in xs], conditions):
                window = continued(z, (0, max(side - canvas_h, 0)), (0, max(side - canvas_w, 0)))
                window = window[..., y : y + side, x : x + side]
                unit = (height / f, width / f)
                place = [y / unit[0], x / unit[1], side / unit[0], side / unit[1]]
                outputs = []
                for priors, condition in zip(twins, (own, negative)):
                    if case.rap > 0:
                        self.set_priors(priors, (side, side), [place])
                    outputs.append(self.predict(window, t, condition))
                velocity = outputs[0]
                if halves == 2:
                    velocity = outputs[1] + case.guidance * (outputs[0] - outputs[1])
                h, w = min(side, canvas_h), min(side, canvas_w)
                total[..., y : y + h, x : x + w] += (weight * velocity)[..., :h, :w]
                weights[..., y : y + h, x : x + w] += weight[:h, :w]
            signal, spread = 1 - sigmas[i], sigmas[i]
            eps = z + signal * total / weights
            weight_i = case.gsp * 0.5 * (1 + math.cos(math.pi * i / RUN))
            z = self.structure(z, eps, low, signal, spread, weight_i)
            # The velocity that the moved canvas and the noise imply.
            z = self.scheduler.step(eps - (z - spread * eps) / signal, t, z).prev_sample.double()

        decoded = self.decode(z)
        result = (decoded[0, :, :height, :width] * 0.5 + 0.5).clamp(0, 1)
        return result.permute(1, 2, 0).float().contiguous(), texts

    @torch.enable_grad()
    def structure(self, z, eps, low, signal, spread, weight):
        """Equations 4 and 5 by autograd; the factor 2η/signal² of docs/method.md is the weight λ."""
        z = z.detach().requires_grad_()
        clean = (z - spread * eps) / signal
        loss = (low_band(clean) - low_band(low)).square().sum()
        (gradient,) = torch.autograd.grad(loss, z)
        return (z - weight * signal**2 / 2 * gradient).detach()


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    models = build()
    save(models)
    save_other_forms(models["transformer"])
    image = (picture(HEIGHT, WIDTH, torch.Generator().manual_seed(7)).double() + 1) / 2
    samples = (image * 65535).round()
    image = samples / 65535
    write_png(AREA / "in.png", samples[0].permute(1, 2, 0).numpy().astype(np.uint16))
    whole, expected, cases = Method(), {}, {}
    for name, case in CASES.items():
        expected[name], texts = whole.run(image, case)
        assert expected[name].isfinite().all()
        inside = ((expected[name] > 0) & (expected[name] < 1)).double().mean().item()
        print(name, inside)
        assert inside > 0.2, (name, inside)
        # Without the option the program takes the guidance that the makers recommend.
        alone = [] if case.guidance else ["--guidance", "1"]
        cases[name] = {"options": case.options() + alone}
        if texts:
            write_json(AREA / case.captions, texts)
    save_file(expected, AREA / "expected.safetensors")
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
