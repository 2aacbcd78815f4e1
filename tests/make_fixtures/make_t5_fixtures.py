"""Makes tests/fixtures/t5: small SentencePiece vocabularies in both forms, the ids that transformers' tokenizer gives
some hundred texts, small random T5 encoders with what transformers computes with them, and the text conditions that
diffusers' pipelines of PixArt and Stable Diffusion 3 make.

    pip install sentencepiece protobuf gguf
    python tests/make_fixtures/make_t5_fixtures.py
"""

import base64
import json
import random
import shutil
from pathlib import Path

import gguf
import sentencepiece
import torch
import torch.nn.functional as F
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, StableDiffusion3Pipeline
from make_text_fixtures import TEXTS, randomize, write_json
from make_text_fixtures import write_tokenizer as write_clip_tokenizer
from make_text_fixtures import clip_vocabulary, tokenizer_configs
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

ROOT = Path(__file__).resolve().parent.parent.parent
AREA = ROOT / "tests" / "fixtures" / "t5"
EXTRA_IDS = 100

# Signs that SentencePiece's own table does not change, for a table that is small enough for a tokenizer.json here:
# a ligature, full-width signs, a letter with a combining accent, a word.
RULES = [("\ufb01", "fi"), ("\uff21", "A"), ("\uff01", "!"), ("e\u0301", "\u00e9"), ("\u3000", " "), ("\u00ad", "")]

SUBJECTS = ["an old harbour", "a fox", "two cats", "a cathedral", "wet cobblestones", "a café at night", "snow on a roof"]
PLACES = ["at dusk", "in the fog", "under a red sky", "by the sea", "in 1920", "seen from above", "behind glass"]
STYLES = [
    "photo, 35mm",
    "oil on canvas",
    "highly detailed, sharp focus",
    "watercolour; pale colours",
    "Kodak Portra 400 (grain)",
    "8K, HDR, unreal engine",
    "very detailed — \"cinematic\"",
]


def prompts():
    """Texts of many kinds: those of CLIP's fixture, and prompts put together by chance."""
    chance = random.Random(5)
    texts = list(TEXTS)
    texts += ["\ufb01ne \uff21\uff22\uff01 cafe\u0301 so\u00adft", "<extra_id_0> a <pad> b </s> c <unk>", "<extra_id_99>,<extra_id_7>x"]
    texts += ["  leading and trailing  ", "▁already▁marked▁", "a\u200bb\ufeffc", "\u00a0", "\n\t\n", "…and “quotes” ‘so’ – –"]
    while len(texts) < 300:
        parts = [chance.choice(SUBJECTS), chance.choice(PLACES)]
        parts += chance.sample(STYLES, chance.randrange(4))
        text = chance.choice([", ", " ", "; ", ".  "]).join(parts)
        if chance.random() < 0.2:
            text = text.upper()
        if chance.random() < 0.2:
            at = chance.randrange(len(text))
            text = text[:at] + chr(chance.choice([0xE9, 0x4E2D, 0x1F600, 0x301, 0x7, 0x2028, 0xFF5E])) + text[at:]
        if chance.random() < 0.1:
            text = (text + ", ") * chance.randrange(2, 9)
        texts.append(text)
    return texts


def train(folder, **normalizer):
    """A unigram vocabulary with T5's first three ids."""
    folder.mkdir(parents=True)
    corpus = folder / "corpus.txt"
    lines = [line for page in sorted((ROOT / "docs").glob("*.md")) for line in page.read_text().splitlines()]
    corpus.write_text("\n".join([line for line in lines if line.strip()] + prompts()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "spiece"),
        model_type="unigram",
        vocab_size=900,
        character_coverage=0.998,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
        **normalizer,
    )
    for name in ["corpus.txt", "spiece.vocab"]:
        (folder / name).unlink()


def write_tokenizers():
    """One folder as PixArt has it, with spiece.model, and one as Stable Diffusion 3 has it, with tokenizer.json."""
    train(AREA / "spiece", normalization_rule_name="nmt_nfkc")
    config = {"extra_ids": EXTRA_IDS, "model_max_length": 512, "tokenizer_class": "T5Tokenizer"}
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    extra = [f"<extra_id_{index}>" for index in range(EXTRA_IDS)]
    write_json(AREA / "spiece/tokenizer_config.json", {**config, **names, "additional_special_tokens": extra})
    rules = AREA / "rules.tsv"
    code = lambda text: " ".join(f"{ord(sign):X}" for sign in text)
    rules.write_text("".join(f"{code(left)}\t{code(right)}\n" for left, right in RULES), encoding="utf-8")
    train(AREA / "trained", normalization_rule_tsv=str(rules))
    rules.unlink()
    write_json(AREA / "trained/tokenizer_config.json", {**config, **names})
    T5Tokenizer.from_pretrained(AREA / "trained").save_pretrained(AREA / "json")
    shutil.rmtree(AREA / "trained")
    for path in (AREA / "json").iterdir():
        if path.name not in ("tokenizer.json", "tokenizer_config.json"):
            path.unlink()
    whole = json.loads((AREA / "json/tokenizer.json").read_text(encoding="utf-8"))
    assert whole["normalizer"]["type"] == "Precompiled", whole["normalizer"]
    write_json(AREA / "json/tokenizer.json", whole)
    tokenizers = {name: T5Tokenizer.from_pretrained(AREA / name) for name in ["spiece", "json"]}
    texts = prompts()
    cases = {}
    for name, tokenizer in tokenizers.items():
        for length in [24, 120]:
            all_of_it = tokenizer(texts, padding="max_length", max_length=length, truncation=True)
            # Padding is written as its number alone.
            ids = [row[: sum(mask)] for row, mask in zip(all_of_it.input_ids, all_of_it.attention_mask)]
            cases[f"{name}.{length}"] = ids
    (AREA / "cases.json").write_text(json.dumps({"texts": texts, "ids": cases}) + "\n")
    return tokenizers


