"""Makes tests/fixtures/unet: what diffusers' UNet2DConditionModel computes, for tests/parity/unet.rs.

Weights and inputs are not stored: both sides draw them from the same counter-based formula
(`field` below), so a fixture is a config, the shapes of its tensors, and the outputs. Distilled UNets have their tensors
in groups of modules of one kind, each with the names of the original code, which diffusers' own converter brings back.

    python tests/make_fixtures/make_unet_fixtures.py
"""

import json
import pathlib
import re

import numpy as np
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "unet"


def field(name, shape):
    """Uniform numbers in [-1, 1) from SplitMix64, keyed by FNV-1a of the name; exact in f32."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        count = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
        z = np.uint64(key) + count * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return torch.from_numpy(unit.reshape(shape))


def weight(name, shape):
    """Matrices keep the variance, norm gains are near 1, biases small."""
    unit = field(name, shape)
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        return unit * torch.tensor(np.float32(np.sqrt(3.0 / fan_in)))
    if name.endswith(".weight"):
        return 1 + unit * 0.25
    return unit * 0.25


def attention_layers(model):
    """The cross-attention modules, in no order: hooks fire in the order of the visits."""
    return [module for name, module in model.named_modules() if name.endswith("attn2")]


COMMON = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    norm_num_groups=8,
    act_fn="silu",
)
TEXT_TIME = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=8 * 6 + 20,
)
CASES = {
    # SDXL's shape of things: no attention at the finest level, depth 2 at the coarsest.
    "sdxl": dict(
        config=dict(
            COMMON,
            **TEXT_TIME,
            block_out_channels=[32, 64],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            layers_per_block=2,
            transformer_layers_per_block=[1, 2],
            attention_head_dim=[2, 4],
            cross_attention_dim=48,
            use_linear_projection=True,
        ),
        batch=2, size=(16, 12), tokens=7, timestep=749,
    ),
    # Low-resolution conditioning by concatenation, three levels, lists everywhere, and a size that
    # the strides do not divide.
    "concat": dict(
        config=dict(
            COMMON,
            **TEXT_TIME,
            in_channels=8,
            block_out_channels=[16, 32, 32],
            down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            layers_per_block=[1, 2, 1],
            transformer_layers_per_block=[1, 2, 1],
            attention_head_dim=[1, 2, 4],
            cross_attention_dim=[24, 24, 24],
            use_linear_projection=True,
            upcast_attention=True,
            norm_eps=1e-6,
        ),
        batch=1, size=(13, 10), tokens=9, timestep=249, attention=True,
    ),
    # SD 1.5: 1x1 convolutions around the transformers, one number of heads, no added conditioning.
    "sd15": dict(
        config=dict(
            COMMON,
            block_out_channels=[32, 64],
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            layers_per_block=1,
            attention_head_dim=4,
            cross_attention_dim=20,
        ),
        batch=1, size=(8, 16), tokens=5, timestep=999,
    ),
    # The rarer settings: padding of the far sides, sines first, shifted frequencies, no middle.
    "rare": dict(
        config=dict(
            COMMON,
            block_out_channels=[16, 24],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            mid_block_type=None,
            layers_per_block=1,
            attention_head_dim=[1, 3],
            cross_attention_dim=12,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            time_embedding_dim=40,
            conv_in_kernel=1,
            conv_out_kernel=5,
        ),
        batch=3, size=(8, 10), tokens=4, timestep=1,
    ),
    # Latent consistency models, which are given the strength of guidance: of Stable Diffusion 1.x and of SDXL.
    "guided": dict(
        config=dict(
            COMMON,
            block_out_channels=[16, 24],
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            layers_per_block=1,
            attention_head_dim=4,
            cross_attention_dim=12,
            time_cond_proj_dim=32,
        ),
        batch=2, size=(8, 8), tokens=4, timestep=499, guidance=8.0,
    ),
    "guided_sdxl": dict(
        config=dict(
            COMMON,
            **TEXT_TIME,
            block_out_channels=[16, 24],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            layers_per_block=1,
            attention_head_dim=[2, 3],
            cross_attention_dim=12,
            use_linear_projection=True,
            time_cond_proj_dim=16,
        ),
        batch=1, size=(8, 8), tokens=4, timestep=259, guidance=1.7,
    ),
}


# SDXL's with fewer transformers, unevenly, and with one residual block in the middle.
DISTILLED = dict(
    COMMON,
    **TEXT_TIME,
    norm_num_groups=32,
    block_out_channels=[32, 64, 64],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    mid_block_type="UNetMidBlock2D",
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=2,
    # What the original code has everywhere: heads of 64 numbers.
    attention_head_dim=[1, 1, 1],
    cross_attention_dim=40,
    use_linear_projection=True,
)
CASES |= {
    # segmind/SSD-1B
    "ssd_1b": dict(
        config=dict(
            DISTILLED,
            transformer_layers_per_block=[1, [2, 2], [4, 4]],
            reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1],
        ),
        batch=2, size=(12, 16), tokens=7, timestep=601, original=True,
    ),
    # segmind/Segmind-Vega
    "vega": dict(
        config=dict(DISTILLED, transformer_layers_per_block=[1, 1, 2]),
        batch=1, size=(16, 8), tokens=9, timestep=249, original=True,
    ),
}


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def in_resnet(name):
    """The original name of a tensor within a residual block."""
    module, kind = name.split(".")
    return f"{RESNET[module]}.{kind}"


def original_names(config, names):
    """The name in `sgm` of each tensor, which has the blocks of all levels in a row."""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    places = {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
    }  # fmt: skip
    for level in range(levels):
        for layer in range(layers):
            block = 1 + level * (layers + 1) + layer
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{block}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        for layer in range(layers + 1):
            block = level * (layers + 1) + layer
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{block}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
        attends = config["up_block_types"][level].startswith("CrossAttn")
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block}.{1 + attends}.conv"
    found = {}
    for name in names:
        place = max((ours for ours in places if name.startswith(f"{ours}.")), key=len)
        rest = name[len(place) + 1 :]
        found[name] = f"{places[place]}.{in_resnet(rest) if '.resnets.' in place else rest}"
    return found


def groups(config, shapes):
    """The tensors as modules of few kinds: `kinds`, each with suffixes in diffusers and in `sgm` and shapes, and `modules`,
    each with its names in both and the number of its kind."""
    original, modules = original_names(config, shapes), {}
    for name, shape in shapes.items():
        found = re.match(r".*transformer_blocks\.\d+|.*(resnets|attentions)\.\d+", name)
        ours = found.group() if found else name.rsplit(".", 1)[0]
        suffix = name[len(ours) + 1 :]
        theirs = in_resnet(suffix) if found and found[1] == "resnets" else suffix
        place = original[name].removesuffix(f".{theirs}")
        modules.setdefault((ours, place), []).append([suffix, theirs, shape])
    kinds = []
    for tensors in modules.values():
        if tensors not in kinds:
            kinds.append(tensors)
    return dict(kinds=kinds, modules=[[*names, kinds.index(tensors)] for names, tensors in modules.items()])


def check_original(config, model):
    """diffusers makes the model's tensors of those with the original names."""
    state = model.state_dict()
    original = original_names(config, state)
    checkpoint = {f"model.diffusion_model.{original[name]}": tensor for name, tensor in state.items()}
    back = convert_ldm_unet_checkpoint(checkpoint, {**model.config, "class_embed_type": None})
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for case, spec in CASES.items():
        torch.manual_seed(0)
        model = UNet2DConditionModel(**spec["config"]).eval()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()})

        if spec.get("original"):
            check_original(spec["config"], model)
        batch, (height, width) = spec["batch"], spec["size"]
        inputs = dict(
            sample=[batch, spec["config"]["in_channels"], height, width],
            context=[batch, spec["tokens"], np.max(spec["config"]["cross_attention_dim"]).item()],
        )
        added = None
        if "addition_embed_type" in spec["config"]:
            inputs["pooled"] = [batch, 20]
            time_ids = [[1024.0, 768.0, 0.0, 16.0 * i, 1024.0, 512.0] for i in range(batch)]
            added = dict(text_embeds=field("pooled", inputs["pooled"]),
                         time_ids=torch.tensor(time_ids))
        arguments = dict(
            sample=field("sample", inputs["sample"]),
            timestep=spec["timestep"],
            encoder_hidden_states=field("context", inputs["context"]),
            added_cond_kwargs=added,
            return_dict=False,
        )
        if "guidance" in spec:
            scale = torch.tensor(spec["guidance"] - 1).repeat(batch)
            width = spec["config"]["time_cond_proj_dim"]
            arguments["timestep_cond"] = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale, width)
        tensors, channels_last = {}, (0, 2, 3, 1)
        with torch.no_grad():
            tensors["output"] = model(**arguments)[0].permute(channels_last).contiguous()
            if spec.get("attention"):
                # The outputs of all cross-attention layers in visiting order, and the model's output with
                # each of them averaged with a given tensor.
                recorded, hooks = [], []
                for layer in attention_layers(model):
                    hooks.append(layer.register_forward_hook(
                        lambda _module, _input, output: recorded.append(output.clone())))
                model(**arguments)
                for hook in hooks:
                    hook.remove()
                for index, output in enumerate(recorded):
                    tensors[f"recorded.{index}"] = output
                visited = iter(range(len(recorded)))

                def blend(_module, _input, output):
                    prior = field(f"prior.{next(visited)}", list(output.shape))
                    return 0.7 * output + 0.3 * prior

                for layer in attention_layers(model):
                    layer.register_forward_hook(blend)
                tensors["blended"] = model(**arguments)[0].permute(channels_last).contiguous()

        description = dict(
            config=json.loads(model.to_json_string()),
            **(groups(spec["config"], shapes) if spec.get("original") else dict(shapes=shapes)),
            inputs=inputs,
            timestep=spec["timestep"],
            time_ids=time_ids if added else None,
        )
        if "guidance" in spec:
            description["guidance"] = spec["guidance"]
        (OUT / f"{case}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
        save_file(tensors, OUT / f"{case}.safetensors")
        parameters = sum(np.prod(shape) for shape in shapes.values())
        print(case, int(parameters), "parameters, output std", tensors["output"].std().item())


if __name__ == "__main__":
    main()
