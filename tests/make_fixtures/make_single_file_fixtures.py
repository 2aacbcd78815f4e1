"""Makes tests/fixtures/single_file: tiny random models of the SDXL, SD 1.5 and SD 2 families as single
files with ldm's names, and what diffusers and transformers compute with their parts.

    python tests/make_fixtures/make_single_file_fixtures.py

Each model is built with diffusers' classes, renamed to ldm by the rules below, and read back by
diffusers' own single-file conversion, which must give the same tensors: so the layout is that of real
checkpoints. The vocabulary is CLIP's whole one (`make_clip_vocabulary.py`); only the rows of tokens
that the prompts use are not zero. Matrices are sparse, of few values that are powers of two, so that
the files are small when compressed and exact in f16, bf16 and f32.

Per model: `NAME.safetensors.gz`, `NAME_expected.safetensors` (channels-last pictures and latents:
`sample`, `timestep`, `context`, `pooled`, `time_ids`, `eps`; `image`, `latent`, `decoded`; `tokens`,
`text`, `text_pooled`), and `names.json` (diffusers' name of every tensor of SD 1.5's UNet and VAE with
ldm's).
`tokens.json` holds ids of odd texts by transformers' CLIPTokenizer for both kinds of padding.
"""

import gzip
import re
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import save, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from make_text_fixtures import TEXTS, ids, tokenizer_configs, write_json

ROOT = Path(__file__).resolve().parents[2]
AREA = ROOT / "tests" / "fixtures" / "single_file"
PROMPTS = ["a photo of the old harbour at dusk, blue sky!", "", "Zw\u00f6lf gro\u00dfe Katzen \U0001f408 12"]
START, END = 49406, 49407
LEVELS = torch.tensor([-2.0, -1.0, 1.0, 2.0])
# The share of a matrix that is not zero.
DENSITY = 1 / 8

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 32),
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "latent_channels": 4,
}
TEXT = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "bos_token_id": START,
    "eos_token_id": END,
}


# --- Vocabulary -----------------------------------------------------------------------------------


def clip_tokenizer(kind, folder):
    """transformers' tokenizer over the whole vocabulary, configured as diffusers' folders do."""
    merges = gzip.decompress((ROOT / "models/clip/merges.txt.gz").read_bytes()).decode("utf-8")
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(byte) for byte in visible] + [chr(256 + index) for index in range(256 - len(visible))]
    tokens = alphabet + [symbol + "</w>" for symbol in alphabet]
    tokens += [line.replace(" ", "") for line in merges.splitlines()[1:]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    assert len(vocab) == 49408 and vocab["<|endoftext|>"] == END
    config, special_map = tokenizer_configs(vocab)[kind]
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special_map)
    return CLIPTokenizer.from_pretrained(folder)


# --- Models ---------------------------------------------------------------------------------------


