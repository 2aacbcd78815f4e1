"""Makes tests/fixtures/text: a small CLIP vocabulary, the ids that transformers' tokenizer gives odd
texts, small random text encoders, and what transformers and diffusers compute with them.

    python tests/make_fixtures/make_text_fixtures.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
START, END = "<|startoftext|>", "<|endoftext|>"

# Merges in rank order, as `left right`; enough that common words become one token and others
# several.
MERGES = """
t h|th e</w>|i n|in g</w>|a n|an d</w>|e r</w>|o f</w>|c a|ca t</w>|p h|ph o|pho t|phot o</w>|a t</w>
r e|re d</w>|b l|u e</w>|bl ue</w>|s k|sk y</w>|o l|ol d</w>|h a|ha r|b o|bo u|har bou|harbou r</w>
d u|s k</w>|du sk</w>|' s</w>|! !|!! !</w>|1 2|Ã ©</w>|f Ã|ca f|caf Ã©</w>|ð Ł|ðŁ ĺ|o n|on e</w>
""".replace("\n", "|").split("|")

TEXTS = [
    "",
    " ",
    "a photo of the cat",
    "A PHOTO of The CAT and the RED sky",
    "an old harbour at dusk, blue sky!!!",
    "wow! and wow!! and !!!!",
    "it's the cat's, they're old, I'd we'll don't you've i'm",
    "'s 't 're'll d'd ''",
    "12 cats, 1234 and 3.14 in 2026",
    "tabs\tand\nnewlines\r\n  and   many    spaces\u00a0and\u3000wide ones",
    "caf\u00e9 CAF\u00c9 cafe\u0301 na\u00efve \u00dcber stra\u00dfe \u0130stanbul",
    "\u65e5\u672c\u8a9e\u306e\u5199\u771f, \u0420\u0443\u0441\u0441\u043a\u0438\u0439, \u0627\u0644\u0639\u0631\u0628\u064a\u0629, \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600 an emoji \U0001f468\u200d\U0001f469\u200d\U0001f467 and flags \U0001f1e9\U0001f1ea",
    "\u00bd \u00b2 \u2163 \u0663 numbers of other kinds",
    "zero\u200bwidth, soft\u00adhyphen, \ufeffmark, \u0000 nul, \u001b escape",
    "one <|endoftext|> inside, <|startoftext|> and <|EndOfText|>, <|nothing|>",
    "hyphen-ated under_scored path/to/file.png http://a.b/?c=d&e#f (((weights:1.2)))",
    "supercalifragilistic" * 12,
    "the cat and " * 40,
    "!" * 90,
    "the " * 74 + "cat",
    "the " * 75 + "cat",
]

PROMPTS = ["a photo of the cat!", "", "an old harbour at dusk", "a photo of the cat!"]


def clip_vocabulary():
    """Ids by token, laid out as CLIP's: bytes, bytes at a word's end, merges, the two specials."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = [tuple(merge.split(" ")) for merge in MERGES if merge]
    tokens = alphabet + [byte + "</w>" for byte in alphabet]
    tokens += ["".join(merge) for merge in merges] + [START, END]
    assert len(set(tokens)) == len(tokens)
    known = set(alphabet) | {byte + "</w>" for byte in alphabet}
    for left, right in merges:
        assert left in known and right in known, (left, right)
        known.add(left + right)
    return {token: index for index, token in enumerate(tokens)}, merges


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def flagged(token, **flags):
    base = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": token, **base, **flags}


def tokenizer_configs(vocab):
    """The forms in which tokenizers of known models are configured, and a special map each."""
    names = {"bos_token": START, "eos_token": END, "unk_token": END}
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    first = {key: flagged(token) for key, token in names.items()}
    decoder = {
        "0": flagged("!", normalized=False, special=True),
        str(vocab[START]): flagged(START, special=True),
        str(vocab[END]): flagged(END, normalized=False, special=True),
    }
    return {
        # Stable Diffusion 1.5, SDXL's first
        "first": ({**config, **first, "pad_token": END}, {**first, "pad_token": END}),
        # SDXL's second
        "second": ({**config, **first, "pad_token": "!"}, {**first, "pad_token": "!"}),
        # files written by transformers 4.34 to 4.57
        "decoder": ({**config, **names, "pad_token": "!", "added_tokens_decoder": decoder}, None),
        # plain strings
        "plain": ({**config, **names, "pad_token": "!"}, None),
        # no configuration at all
        "bare": (None, None),
    }


