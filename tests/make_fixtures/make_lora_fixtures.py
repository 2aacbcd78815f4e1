"""Makes tests/fixtures/lora: LoRA files in every naming, with random matrices, and what diffusers and
peft make of them.

    python tests/make_fixtures/make_lora_fixtures.py       (needs peft besides models/train/requirements.txt)

The base is tests/fixtures/img2img/model (SDXL-shaped, stored in f16), and `sd15` here, a UNet and a
text encoder in the shape of Stable Diffusion 1.x (convolutions for proj_in and proj_out).

    hyper               kohya, diffusers' names, f32, one alpha for all: the keys, dtypes and metadata
                        of Hyper-SDXL's files (every layer of attentions, resnets and samplers)
    ldm                 kohya, ldm's names, and both text encoders; ranks from 1 to 4, f16
    pipeline            written by diffusers' save_lora_weights, with its metadata
    old                 diffusers before peft: attention processors, lora_linear_layer
    adapter/            written by peft's save_pretrained, with adapter_config.json
    tucker              LyCORIS: a core between two 1x1 convolutions
    sd15                kohya for Stable Diffusion 1.x, proj_in as 4-D, proj_out as 2-D, two alphas

`cases.json` says which files with which scales, over which base. Per case, `expected_CASE`: some fused
weights in f32 as `PART/NAME`, and of the SDXL-shaped base `eps` [1, h, w, C], `context`, `pooled`.
`input.safetensors`: `sample` [1, h, w, C], `time_ids`.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from make_text_fixtures import randomize, write_json

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
AREA = FIXTURES / "lora"
MODEL = FIXTURES / "img2img" / "model"
PROMPT = "a photo of the old harbour at dusk, blue sky!"
TIMESTEP = 499

# The tiny UNet's blocks: diffusers' names and ldm's.
LDM_BLOCKS = {
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
}
LDM_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

# Fused weights that are kept: every kind of layer.
KEPT = {
    "unet": [
        "down_blocks.0.resnets.0.conv1.weight",
        "down_blocks.0.downsamplers.0.conv.weight",
        "down_blocks.1.resnets.0.conv_shortcut.weight",
        "down_blocks.1.resnets.0.time_emb_proj.weight",
        "down_blocks.1.attentions.0.proj_in.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.weight",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        "up_blocks.0.attentions.1.transformer_blocks.1.ff.net.2.weight",
        "up_blocks.0.upsamplers.0.conv.weight",
    ],
    "text_encoder": ["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1"],
    "text_encoder_2": ["self_attn.v_proj", "mlp.fc2"],
}

generator = torch.Generator().manual_seed(5)


def pair(weight, rank):
    """Random `down` and `up` whose product is about as large as a third of the weight."""
    fan_in = weight[0].numel()
    down = torch.randn((rank, *weight.shape[1:]), generator=generator) / fan_in**0.5
    up_shape = (weight.shape[0], rank, *[1] * (weight.dim() - 2))
    up = torch.randn(up_shape, generator=generator) * (0.3 * weight.std() * (fan_in / rank) ** 0.5)
    return down, up


def layers(model, wanted):
    """Names and weights of the linear layers and convolutions that `wanted` says."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, kinds) and wanted(name)
    }


def text_name(name):
    """transformers 5 leaves `text_model` out of CLIPTextModel; the files in the world have it."""
    return name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


def ldm_name(name):
    for ours, theirs in LDM_BLOCKS.items():
        if name == ours:
            return theirs
        if name.startswith(f"{ours}."):
            rest = name[len(ours) + 1 :]
            return f"{theirs}.{LDM_RESNET.get(rest, rest)}"
    raise KeyError(name)


def kohya(prefix, name, down, up, alpha):
    key = f"{prefix}_{name.replace('.', '_')}"
    return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}


def hyper(pipeline):
    def wanted(name):
        return any(kind in name for kind in ("attentions", "resnets", "samplers"))

    tensors = {}
    for name, weight in layers(pipeline.unet, wanted).items():
        tensors |= kohya("lora_unet", name, *pair(weight, 2), torch.tensor(1.0))
    save_file(tensors, AREA / "hyper.safetensors", metadata={"format": "pt"})


def ldm(pipeline):
    """Also returns the same matrices under diffusers' names, to compare. One alpha for all: diffusers
    0.42 drops the alphas of attention layers where they differ (its alpha_pattern keeps the names of
    attention processors, which match no module); `sd15` has two, by the definition."""

    def wanted(name):
        return any(kind in name for kind in ("attn", "proj_", "ff.", "conv1", "emb_proj", "shortcut", "sampl"))

    tensors, same = {}, {}
    for index, (name, weight) in enumerate(layers(pipeline.unet, wanted).items()):
        if index % 2 and "transformer_blocks" in name:
            continue
        down, up = (x.half() for x in pair(weight, 1 + index % 4))
        alpha = torch.tensor(3.0, dtype=torch.float16)
        tensors |= kohya("lora_unet", ldm_name(name), down, up, alpha)
        same |= kohya("lora_unet", name, down, up, alpha)
    for part, prefix in (("text_encoder", "lora_te1"), ("text_encoder_2", "lora_te2")):
        for name, weight in layers(getattr(pipeline, part), lambda name: "encoder.layers" in name).items():
            down, up = (x.half() for x in pair(weight, 2))
            alpha = torch.tensor(3.0, dtype=torch.float16)
            both = kohya(prefix, text_name(name), down, up, alpha)
            tensors |= both
            same |= both
    save_file(tensors, AREA / "ldm.safetensors", metadata={"ss_network_module": "networks.lora"})
    return same


