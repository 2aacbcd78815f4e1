"""Makes tests/fixtures/pixart: what diffusers' PixArtTransformer2DModel computes, and what the older Transformer2DModel
does, for tests/parity/pixart.rs; with the regional attention prior in its LITERAL form (docs/method.md section 4).

Also `original.safetensors` and `original.gguf`: a transformer with the names of PixArt's own code, and what diffusers computes
with it (`original_expected.safetensors`).

    pip install gguf

Weights and inputs are drawn from the formula of make_unet_fixtures.py, so a fixture is a config, the shapes of its
tensors, and the outputs.

    python tests/make_fixtures/make_pixart_fixtures.py
"""

import json
import pathlib

import gguf
import numpy as np
import torch
from diffusers import PixArtTransformer2DModel, Transformer2DModel
from make_rap_fixtures import sample as crop_resize
from make_unet_fixtures import attention_layers, field, weight
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "pixart"

COMMON = dict(
    num_attention_heads=2,
    attention_head_dim=18,
    in_channels=4,
    out_channels=8,
    num_layers=3,
    cross_attention_dim=36,
    attention_bias=True,
    patch_size=2,
    activation_fn="gelu-approximate",
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=20,
)
CASES = {
    # PixArt-alpha at 1024: size micro-conditioning, which differs from row to row here.
    "alpha": dict(
        model=PixArtTransformer2DModel,
        config=dict(COMMON, sample_size=16, interpolation_scale=2, use_additional_conditions=True),
        batch=2, size=(12, 20), tokens=9, lengths=[5, 9], timestep=749,
        sizes=[[1024, 768], [640, 1536]],
    ),
    # PixArt-sigma: no size, other sizes than the native one along both axes.
    "sigma": dict(
        model=PixArtTransformer2DModel,
        config=dict(COMMON, sample_size=8, num_layers=4, use_additional_conditions=False),
        batch=3, size=(6, 14), tokens=7, lengths=[1, 7, 3], timestep=249, attention=True,
        region=(8, 8), rect=[0.25, 0.4, 0.75, 0.5],
    ),
    # The older class, at its native size; no learned sigma, no projection of the text, no bias, no mask, patches of 4.
    "old_class": dict(
        model=Transformer2DModel,
        config=dict(
            COMMON, sample_size=16, out_channels=None, cross_attention_dim=12, caption_channels=None,
            attention_bias=False, patch_size=4, num_embeds_ada_norm=1000, norm_eps=1e-5,
        ),
        batch=1, size=(16, 16), tokens=5, lengths=None, timestep=999,
    ),
}


