"""Makes tests/fixtures/control: what diffusers' ControlNetModel and ControlNetUnionModel add to a UNet, and what
that UNet predicts with it, for tests/parity/control.rs; and `files.json` and `files.safetensors`, what ControlNets
that come in one file add, for tests/weights/control.rs: their widths are such that a file without a configuration tells
all, and diffusers' own conversion reads the original names of Stable Diffusion 1.5's.

As in make_unet_fixtures.py weights and inputs are drawn from a formula, not stored.

    python tests/make_fixtures/make_control_fixtures.py
"""

import json
import pathlib

import numpy as np
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from safetensors.torch import save_file

from make_unet_fixtures import TEXT_TIME, field, weight

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "control"
BATCH, SIZE, FACTOR, TOKENS = 2, (8, 6), 8, 5
SCALE = 0.7

SDXL = dict(
    TEXT_TIME,
    in_channels=4,
    norm_num_groups=8,
    block_out_channels=[16, 32, 32],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    layers_per_block=1,
    transformer_layers_per_block=[1, 1, 2],
    attention_head_dim=[1, 2, 4],
    cross_attention_dim=24,
    use_linear_projection=True,
)
SDXL_UP = dict(up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"])
CASES = {
    # Stable Diffusion 1.5: attention at the finest level, 1x1 convolutions around the transformers; blue first.
    "sd15": dict(
        config=dict(
            in_channels=4,
            norm_num_groups=8,
            block_out_channels=[16, 32],
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            layers_per_block=2,
            attention_head_dim=4,
            cross_attention_dim=20,
        ),
        up=dict(up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]),
        control=dict(
            conditioning_embedding_out_channels=[4, 6, 8, 10],
            controlnet_conditioning_channel_order="bgr",
        ),
        timestep=749,
    ),
    "sdxl": dict(
        config=SDXL, up=SDXL_UP,
        control=dict(conditioning_embedding_out_channels=[4, 6, 8, 10]),
        timestep=249,
    ),
    # The union as its "promax" version has it: eight kinds, of which tile is the last but one.
    "union": dict(
        config=SDXL, up=SDXL_UP,
        control=dict(
            conditioning_embedding_out_channels=[4, 6, 8, 10],
            num_control_type=8, num_trans_channel=16, num_trans_head=4, num_trans_layer=2, num_proj_channel=16,
        ),
        timestep=499, kinds=dict(tile=6, canny=3),
    ),
}


# As files tell: eight heads in Stable Diffusion 1.5, heads of 64 in SDXL, norms of 32 groups.
FILES = {
    "sd15": dict(
        in_channels=4,
        block_out_channels=[32, 32],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=12,
        conditioning_embedding_out_channels=[4, 6, 8],
    ),
    "sdxl": dict(
        in_channels=4,
        block_out_channels=[32, 64],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        layers_per_block=1,
        transformer_layers_per_block=[1, 2],
        attention_head_dim=[1, 1],
        cross_attention_dim=12,
        use_linear_projection=True,
        conditioning_embedding_out_channels=[4, 6, 8],
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 10,
    ),
}
UNION = dict(num_control_type=8, num_trans_channel=32, num_trans_head=4, num_trans_layer=1, num_proj_channel=32)


def original_name(name):
    """A tensor's name in lllyasviel's code, for one residual block in each of two levels."""
    parts = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": "input_hint_block.{conv_out}",
        "controlnet_mid_block": "middle_block_out.0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    parts |= {f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * (i + 1)}" for i in range(6)}
    parts |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(9)}
    start = max((start for start in parts if name.startswith(start + ".")), key=len)
    rest = name[len(start):]
    for ours, theirs in [
        (".norm1", ".in_layers.0"), (".conv1", ".in_layers.2"), (".time_emb_proj", ".emb_layers.1"),
        (".norm2", ".out_layers.0"), (".conv2", ".out_layers.3"),
    ]:
        if "resnets" in start and rest.startswith(ours + "."):
            rest = theirs + rest[len(ours):]
    return parts[start] + rest


def original_names(network):
    """The original name of each tensor, which diffusers' conversion brings back."""
    last = 2 * (len(network.controlnet_cond_embedding.blocks) + 1)
    names = {name: original_name(name).format(conv_out=last) for name in network.state_dict()}
    assert len(set(names.values())) == len(names)
    # That conversion knows eight convolutions of the picture, where these have fewer.
    stored = {theirs: network.state_dict()[ours] for ours, theirs in names.items()}
    back = convert_controlnet_checkpoint(dict(stored), network.config)
    for ours, tensor in network.state_dict().items():
        if not ours.startswith("controlnet_cond_embedding."):
            assert torch.equal(back[ours], tensor), ours
    return names