def adapters(pipeline):
    """Adapters that peft made, with random matrices."""
    unet = LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1"],
        rank_pattern={"attn2.to_k": 1},
        alpha_pattern={"attn1.to_q": 5},
        init_lora_weights=False,
    )
    text = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["q_proj", "k_proj", "v_proj", "out_proj"],
        use_rslora=True,
        init_lora_weights=False,
    )
    return {"unet": unet, "text_encoder": text, "text_encoder_2": text}


def written_by_diffusers():
    pipeline = load()
    states, metadata = {}, {}
    torch.manual_seed(6)
    for part, config in adapters(pipeline).items():
        model = getattr(pipeline, part)
        model.add_adapter(config)
        states[part] = get_peft_model_state_dict(model)
        metadata[part] = model.peft_config["default"].to_dict() | {"base_model_name_or_path": None}
    folder = AREA / "pipeline"
    StableDiffusionXLPipeline.save_lora_weights(
        folder,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=convert_state_dict_to_diffusers(states["text_encoder"]),
        text_encoder_2_lora_layers=convert_state_dict_to_diffusers(states["text_encoder_2"]),
        unet_lora_adapter_metadata=metadata["unet"],
        text_encoder_lora_adapter_metadata=metadata["text_encoder"],
        text_encoder_2_lora_adapter_metadata=metadata["text_encoder_2"],
    )
    (folder / "pytorch_lora_weights.safetensors").rename(AREA / "pipeline.safetensors")
    folder.rmdir()


def old(pipeline):
    """The format of train_text_to_image_lora.py in 2023, without alphas."""
    tensors = {}
    names = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
    for name, weight in layers(pipeline.unet, lambda name: "mid_block" in name).items():
        for new, before in names.items():
            if name.endswith(f".{new}"):
                key = f"unet.{name.removesuffix(new)}processor.{before}_lora"
                tensors[f"{key}.down.weight"], tensors[f"{key}.up.weight"] = pair(weight, 2)
        if ".ff." in name:
            key = f"unet.{name}.lora"
            tensors[f"{key}.down.weight"], tensors[f"{key}.up.weight"] = pair(weight, 1)
    for part in ("text_encoder", "text_encoder_2"):
        for name, weight in layers(getattr(pipeline, part), lambda name: "_attn" in name).items():
            key = f"{part}.{text_name(name)}.lora_linear_layer"
            tensors[f"{key}.down.weight"], tensors[f"{key}.up.weight"] = pair(weight, 1)
    save_file(tensors, AREA / "old.safetensors")


def written_by_peft(pipeline):
    torch.manual_seed(7)
    model = get_peft_model(pipeline.unet, adapters(pipeline)["unet"])
    model.save_pretrained(AREA / "adapter")
    (AREA / "adapter" / "README.md").unlink(missing_ok=True)
    merged = model.merge_and_unload()
    return {name: parameter.detach() for name, parameter in merged.named_parameters()}


def tucker(pipeline):
    """The reference is the three convolutions in a row, on every unit impulse."""
    name = "mid_block.resnets.0.conv1"
    weight = layers(pipeline.unet, lambda layer: layer == name)[name]
    out, channels, kernel, _ = weight.shape
    down = torch.randn((3, channels, 1, 1), generator=generator) / channels**0.5
    mid = torch.randn((2, 3, kernel, kernel), generator=generator) / 3
    up = torch.randn((out, 2, 1, 1), generator=generator) * 0.1
    key = f"lora_unet_{name.replace('.', '_')}"
    tensors = {f"{key}.lora_down.weight": down, f"{key}.lora_mid.weight": mid, f"{key}.lora_up.weight": up}
    save_file(tensors | {f"{key}.alpha": torch.tensor(6.0)}, AREA / "tucker.safetensors")
    impulses = torch.zeros((channels, channels, kernel, kernel))
    for channel in range(channels):
        impulses[channel, channel, kernel // 2, kernel // 2] = 1
    conv = torch.nn.functional.conv2d
    response = conv(conv(conv(impulses, down), mid, padding=kernel // 2), up)
    # A convolution's response to an impulse is its kernel, turned round.
    change = response.permute(1, 0, 2, 3).flip(2, 3)
    return {f"unet/{name}.weight": (weight + 6.0 / 3 * change).contiguous()}


def sd15():
    """A model folder of two parts, its LoRA, and the fused weights as Hu et al. define them."""
    torch.manual_seed(8)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=12,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=62,
            eos_token_id=63,
        )
    )
    randomize(text, generator)
    folder = AREA / "sd15"
    unet.half().save_pretrained(folder / "unet")
    text.half().save_pretrained(folder / "text_encoder")
    for config in folder.glob("*/*.json"):
        if config.name != "config.json":
            config.unlink()
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "text_encoder": ["transformers", "CLIPTextModel"],
            "unet": ["diffusers", "UNet2DConditionModel"],
        },
    )
    unet, text = unet.float(), text.float()
    tensors, expected = {}, {}
    chosen = ("proj_in", "proj_out", "attn2.to_v", "ff.net.0.proj", "q_proj", "fc2")
    for part, prefix, model in (("unet", "lora_unet", unet), ("text_encoder", "lora_te", text)):
        for name, weight in layers(model, lambda name: name.endswith(chosen)).items():
            down, up = pair(weight, 2)
            change = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).view_as(weight)
            alpha = 3.0 if name.endswith("to_v") else 5.0
            expected[f"{part}/{name}.weight"] = (weight + 0.7 * alpha / 2 * change).detach()
            if name.endswith("proj_out"):
                down, up = down.flatten(1), up.flatten(1)
            spelled = name if part == "unet" else text_name(name)
            tensors |= kohya(prefix, spelled, down.contiguous(), up.contiguous(), torch.tensor(alpha))
    save_file(tensors, AREA / "sd15.safetensors")
    kept = {name: x for name, x in expected.items() if name.startswith("text_encoder/") or "mid_block" in name}
    save_file(kept, AREA / "expected_sd15.safetensors")