@torch.no_grad()
def fill(model, seed, used_tokens=()):
    """Weights of about 1/sqrt(fan in), norms around 1, small biases; all of few values."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        level = LEVELS[torch.randint(0, 4, parameter.shape, generator=generator)]
        if name.endswith("token_embedding.weight"):
            rows = torch.zeros(parameter.shape[0], 1)
            rows[sorted(used_tokens)] = 1.0
            parameter.copy_(torch.where(rows > 0, level / 4, 0.0))
        elif name.endswith("position_embedding.weight"):
            parameter.copy_(level / 16)
        elif parameter.dim() == 1:
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + level / 16 if norm else level / 32)
        else:
            fan_in = DENSITY * parameter[0].numel()
            kept = torch.rand(parameter.shape, generator=generator) < DENSITY
            # The levels' standard deviation is 1.58.
            power = torch.log2(torch.tensor(1 / (1.58 * fan_in**0.5))).round()
            parameter.copy_(torch.where(kept, level * 2.0**power, 0.0))
    model.eval()
    return model


def build(name, used_tokens):
    """The parts of a model, as diffusers would configure its family."""
    text = lambda cls, seed, **sizes: fill(cls(CLIPTextConfig(**{**TEXT, **sizes})), seed, used_tokens)
    first = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "hidden_act": "quick_gelu"}
    second = {"hidden_size": 24, "intermediate_size": 48, "projection_dim": 20, "hidden_act": "gelu"}
    if name == "sdxl":
        unet = {
            **UNET,
            "sample_size": 128,
            "block_out_channels": (32, 64),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2],
            "attention_head_dim": [1, 1],
            "cross_attention_dim": 40,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 20 + 6 * 8,
        }
        vae = {**VAE, "block_out_channels": (32, 64), "scaling_factor": 0.13025}
        encoders = [text(CLIPTextModel, 3, **first), text(CLIPTextModelWithProjection, 4, **second)]
    elif name == "sd15":
        unet = {**UNET, "sample_size": 64, "cross_attention_dim": 16, "attention_head_dim": 8}
        vae = VAE
        encoders = [text(CLIPTextModel, 5, **first)]
    else:
        unet = {
            **UNET,
            "sample_size": 64,
            "cross_attention_dim": 24,
            "attention_head_dim": [1, 1],
            "use_linear_projection": True,
            "upcast_attention": True,
        }
        vae = VAE
        encoders = [text(CLIPTextModel, 6, **{**second, "num_hidden_layers": 3})]
    return {
        "unet": fill(UNet2DConditionModel(**unet), 1),
        "vae": fill(AutoencoderKL(**vae), 2),
        "encoders": encoders,
    }


# --- Renaming to ldm ------------------------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name, layers, names):
    """ldm's name of one UNet tensor; `names` are all of diffusers'."""
    module, kind = name.rsplit(".", 1)
    if module in UNET_ENDS:
        return f"{UNET_ENDS[module]}.{kind}"
    side, *rest = name.split(".")
    if side == "mid_block":
        kind, index, *rest = rest
        place = "middle_block." + ("1" if kind == "attentions" else str(2 * int(index)))
    else:
        level, kind, index, *rest = rest
        level, index = int(level), int(index)
        down = side == "down_blocks"
        blocks = "input_blocks" if down else "output_blocks"
        number = level * (layers + 1) + index + (1 if down else 0)
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest[-1]}"
        if kind == "upsamplers":
            attends = any(other.startswith(f"up_blocks.{level}.attentions") for other in names)
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends else 1}.conv.{rest[-1]}"
        place = f"{blocks}.{number}." + ("1" if kind == "attentions" else "0")
    if kind == "attentions":
        return ".".join([place, *rest])
    return ".".join([place, RESNET[rest[0]], *rest[1:]])


def vae_name(name, levels):
    """ldm's name of one VAE tensor."""
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for ours, theirs in VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    up = lambda rest: lambda match: f"up.{levels - 1 - int(match[1])}.{rest}"
    name = re.sub(r"up_blocks\.(\d)\.resnets", up("block"), name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", up("upsample"), name)


def open_clip(model):
    """A text encoder of transformers' as OpenCLIP keeps it."""
    state = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    result = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    width = model.config.hidden_size
    projection = state.get("text_projection.weight", torch.eye(width))
    result["text_projection"] = projection.T.contiguous()
    for layer in range(model.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ["weight", "bias"]:
            for our, their in [("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                               ("mlp.fc2", "mlp.c_proj"), ("self_attn.out_proj", "attn.out_proj")]:
                result[f"{theirs}.{their}.{kind}"] = state[f"{ours}.{our}.{kind}"]
            parts = [state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            result[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
    return result


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def to_single_file(name, parts):
    """All tensors by ldm's names, and the UNet's and VAE's pairs of names."""
    unet, vae = parts["unet"].state_dict(), parts["vae"].state_dict()
    layers = parts["unet"].config.layers_per_block
    levels = len(parts["vae"].config.block_out_channels)
    names = {
        "unet": {key: unet_name(key, layers, unet) for key in unet},
        "vae": {key: vae_name(key, levels) for key in vae},
    }
    tensors = prefixed("model.diffusion_model.", {names["unet"][key]: value for key, value in unet.items()})
    for key, value in vae.items():
        ldm = names["vae"][key]
        # ldm's attention projections are 1x1 convolutions.
        convolution = ".attn_1." in ldm and value.dim() == 2
        tensors[f"first_stage_model.{ldm}"] = value[:, :, None, None] if convolution else value
    first = parts["encoders"][0]
    if name == "sd2":
        tensors |= prefixed("cond_stage_model.model.", open_clip(first))
    else:
        place = "conditioner.embedders.0" if name == "sdxl" else "cond_stage_model"
        state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in first.state_dict().items()}
        tensors |= prefixed(f"{place}.transformer.", state)
        # A buffer that old files have and no weight is.
        tensors[f"{place}.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if name == "sdxl":
        tensors |= prefixed("conditioner.embedders.1.model.", open_clip(parts["encoders"][1]))
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return tensors, names


def half(tensors):
    return {
        name: (value.half() if value.dtype == torch.float32 else value).contiguous()
        for name, value in tensors.items()
    }


def check(name, parts, tensors):
    """Reads the tensors back with diffusers' own conversion."""
    assert_same(convert_ldm_unet_checkpoint(dict(tensors), dict(parts["unet"].config)), parts["unet"])
    assert_same(convert_ldm_vae_checkpoint(dict(tensors), dict(parts["vae"].config)), parts["vae"])
    first = parts["encoders"][0]
    if name == "sd2":
        back = convert_open_clip_checkpoint(first, dict(tensors), prefix="cond_stage_model.model.")
        back.pop("text_projection.weight", None)
    else:
        back = convert_ldm_clip_checkpoint(dict(tensors))
        back = {key: value for key, value in back.items() if not key.endswith("position_ids")}
    assert_same(back, first)
    if name == "sdxl":
        second = parts["encoders"][1]
        prefix = "conditioner.embedders.1.model."
        assert_same(convert_open_clip_checkpoint(second, dict(tensors), prefix=prefix), second)


def assert_same(converted, model):
    strip = lambda state: {key.removeprefix("text_model."): value for key, value in state.items()}
    converted, state = strip(converted), strip(model.state_dict())
    assert converted.keys() == state.keys(), converted.keys() ^ state.keys()
    for key, value in state.items():
        assert torch.equal(converted[key], value), key


# --- Expectations ---------------------------------------------------------------------------------


def channels_last(tensor):
    return tensor.movedim(1, -1).contiguous()


@torch.no_grad()
def expectations(name, parts, tokenizers):
    generator = torch.Generator().manual_seed(7)
    noise = lambda *shape: torch.randn(*shape, generator=generator)
    unet, vae, encoders = parts["unet"], parts["vae"], parts["encoders"]
    sample, context = noise(2, 4, 12, 8), noise(2, 77, unet.config.cross_attention_dim)
    image = noise(1, 3, 24, 16).clamp(-2, 2) / 2
    expected = {"sample": channels_last(sample), "context": context, "timestep": torch.tensor([401.0])}
    added = None
    if name == "sdxl":
        added = {"text_embeds": noise(2, 20), "time_ids": torch.tensor([[96.0, 64, 0, 8, 96, 64]] * 2)}
        expected |= {"pooled": added["text_embeds"], "time_ids": added["time_ids"]}
    eps = unet(sample, 401, context, added_cond_kwargs=added).sample
    expected["eps"] = channels_last(eps)
    latent = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    expected |= {"image": channels_last(image), "latent": channels_last(latent)}
    expected["decoded"] = channels_last(vae.decode(latent / vae.config.scaling_factor).sample)
    if name == "sdxl":
        pipeline = StableDiffusionXLPipeline(
            vae=None,
            unet=None,
            scheduler=None,
            text_encoder=encoders[0],
            text_encoder_2=encoders[1],
            tokenizer=tokenizers["first"],
            tokenizer_2=tokenizers["second"],
        )
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
        expected |= {"text": text, "text_pooled": pooled}
    else:
        padding = "second" if name == "sd2" else "first"
        tokens = torch.tensor(ids(tokenizers[padding], PROMPTS))
        # diffusers gives SD 2 an encoder without its last layer; the file has that layer.
        model = encoders[0]
        if name == "sd2":
            model = CLIPTextModel(CLIPTextConfig(**{**model.config.to_dict(), "num_hidden_layers": 2}))
            model.load_state_dict(
                {key: value for key, value in encoders[0].state_dict().items() if ".layers.2." not in key}
            )
            model.eval()
        expected["text"] = model(tokens).last_hidden_state
    return {key: value.contiguous() for key, value in expected.items()}


def main():
    shutil.rmtree(AREA, ignore_errors=True)
    AREA.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        tokenizers = {kind: clip_tokenizer(kind, Path(temporary) / kind) for kind in ["first", "second"]}
    cases = {kind: ids(tokenizer, TEXTS + PROMPTS) for kind, tokenizer in tokenizers.items()}
    write_json(AREA / "tokens.json", {"texts": TEXTS + PROMPTS, "prompts": PROMPTS, "ids": cases})
    used = {token for kind in cases.values() for row in kind[-len(PROMPTS) :] for token in row}
    for name in ["sdxl", "sd15", "sd2"]:
        parts = build(name, used)
        tensors, names = to_single_file(name, parts)
        check(name, parts, tensors)
        expected = expectations(name, parts, tokenizers)
        assert all(value.isfinite().all() for value in expected.values())
        save_file(expected, AREA / f"{name}_expected.safetensors")
        data = save(half(tensors), {"format": "pt"})
        (AREA / f"{name}.safetensors.gz").write_bytes(gzip.compress(data, 9, mtime=0))
        scales = {key: f"{value.abs().max():.2f}" for key, value in expected.items()}
        print(name, len(tensors), "tensors", scales)
        if name == "sd15":
            write_json(AREA / "names.json", names)
    for path in sorted(AREA.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