def save_encoder(folder, model, seed):
    randomize(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # Biases of positions that decide where attention goes.
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                parameter.mul_(4)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string(use_diff=False))
    kept = (
        "architectures vocab_size d_model d_kv d_ff num_layers num_heads relative_attention_num_buckets "
        "relative_attention_max_distance layer_norm_epsilon feed_forward_proj hidden_size intermediate_size "
        "num_hidden_layers num_attention_heads max_position_embeddings projection_dim hidden_act eos_token_id"
    ).split()
    config["architectures"] = [type(model).__name__]
    write_json(folder / "config.json", {key: config[key] for key in kept if key in config})
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    # The table of tokens comes under one name or the other.
    weights.pop("encoder.embed_tokens.weight" if seed % 2 else "shared.weight", None)
    save_file(weights, folder / "model.safetensors")
    return model.eval()


ENCODERS = {
    # class, width of a head and heads, layers, buckets and their reach, feed-forward layer
    "gated": (T5EncoderModel, T5Config, 12, 3, 3, 32, 128, "gated-gelu"),
    "relu": (T5EncoderModel, T5Config, 8, 4, 2, 8, 20, "relu"),
    "umt5": (UMT5EncoderModel, UMT5Config, 5, 6, 3, 16, 40, "gated-gelu"),
}


@torch.no_grad()
def write_encoders():
    for seed, (name, (cls, config, d_kv, heads, layers, buckets, reach, dense)) in enumerate(ENCODERS.items()):
        model = cls(
            config(
                vocab_size=50,
                d_model=32,
                d_kv=d_kv,
                d_ff=56,
                num_layers=layers,
                num_heads=heads,
                relative_attention_num_buckets=buckets,
                relative_attention_max_distance=reach,
                layer_norm_epsilon=1e-6,
                feed_forward_proj=dense,
            )
        )
        folder = AREA / name
        save_encoder(folder, model, 20 + seed)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 50, (3, 150), generator=generator)
        lengths = torch.tensor([150, 1, 77])
        mask = (torch.arange(150)[None] < lengths[:, None]).long()
        masked = model(ids, attention_mask=mask).last_hidden_state
        # States of what is masked mean nothing.
        masked = torch.cat([row[:length] for row, length in zip(masked, lengths)])
        expected = {"ids": ids, "lengths": lengths, "masked": masked, "unmasked": model(ids[:, :40]).last_hidden_state}
        save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")


PROMPTS = ["  An OLD harbour at dusk, Blue sky!!!", "", "wet cobblestones, " * 30]
WIDTH = 40


def clip(area, name, width, projection, heads, act, seed, vocabulary):
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        projection_dim=projection,
        hidden_act=act,
    )
    return save_encoder(area / name, CLIPTextModelWithProjection(config), seed)


