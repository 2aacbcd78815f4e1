"""Makes tests/fixtures/flux2: what diffusers' Flux2Transformer2DModel computes, for tests/parity/flux2.rs; and
tests/fixtures/flux2/transformer, a tiny one in other forms, for tests/weights/flux2.rs.

Weights and inputs are not stored: both sides draw them from the same counter-based formula (`field` and `weight` of
make_unet_fixtures.py), so a fixture is a config, the shapes of its tensors, and the outputs.

Each case has the Regional Attention Prior of joint attention too (docs/method.md section 5b), LITERALLY: in the
low-resolution pass the softmax maps of every image token over the text tokens are formed per head, with the text's values;
for each region they are cropped, resized and applied to these values, and that is averaged with the region's own text part.
The Rust side keeps no map.

Written in transformer/: `config.json`, `shapes.json`, `original.json` (each tensor of the original code with those of diffusers
that it is made of, row behind row), which diffusers' own converter brings back, `transformer.gguf` (Q8_0, the
modulations Q4_0) and `gguf.safetensors` (what diffusers computes with those weights).

    pip install gguf
    python tests/make_fixtures/make_flux2_fixtures.py
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

from make_rap_fixtures import sample as crop
from make_unet_fixtures import field, weight

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "flux2"
FORMS = OUT / "transformer"
RAP_WEIGHT = 0.4
# top, left, height, width relative to the picture
RECTS = [[0.0, 0.0, 0.5, 0.6], [0.3, 0.4, 0.55, 0.6], [0.45, 0.2, 0.2, 0.15]]

CASES = {
    # As klein, small: blocks of both kinds, more of the second.
    "klein": dict(
        config=dict(
            in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=36, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
        ),
        size=(6, 10), side=8, tokens=9, low=9, regions=9, timestep=700.0,
    ),
    # Axes of different widths, other ratio, base, ε and features; half as many channels come out; sides that are odd.
    "rare": dict(
        config=dict(
            in_channels=6, out_channels=3, num_layers=1, num_single_layers=1, attention_head_dim=20,
            num_attention_heads=2, joint_attention_dim=16, timestep_guidance_channels=32, mlp_ratio=2.51,
            axes_dims_rope=[2, 6, 4, 8], rope_theta=100, eps=1e-3, guidance_embeds=False,
        ),
        size=(11, 5), side=7, tokens=1, low=13, regions=6, timestep=37.5,
    ),
    # Many tokens of text beside few of a picture, and one head.
    "text": dict(
        config=dict(
            in_channels=32, num_layers=3, num_single_layers=1, attention_head_dim=32, num_attention_heads=1,
            joint_attention_dim=60, axes_dims_rope=[8, 8, 8, 8], guidance_embeds=False,
        ),
        size=(3, 4), side=5, tokens=70, low=64, regions=31, timestep=1000.0,
    ),
}


class LiteralPrior:
    """The attention of one block with its maps: recorded in one pass, blended in another."""

    def __init__(self):
        self.maps = None  # [1, heads * text, h, w]
        self.values = None  # [heads, text, d]
        self.size = None  # height and width in tokens
        self.rects = None

    def heads(self, attn, x, norm=None):
        x = x.unflatten(-1, (-1, attn.head_dim))
        return x if norm is None else norm(x)

    def mixed(self, q, k, v, rotary):
        cos, sin = (table[None, :, None, :].double() for table in rotary)

        def turned(x):
            real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
            return (x * cos + torch.stack([-imaginary, real], dim=-1).flatten(3) * sin).transpose(1, 2)

        q, k, v = turned(q), turned(k), v.transpose(1, 2)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = weights @ v
        height, width = self.size
        text = q.shape[2] - height * width
        of_text, text_values = weights[:, :, text:, :text], v[:, :, :text]
        if self.rects is None:
            self.values = text_values[0]
            self.maps = of_text[0].transpose(1, 2).reshape(1, -1, height, width)
        else:
            regions = []
            for rect in self.rects:
                cropped = crop(self.maps, rect, height, width).reshape(*self.values.shape[:2], -1)
                regions.append(cropped.transpose(1, 2) @ self.values)
            mixed = mixed.clone()
            mixed[:, :, text:] += RAP_WEIGHT * (torch.stack(regions) - of_text @ text_values)
        return mixed.transpose(1, 2).flatten(2), text


class LiteralDouble(LiteralPrior):
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        picture, text = hidden_states, encoder_hidden_states
        q, k, v = (
            torch.cat([self.heads(attn, added(text), added_norm), self.heads(attn, own(picture), norm)], dim=1)
            for added, own, added_norm, norm in [
                (attn.add_q_proj, attn.to_q, attn.norm_added_q, attn.norm_q),
                (attn.add_k_proj, attn.to_k, attn.norm_added_k, attn.norm_k),
                (attn.add_v_proj, attn.to_v, None, None),
            ]
        )
        mixed, tokens = self.mixed(q, k, v, image_rotary_emb)
        return attn.to_out[0](mixed[:, tokens:]), attn.to_add_out(mixed[:, :tokens])


class LiteralSingle(LiteralPrior):
    def __call__(self, attn, hidden_states, attention_mask=None, image_rotary_emb=None):
        both = attn.to_qkv_mlp_proj(hidden_states)
        q, k, v = both[..., : 3 * attn.inner_dim].chunk(3, dim=-1)
        q, k, v = self.heads(attn, q, attn.norm_q), self.heads(attn, k, attn.norm_k), self.heads(attn, v)
        mixed, _ = self.mixed(q, k, v, image_rotary_emb)
        return attn.to_out(torch.cat([mixed, attn.mlp_act_fn(both[..., 3 * attn.inner_dim :])], dim=-1))


@torch.no_grad()
def predict(model, inputs, timestep, dtype):
    """The velocity `[B, C, h, w]`, as the pipeline calls the model."""
    sample, context = inputs["sample"].to(dtype), inputs["context"].to(dtype)
    ids = Flux2KleinPipeline._prepare_latent_ids(sample)
    output = model(
        hidden_states=Flux2KleinPipeline._pack_latents(sample),
        timestep=torch.full((len(sample),), timestep, dtype=dtype) / 1000,
        guidance=None,
        encoder_hidden_states=context,
        txt_ids=Flux2KleinPipeline._prepare_text_ids(context),
        img_ids=ids,
        return_dict=False,
    )[0]
    return Flux2KleinPipeline._unpack_latents_with_ids(output, ids)


def set_priors(model, priors, size, rects):
    """Literal priors of all blocks, for a call on so many latent pixels."""
    for block, prior in zip([*model.transformer_blocks, *model.single_transformer_blocks], priors):
        prior.size, prior.rects = tuple(size), rects
        block.attn.set_processor(prior)


def literal(model, low, regions, timestep):
    """The regions' outputs with the literal prior of the low-resolution pass."""
    priors = [LiteralDouble() for _ in model.transformer_blocks]
    priors += [LiteralSingle() for _ in model.single_transformer_blocks]
    for inputs, rects in [(low, None), (regions, RECTS)]:
        set_priors(model, priors, inputs["sample"].shape[-2:], rects)
        output = predict(model, inputs, timestep, torch.float64)
    return output