def write_tokenizer(folder, config, special_map):
    vocab, merges = clip_vocabulary()
    write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2"] + [" ".join(merge) for merge in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if config is not None:
        write_json(folder / "tokenizer_config.json", config)
    if special_map is not None:
        write_json(folder / "special_tokens_map.json", special_map)


def ids(tokenizer, texts):
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True).input_ids


def write_tokenizers(area):
    """Each configuration's ids; only the first folder keeps vocab.json and merges.txt."""
    tokenizers = {}
    cases = {}
    for name, (config, special_map) in tokenizer_configs(clip_vocabulary()[0]).items():
        folder = area / f"tokenizer_{name}"
        write_tokenizer(folder, config, special_map)
        tokenizers[name] = CLIPTokenizer.from_pretrained(folder)
        cases[name] = ids(tokenizers[name], TEXTS)
        if name != "first":
            (folder / "vocab.json").unlink()
            (folder / "merges.txt").unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    # The same vocabulary as one file, as transformers 5 saves it.
    folder = area / "tokenizer_json"
    tokenizers["second"].save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in ("tokenizer.json", "tokenizer_config.json"):
            path.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    kept = ("model_max_length", "bos_token", "eos_token", "unk_token", "pad_token", "tokenizer_class")
    write_json(folder / "tokenizer_config.json", {key: config[key] for key in kept})
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer.json", whole)
    cases["json"] = ids(CLIPTokenizer.from_pretrained(folder), TEXTS)
    write_json(area / "cases.json", {"texts": TEXTS, "ids": cases})
    return tokenizers


def randomize(model, generator):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embedding" in name:
                parameter.copy_(0.5 * noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise * (1.5 / parameter.shape[1]) ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.1 * noise)


@torch.no_grad()
def write_encoder(area, name, cls, config, seed, tokenizer, half=False, prefix=False):
    """Weights and configuration, and the encoder's states for a batch of prompts."""
    generator = torch.Generator().manual_seed(seed)
    model = cls(CLIPTextConfig(**config)).eval()
    randomize(model, generator)
    if half:
        model.half().float()
    folder = area / name
    write_json(folder / "config.json", {"architectures": [cls.__name__], **config})
    # `prefix` is how every version of transformers before 5 named a CLIPTextModel's tensors.
    weights = {
        ("text_model." if prefix else "") + key: tensor.half() if half else tensor.clone()
        for key, tensor in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    batch = torch.tensor(ids(tokenizer, PROMPTS[:3]))
    output = model(batch, output_hidden_states=True)
    pooled = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
    expected = {
        "ids": batch.to(torch.int64),
        "penultimate": output.hidden_states[-2],
        "last": output.last_hidden_state,
        "pooled": pooled,
    }
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    return model


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    area = FIXTURES / "text"
    shutil.rmtree(area, ignore_errors=True)
    tokenizers = write_tokenizers(area)
    size = len(clip_vocabulary()[0])
    common = {"vocab_size": size, "max_position_embeddings": 77, "bos_token_id": size - 2}
    first = write_encoder(
        area,
        "clip",
        CLIPTextModel,
        {
            **common,
            "hidden_size": 16,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "projection_dim": 16,
            "hidden_act": "quick_gelu",
            # as the configurations of SD 1.5 and SDXL say
            "eos_token_id": 2,
        },
        11,
        tokenizers["first"],
    )
    second = write_encoder(
        area,
        "clip_with_projection_f16",
        CLIPTextModelWithProjection,
        {
            **common,
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "projection_dim": 20,
            "hidden_act": "gelu",
            "eos_token_id": size - 1,
        },
        12,
        tokenizers["second"],
        half=True,
    )
    write_encoder(
        area,
        "clip_prefixed_f16",
        CLIPTextModel,
        {
            **common,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "projection_dim": 8,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-4,
            "eos_token_id": size - 1,
        },
        13,
        tokenizers["first"],
        half=True,
        prefix=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=None,
        unet=None,
        scheduler=None,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizers["first"],
        tokenizer_2=tokenizers["second"],
    )
    context, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS, device="cpu", do_classifier_free_guidance=False
    )
    save_file(
        {"context": context.contiguous(), "pooled": pooled.contiguous()},
        area / "conditioning.safetensors",
    )
    write_json(area / "prompts.json", PROMPTS)


if __name__ == "__main__":
    main()