@torch.no_grad()
def write_conditioning(tokenizers):
    """What the pipelines make of prompts, with the encoders that make it."""
    size = len(tokenizers["json"])
    config = T5Config(
        vocab_size=size + 4, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    t5 = save_encoder(AREA / "pipelines/text_encoder_3", T5EncoderModel(config), 31)
    expected = {}
    parts = {"vae": None, "transformer": None, "scheduler": None}
    for name, cls, tokens in [("alpha", PixArtAlphaPipeline, 120), ("sigma", PixArtSigmaPipeline, 300)]:
        pipeline = cls(tokenizer=tokenizers["json"], text_encoder=t5, **parts)
        context, mask, *_ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False, device="cpu")
        assert context.shape[1] == tokens
        # What the mask hides means nothing.
        expected[f"{name}.lengths"] = mask.sum(1)
        expected[f"{name}.context"] = context[mask.bool()]
    vocabulary = len(clip_vocabulary()[0])
    clips = [
        clip(AREA / "pipelines", "text_encoder", 16, 12, 2, "quick_gelu", 33, vocabulary),
        clip(AREA / "pipelines", "text_encoder_2", 20, 14, 4, "gelu", 35, vocabulary),
    ]
    configs = tokenizer_configs(clip_vocabulary()[0])
    folders = [AREA / "first", AREA / "second"]
    for folder in folders:
        write_clip_tokenizer(folder, *configs[folder.name])
    first, second = (CLIPTokenizer.from_pretrained(folder) for folder in folders)
    for folder in folders:
        shutil.rmtree(folder)
    for name, third in [("sd3", t5), ("sd3_without_t5", None)]:
        pipeline = StableDiffusion3Pipeline(
            tokenizer=first,
            tokenizer_2=second,
            tokenizer_3=tokenizers["json"],
            text_encoder=clips[0],
            text_encoder_2=clips[1],
            text_encoder_3=third,
            **parts,
        )
        pipeline.transformer = torch.nn.Module()
        pipeline.transformer.config = type("Config", (), {"joint_attention_dim": WIDTH})
        context, _, pooled, _ = pipeline.encode_prompt(
            PROMPTS, None, None, do_classifier_free_guidance=False, device="cpu", max_sequence_length=60
        )
        expected[f"{name}.context"], expected[f"{name}.pooled"] = context, pooled
    save_file({key: value.contiguous() for key, value in expected.items()}, AREA / "pipelines/expected.safetensors")
    write_json(AREA / "pipelines/prompts.json", PROMPTS)


def write_operations():
    """The operations that T5 and transformers with text masks have, in f64."""
    torch.manual_seed(9)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64)
    heads, width = 3, 20
    split = lambda x: x.unflatten(2, (heads, width)).transpose(1, 2)
    merged = lambda x: x.transpose(1, 2).flatten(2)
    t = {"x": 6 * normal(5, 77)}
    t["gelu_tanh"] = F.gelu(t["x"], approximate="tanh")
    t["q"], t["k"], t["v"] = normal(2, 70, 60), normal(2, 33, 60), normal(2, 33, 60)
    t["bias"] = 2 * normal(heads, 70, 33)
    q, k, v = split(t["q"]), split(t["k"]), split(t["v"])
    t["biased"] = merged(F.scaled_dot_product_attention(q, k, v, attn_mask=t["bias"][None], scale=1.0))
    t["lengths"] = torch.tensor([11, 33])
    mask = torch.arange(33)[None] < t["lengths"][:, None]
    t["masked"] = merged(F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]))
    tensors = {name: x.float() if x.is_floating_point() else x for name, x in t.items()}
    save_file({name: x.contiguous() for name, x in tensors.items()}, AREA / "operations.safetensors")


@torch.no_grad()
def write_files():
    """The pipelines' encoder as files of its own: llama.cpp's GGUF with the vocabulary, and fp8 as ComfyUI carries it."""
    folder = AREA / "files"
    folder.mkdir()
    source = AREA / "pipelines/text_encoder_3"
    config = T5Config.from_pretrained(source)
    weights = load_file(source / "model.safetensors")
    tokens = json.loads((AREA / "json/tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokens["model"]["vocab"]
    ids = torch.randint(3, len(vocab), (2, 30), generator=torch.Generator().manual_seed(3))
    expected = {"ids": ids}

    def states(rounded):
        model = T5EncoderModel(config).eval()
        rounded = {name: weight.float() for name, weight in rounded.items()}
        missing, unexpected = model.load_state_dict(rounded, strict=False)
        assert not unexpected and all("embed_tokens" in name or name == "shared.weight" for name in missing)
        model.tie_weights()
        return model(ids).last_hidden_state

    writer = gguf.GGUFWriter(folder / "t5.gguf", "t5encoder")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, config.num_layers)
    halves = {name: weight.half() if weight.dim() > 1 else weight for name, weight in weights.items()}
    expected["gguf"] = states(halves)
    for name, weight in halves.items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.numpy())
    # As llama.cpp's converter has it: pieces, then what fills up the table.
    pieces = [(piece, score) for piece, score in vocab if not piece.startswith("<extra_id_")]
    kinds = [gguf.TokenType.NORMAL] * len(pieces)
    kinds[:3] = [gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN]
    filler = range(len(pieces), config.vocab_size)
    pieces += [(f"[PAD{index}]", -10000.0) for index in filler]
    kinds += [gguf.TokenType.UNUSED] * len(filler)
    writer.add_tokenizer_model("t5")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types(kinds)
    writer.add_precompiled_charsmap(base64.b64decode(tokens["normalizer"]["precompiled_charsmap"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    small = {name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()}
    expected["fp8"] = states(small)
    save_file(small, folder / "t5_fp8_e4m3fn.safetensors")
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")


def main():
    torch.set_num_threads(1)
    shutil.rmtree(AREA, ignore_errors=True)
    tokenizers = write_tokenizers()
    write_operations()
    write_encoders()
    write_conditioning(tokenizers)
    write_files()


if __name__ == "__main__":
    main()