def drawn(config):
    model = Flux2Transformer2DModel(**config).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()})
    return model, shapes


def write_cases():
    for case, spec in CASES.items():
        config = spec["config"]
        model, shapes = drawn(config)

        def inputs(prefix, batch, tokens, size):
            return dict(
                sample=(f"{prefix}sample", [batch, config["in_channels"], *size]),
                context=(f"{prefix}context", [batch, tokens, config["joint_attention_dim"]]),
            )

        side = spec["side"]
        all_inputs = {
            "plain": inputs("", 2, spec["tokens"], spec["size"]),
            "low": inputs("low.", 1, spec["low"], spec["size"]),
            "regions": inputs("regions.", len(RECTS), spec["regions"], (side, side)),
        }
        values = {
            kind: {name: field(*place) for name, place in named.items()} for kind, named in all_inputs.items()
        }
        output = predict(model, values["plain"], spec["timestep"], torch.float32)
        model = model.double()
        blended = literal(model, values["low"], values["regions"], spec["timestep"])
        tensors = dict(output=output.permute(0, 2, 3, 1), blended=blended.permute(0, 2, 3, 1))
        tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, OUT / f"{case}.safetensors")
        description = dict(
            config=config, shapes=shapes, timestep=spec["timestep"], inputs=all_inputs, rects=RECTS, weight=RAP_WEIGHT
        )
        (OUT / f"{case}.json").write_text(json.dumps(description) + "\n")
        print(case, float(output.abs().max()), float(blended.abs().max()))