def load():
    return StableDiffusionXLPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)


def fused(files):
    """A pipeline with these files (or dictionaries) fused at these scales."""
    pipeline = load()
    names = [f"adapter_{index}" for index in range(len(files))]
    for name, (file, _) in zip(names, files, strict=True):
        if isinstance(file, dict):
            pipeline.load_lora_weights(dict(file), adapter_name=name)
        else:
            pipeline.load_lora_weights(AREA, weight_name=f"{file}.safetensors", adapter_name=name)
    parts = [part for part in KEPT if getattr(getattr(pipeline, part), "peft_config", None)]
    pipeline.set_adapters(names, [scale for _, scale in files])
    pipeline.fuse_lora(components=parts, adapter_names=names)
    pipeline.unload_lora_weights()
    return pipeline


def kept(pipeline):
    tensors = {}
    for part, names in KEPT.items():
        for name, parameter in getattr(pipeline, part).named_parameters():
            wanted = name in names if part == "unet" else any(f"{end}.weight" in name for end in names)
            if wanted:
                tensors[f"{part}/{name}"] = parameter.detach().contiguous()
    return tensors


def results(pipeline, sample, time_ids):
    context, _, pooled, _ = pipeline.encode_prompt(PROMPT, device="cpu", do_classifier_free_guidance=False)
    eps = pipeline.unet(
        sample.permute(0, 3, 1, 2),
        TIMESTEP,
        encoder_hidden_states=context,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
    ).sample
    eps = eps.permute(0, 2, 3, 1).contiguous()
    return {"eps": eps, "context": context.contiguous(), "pooled": pooled.contiguous()}


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    shutil.rmtree(AREA, ignore_errors=True)
    AREA.mkdir(parents=True)
    base = load()
    hyper(base)
    same = ldm(base)
    written_by_diffusers()
    old(base)
    sample = torch.randn((1, 12, 12, 8), generator=generator)
    time_ids = torch.tensor([[48.0, 48, 0, 0, 48, 48]])
    save_file({"sample": sample, "time_ids": time_ids}, AREA / "input.safetensors")
    cases = {
        "hyper": [("hyper", 1.0)],
        "ldm": [("ldm", 0.7)],
        "pipeline": [("pipeline", -0.5)],
        "old": [("old", 1.0)],
        "two": [("hyper", 0.8), ("ldm", -0.4)],
    }
    plain = kept(base)
    for case, files in cases.items():
        pipeline = fused(files)
        tensors = kept(pipeline)
        changed = sum(not torch.equal(tensors[name], plain[name]) for name in tensors)
        print(f"{case}: {changed} of {len(tensors)} kept weights change")
        save_file(tensors | results(pipeline, sample, time_ids), AREA / f"expected_{case}.safetensors")
    # diffusers gives the same result for ldm's names as for its own.
    renamed = kept(fused([(same, 0.7)]))
    for name, tensor in load_file(AREA / "expected_ldm.safetensors").items():
        assert name not in renamed or torch.allclose(tensor, renamed[name], atol=1e-7), name
    merged = written_by_peft(load())
    save_file(
        {f"unet/{name}": merged[name].contiguous() for name in KEPT["unet"]},
        AREA / "expected_adapter.safetensors",
    )
    cases["adapter"] = [("adapter/adapter_model", 1.0)]
    save_file(tucker(base), AREA / "expected_tucker.safetensors")
    cases["tucker"] = [("tucker", 1.0)]
    sd15()
    cases["sd15"] = [("sd15", 0.7)]
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