def files():
    """What ControlNets of one file add to the middle."""
    height, width = 4, 6
    factor = 4
    description, tensors = {}, {}
    for name, config in dict(FILES, union=dict(FILES["sdxl"], **UNION)).items():
        is_union = "num_control_type" in config
        network, shapes = drawn((ControlNetUnionModel if is_union else ControlNetModel)(**config), f"{name}.")
        inputs = dict(
            sample=[1, 4, height, width], context=[1, TOKENS, 12], picture=[1, 3, factor * height, factor * width])
        arguments = dict(
            sample=field("sample", inputs["sample"]), timestep=249,
            encoder_hidden_states=field("context", inputs["context"]), return_dict=False)
        if "addition_embed_type" in config:
            inputs["pooled"] = [1, 10]
            arguments["added_cond_kwargs"] = dict(
                text_embeds=field("pooled", inputs["pooled"]),
                time_ids=torch.tensor([[16.0, 24.0, 0.0, 0.0, 16.0, 24.0]]))
        picture = (field("picture", inputs["picture"]) + 1) / 2
        if is_union:
            types = torch.zeros(1, 8)
            types[0, 6] = 1.0
            arguments |= dict(controlnet_cond=[picture], control_type=types, control_type_idx=[6])
        else:
            arguments["controlnet_cond"] = picture
        with torch.no_grad():
            _, middle = network(**arguments)
        tensors[name] = middle.permute(0, 2, 3, 1).contiguous()
        description[name] = dict(
            config=json.loads(network.to_json_string()), shapes=shapes, inputs=inputs,
            original=original_names(network) if name == "sd15" else None)
    (OUT / "files.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
    save_file(tensors, OUT / "files.safetensors")


def drawn(model, prefix):
    """The model with drawn weights, whose names have this prefix; and their shapes."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: weight(prefix + name, shape) for name, shape in shapes.items()})
    return model.eval(), shapes


def union_alone(control, kind, arguments):
    """The union on each sample by itself. Its transformer attends over the batch (its MultiheadAttention takes the
    batch second), so that a sample's result would depend on what lies beside it."""
    types = torch.zeros(1, control.config.num_control_type)
    types[0, kind] = 1.0
    parts = []
    for row in range(BATCH):
        own = {name: value[row:row + 1] if torch.is_tensor(value) else value for name, value in arguments.items()}
        added = {name: value[row:row + 1] for name, value in arguments["added_cond_kwargs"].items()}
        picture = own.pop("controlnet_cond")
        own["added_cond_kwargs"] = added
        parts.append(control(**own, controlnet_cond=[picture], control_type=types, control_type_idx=[kind]))
    downs, mids = zip(*parts)
    return [torch.cat(levels) for levels in zip(*downs)], torch.cat(mids)


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    channels_last = (0, 2, 3, 1)
    for case, spec in CASES.items():
        torch.manual_seed(0)
        config = spec["config"]
        unet, unet_shapes = drawn(UNet2DConditionModel(**config, **spec["up"], sample_size=16, out_channels=4), "")
        kinds = spec.get("kinds")
        model = ControlNetUnionModel if kinds else ControlNetModel
        control, control_shapes = drawn(model(**config, **spec["control"]), "control.")

        height, width = SIZE
        inputs = dict(
            sample=[BATCH, 4, height, width],
            context=[BATCH, TOKENS, config["cross_attention_dim"]],
            picture=[BATCH, 3, FACTOR * height, FACTOR * width],
        )
        picture = (field("picture", inputs["picture"]) + 1) / 2
        common = dict(timestep=spec["timestep"], encoder_hidden_states=field("context", inputs["context"]))
        time_ids = None
        if "addition_embed_type" in config:
            inputs["pooled"] = [BATCH, 20]
            time_ids = [[1024.0, 768.0, 0.0, 16.0 * i, 1024.0, 512.0] for i in range(BATCH)]
            common["added_cond_kwargs"] = dict(
                text_embeds=field("pooled", inputs["pooled"]), time_ids=torch.tensor(time_ids))
        sample = field("sample", inputs["sample"])
        tensors = {}
        with torch.no_grad():
            for kind, index in (kinds or {"tile": None}).items():
                arguments = dict(
                    common, sample=sample, controlnet_cond=picture, conditioning_scale=SCALE, return_dict=False)
                if kinds:
                    downs, mid = union_alone(control, index, arguments)
                else:
                    downs, mid = control(**arguments)
                if kind == "tile":
                    for level, down in enumerate(downs):
                        tensors[f"skip.{level}"] = down.permute(channels_last).contiguous()
                    tensors["middle"] = mid.permute(channels_last).contiguous()
                output = unet(
                    sample=sample, **common, return_dict=False,
                    down_block_additional_residuals=downs, mid_block_additional_residual=mid)[0]
                tensors[f"output.{kind}"] = output.permute(channels_last).contiguous()
            if kinds:
                # With guidance both halves have one sample and one picture. There diffusers' attention over the
                # batch gives what each has by itself.
                pair = dict(common, sample=sample[:1].repeat(2, 1, 1, 1), conditioning_scale=SCALE, return_dict=False)
                types = torch.zeros(2, control.config.num_control_type)
                types[:, kinds["tile"]] = 1.0
                downs, mid = control(
                    **pair, controlnet_cond=[picture[:1].repeat(2, 1, 1, 1)], control_type=types,
                    control_type_idx=[kinds["tile"]])
                del pair["conditioning_scale"]
                output = unet(
                    **pair, down_block_additional_residuals=downs, mid_block_additional_residual=mid)[0]
                tensors["output.pair"] = output.permute(channels_last).contiguous()
            plain = unet(sample=sample, **common, return_dict=False)[0]
            tensors["output.without"] = plain.permute(channels_last).contiguous()

        description = dict(
            config=json.loads(unet.to_json_string()), shapes=unet_shapes,
            control_config=json.loads(control.to_json_string()), control_shapes=control_shapes,
            inputs=inputs, timestep=spec["timestep"], time_ids=time_ids, scale=SCALE,
        )
        (OUT / f"{case}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
        save_file(tensors, OUT / f"{case}.safetensors")
        change = (tensors["output.tile"] - tensors["output.without"]).abs().mean() / plain.abs().mean()
        print(case, sum(tensor.nbytes for tensor in tensors.values()), "bytes, relative change", change.item())
        assert 0.05 < change < 2.0
    files()


if __name__ == "__main__":
    main()