def literal_priors(model, arguments, rect, rows, columns):
    """The low-resolution pass's attention maps, cropped, resized, applied to its own values and projected."""
    priors, hooks = [], []
    patch = model.config.patch_size
    height, width = (side // patch for side in arguments["hidden_states"].shape[-2:])

    def record(attention, _arguments, kwargs, _output):
        x, context = _arguments[0], kwargs["encoder_hidden_states"]
        mask = kwargs["attention_mask"]
        q = attention.head_to_batch_dim(attention.to_q(x))
        k = attention.head_to_batch_dim(attention.to_k(context))
        v = attention.head_to_batch_dim(attention.to_v(context))
        scores = q @ k.transpose(1, 2) * attention.scale + mask.repeat_interleave(attention.heads, 0)
        maps = scores.softmax(-1)
        heads, _, tokens = maps.shape
        maps = maps.reshape(heads, height, width, tokens).permute(0, 3, 1, 2)
        cropped = crop_resize(maps.reshape(1, heads * tokens, height, width).double(), rect, rows, columns)
        cropped = cropped.float().reshape(heads, tokens, rows * columns)
        mixed = attention.batch_to_head_dim(cropped.transpose(1, 2) @ v)
        priors.append(attention.to_out[0](mixed))

    for layer in attention_layers(model):
        hooks.append(layer.register_forward_hook(record, with_kwargs=True))
    model(**arguments)
    for hook in hooks:
        hook.remove()
    return priors


# PixArt's own names of modules, and those of diffusers that each is made of (diffusers' conversion scripts).
ORIGINAL = {
    "x_embedder.proj": ["pos_embed.proj"],
    "t_embedder.mlp.0": ["adaln_single.emb.timestep_embedder.linear_1"],
    "t_embedder.mlp.2": ["adaln_single.emb.timestep_embedder.linear_2"],
    "csize_embedder.mlp.0": ["adaln_single.emb.resolution_embedder.linear_1"],
    "csize_embedder.mlp.2": ["adaln_single.emb.resolution_embedder.linear_2"],
    "ar_embedder.mlp.0": ["adaln_single.emb.aspect_ratio_embedder.linear_1"],
    "ar_embedder.mlp.2": ["adaln_single.emb.aspect_ratio_embedder.linear_2"],
    "t_block.1": ["adaln_single.linear"],
    "y_embedder.y_proj.fc1": ["caption_projection.linear_1"],
    "y_embedder.y_proj.fc2": ["caption_projection.linear_2"],
    "blocks.0.attn.qkv": [f"transformer_blocks.0.attn1.to_{part}" for part in "qkv"],
    "blocks.0.attn.proj": ["transformer_blocks.0.attn1.to_out.0"],
    "blocks.0.cross_attn.q_linear": ["transformer_blocks.0.attn2.to_q"],
    "blocks.0.cross_attn.kv_linear": [f"transformer_blocks.0.attn2.to_{part}" for part in "kv"],
    "blocks.0.cross_attn.proj": ["transformer_blocks.0.attn2.to_out.0"],
    "blocks.0.mlp.fc1": ["transformer_blocks.0.ff.net.0.proj"],
    "blocks.0.mlp.fc2": ["transformer_blocks.0.ff.net.2"],
    "final_layer.linear": ["proj_out"],
}


@torch.no_grad()
def original():
    """A transformer of one block in the names of PixArt's own code, with its sixteen heads."""
    torch.manual_seed(0)
    config = dict(COMMON, num_attention_heads=16, attention_head_dim=3, num_layers=1, cross_attention_dim=48,
                  caption_channels=16, sample_size=12, interpolation_scale=None, use_additional_conditions=True)
    model = PixArtTransformer2DModel(**config).eval()
    # Numbers that f16 holds, so that every form has the same.
    state = {name: weight(name, list(tensor.shape)).half().float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    tensors = {
        f"{theirs}.{kind}": torch.cat([state.pop(f"{name}.{kind}") for name in ours])
        for theirs, ours in ORIGINAL.items() for kind in ("weight", "bias")
    }
    tensors["blocks.0.scale_shift_table"] = state.pop("transformer_blocks.0.scale_shift_table")
    tensors["final_layer.scale_shift_table"] = state.pop("scale_shift_table")
    assert not state, state.keys()
    tensors["pos_embed"] = torch.zeros(1, 36, 48)
    tensors["y_embedder.y_embedding"] = torch.zeros(120, 16)
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, OUT / "original.safetensors")
    writer = gguf.GGUFWriter(OUT / "original.gguf", "pixart")
    for name, tensor in tensors.items():
        writer.add_tensor(name, (tensor.float() if tensor.dim() < 2 else tensor).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sizes = torch.tensor([[48.0, 48.0]])
    output = model(
        field("sample", [1, 4, 12, 12]), timestep=torch.tensor([499]), encoder_hidden_states=field("context", [1, 7, 16]),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
        added_cond_kwargs=dict(resolution=sizes, aspect_ratio=torch.ones(1, 1)), return_dict=False,
    )[0][:, :4]
    save_file({"output": output.permute(0, 2, 3, 1).contiguous()}, OUT / "original_expected.safetensors")


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    original()
    for case, spec in CASES.items():
        torch.manual_seed(0)
        model = spec["model"](**spec["config"]).eval()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()})

        batch, (height, width), tokens = spec["batch"], spec["size"], spec["tokens"]
        text_width = model.config.caption_channels or model.config.cross_attention_dim
        inputs = dict(sample=[batch, 4, height, width], context=[batch, tokens, text_width])
        added = dict(resolution=None, aspect_ratio=None)
        if sizes := spec.get("sizes"):
            sizes = torch.tensor(sizes, dtype=torch.float32)
            added = dict(resolution=sizes, aspect_ratio=sizes[:, :1] / sizes[:, 1:])
        mask = None
        if spec["lengths"]:
            mask = torch.tensor([[token < length for token in range(tokens)] for length in spec["lengths"]]).int()

        def arguments(name, rows=slice(None)):
            return dict(
                hidden_states=field(name, inputs[name])[rows],
                timestep=torch.tensor([spec["timestep"]] * inputs[name][0])[rows],
                encoder_hidden_states=field("context", inputs["context"])[rows],
                encoder_attention_mask=None if mask is None else mask[rows],
                added_cond_kwargs=added,
                return_dict=False,
            )

        def run(arguments):
            # A learned sigma is the second half of the channels.
            return model(**arguments)[0][:, :4].permute(0, 2, 3, 1).contiguous()

        tensors = {}
        with torch.no_grad():
            tensors["output"] = run(arguments("sample"))
            if spec.get("attention"):
                recorded, hooks = [], []
                for layer in attention_layers(model):
                    hooks.append(layer.register_forward_hook(
                        lambda _module, _input, output: recorded.append(output.clone())))
                model(**arguments("sample"))
                for hook in hooks:
                    hook.remove()
                for index, output in enumerate(recorded):
                    tensors[f"recorded.{index}"] = output

                # A region with the caption of row 2, under the prior of a low-resolution pass with the prompt of row 1.
                inputs["region"] = [batch, 4, *spec["region"]]
                rows, columns = (side // model.config.patch_size for side in spec["region"])
                priors = literal_priors(
                    model, arguments("sample", slice(1, 2)), spec["rect"], rows, columns)
                visited = iter(priors)
                hooks = [layer.register_forward_hook(
                    lambda _module, _input, output: 0.5 * output + 0.5 * next(visited))
                    for layer in attention_layers(model)]
                tensors["region"] = run(arguments("region", slice(2, 3)))
                for hook in hooks:
                    hook.remove()
                tensors["region_alone"] = run(arguments("region", slice(2, 3)))

        description = dict(
            config=json.loads(model.to_json_string()),
            shapes=shapes,
            inputs=inputs,
            timestep=spec["timestep"],
            lengths=spec["lengths"],
            sizes=spec.get("sizes"),
            rect=spec.get("rect"),
        )
        (OUT / f"{case}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
        save_file(tensors, OUT / f"{case}.safetensors")
        parameters = sum(np.prod(shape) for shape in shapes.values())
        print(case, int(parameters), "parameters, output std", tensors["output"].std().item())


if __name__ == "__main__":
    main()