RENAMED = [
    ("x_embedder.", "img_in."),
    ("context_embedder.", "txt_in."),
    ("time_guidance_embed.timestep_embedder.linear_1.", "time_in.in_layer."),
    ("time_guidance_embed.timestep_embedder.linear_2.", "time_in.out_layer."),
    ("modulation_img.linear.", "modulation_img.lin."),
    ("modulation_txt.linear.", "modulation_txt.lin."),
    ("single_stream_modulation.linear.", "single_stream_modulation.lin."),
    ("proj_out.", "final_layer.linear."),
    ("norm_out.linear.", "final_layer.adaLN_modulation.1."),
    ("single_transformer_blocks.", "single_blocks."),
    ("transformer_blocks.", "double_blocks."),
    (".attn.to_qkv_mlp_proj.", ".linear1."),
    (".attn.to_out.0.", ".img_attn.proj."),
    (".attn.to_add_out.", ".txt_attn.proj."),
    (".attn.to_out.", ".linear2."),
    (".ff.linear_in.", ".img_mlp.0."),
    (".ff.linear_out.", ".img_mlp.2."),
    (".ff_context.linear_in.", ".txt_mlp.0."),
    (".ff_context.linear_out.", ".txt_mlp.2."),
    (".attn.norm_added_q.weight", ".txt_attn.norm.query_norm.scale"),
    (".attn.norm_added_k.weight", ".txt_attn.norm.key_norm.scale"),
] + [
    pair
    for letter in "qkv"
    for pair in [
        (f".attn.to_{letter}.", ".img_attn.qkv."),
        (f".attn.add_{letter}_proj.", ".txt_attn.qkv."),
    ]
]


def original_name(name):
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    stream = "" if name.startswith("single_blocks.") else "img_attn."
    for letter, word in [("q", "query"), ("k", "key")]:
        name = name.replace(f".attn.norm_{letter}.weight", f".{stream}norm.{word}_norm.scale")
    return name


def write_forms():
    config = dict(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=40, mlp_ratio=2.0, axes_dims_rope=[4, 4, 4, 4], timestep_guidance_channels=64,
        guidance_embeds=False,
    )
    model, shapes = drawn(config)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = {}
    # Queries, keys and values come in this order.
    for name in state:
        parts.setdefault(original_name(name), []).append(name)
    original = {theirs: torch.cat([state[name] for name in names]) for theirs, names in parts.items()}
    # It has shift before scale.
    swapped = "final_layer.adaLN_modulation.1.weight"
    original[swapped] = original[swapped].roll(len(original[swapped]) // 2, 0)
    back = convert_flux2_transformer_checkpoint_to_diffusers(dict(original))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    model.save_config(FORMS)
    written = json.loads((FORMS / "config.json").read_text())
    # The list of defaults is a set: its order changes from run to run.
    written.pop("_use_default_values", None)
    (FORMS / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    (FORMS / "shapes.json").write_text(json.dumps(shapes) + "\n")
    (FORMS / "original.json").write_text(json.dumps(parts) + "\n")

    writer, rounded = GGUFWriter(FORMS / "transformer.gguf", "flux"), {}
    for name, tensor in original.items():
        values = tensor.numpy()
        kind = GGMLQuantizationType.F32 if values.ndim == 1 else GGMLQuantizationType.F16
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = GGMLQuantizationType.Q4_0 if "modulation" in name.lower() else GGMLQuantizationType.Q8_0
        stored = quantize(values, kind)
        rounded[name] = torch.from_numpy(dequantize(stored, kind)).reshape(tensor.shape)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # What diffusers computes with the rounded weights.
    model.load_state_dict(convert_flux2_transformer_checkpoint_to_diffusers(rounded))
    inputs = dict(sample=field("sample", [2, 5, 7, 16]).permute(0, 3, 1, 2), context=field("context", [2, 11, 40]))
    output = predict(model, inputs, 640.0, torch.float32)
    save_file({"output": output.permute(0, 2, 3, 1).contiguous()}, FORMS / "gguf.safetensors")


def main():
    torch.set_num_threads(1)
    shutil.rmtree(FORMS, ignore_errors=True)
    FORMS.mkdir(parents=True)
    write_cases()
    write_forms()


if __name__ == "__main__":
    main()
