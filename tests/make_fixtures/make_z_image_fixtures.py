"""Makes tests/fixtures/z_image: what diffusers' ZImageTransformer2DModel and transformers' Qwen3 compute, for
tests/parity/z_image.rs.

Weights and inputs are not stored: both sides draw them from the same counter-based formula (`field` and `weight` of
make_unet_fixtures.py), so a fixture is a config, the shapes of its tensors, and the outputs.

Each case of the transformer has the Regional Attention Prior of joint attention too (docs/method.md section 5b),
LITERALLY: in the low-resolution pass the softmax maps of every image token over the text tokens are formed per head, with
the text's values; for each region they are cropped, resized and applied to these values, and that is averaged with the
region's own text part. The Rust side keeps no map.

The tokenizer is Qwen's with a small vocabulary, and the chat template is the part of Qwen3's that one message of a user
reaches.

Also `qwen3.gguf`, an encoder as llama.cpp's converter writes it (Q8_0, the vocabulary in the file), with what transformers
computes with these weights.

    pip install gguf
    python tests/make_fixtures/make_z_image_fixtures.py
"""

import json
import shutil
from pathlib import Path

import gguf
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from safetensors.torch import save_file
from gguf.quants import dequantize, quantize
from tokenizers import ByteLevelBPETokenizer
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from make_rap_fixtures import sample as crop
from make_text_fixtures import TEXTS
from make_unet_fixtures import field, weight

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "tests" / "fixtures" / "z_image"
RAP_WEIGHT = 0.4
# top, left, height, width relative to the picture
RECTS = [[0.0, 0.0, 0.5, 0.6], [0.3, 0.4, 0.55, 0.6], [0.45, 0.2, 0.2, 0.15]]
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
PROMPTS = [
    "an old harbour at dusk, 12 boats",
    "",
    "Ünïcode: 一只猫, <|im_end|> and <think>more</think>   spaces\n\nlines\t.",
    "a very long prompt of many words, " * 9,
]
# Tokens of the pipeline's prompts: of the last one the end is cut off.
SEQUENCE = 80

CASES = {
    # Texts of which one is filled up to 32 tokens and one to 64, a picture that is filled up as well.
    "turbo": dict(
        config=dict(
            in_channels=4, dim=48, n_layers=3, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=20,
            axes_dims=[8, 8, 8], axes_lens=[128, 13, 12],
        ),
        size=(12, 18), side=16, lengths=[7, 40], low=21, regions=[5, 33, 9], timestep=700.0,
    ),
    # Without norms of queries and keys, other ε, base and scale; lengths that need no filling, pictures neither.
    "plain": dict(
        config=dict(
            in_channels=3, dim=36, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3, cap_feat_dim=16,
            axes_dims=[4, 2, 6], axes_lens=[200, 16, 16], qk_norm=False, norm_eps=1e-3, rope_theta=100.0,
            t_scale=500.0,
        ),
        size=(16, 8), side=16, lengths=[32, 64, 64], low=64, regions=[32, 32, 32], timestep=125.0,
    ),
    # Wider than the timestep's embedding.
    "wide": dict(
        config=dict(
            in_channels=16, dim=264, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4, cap_feat_dim=24,
            axes_dims=[22, 22, 22], axes_lens=[256, 20, 20],
        ),
        size=(10, 26), side=12, lengths=[1, 90], low=40, regions=[12, 70, 12], timestep=1000.0,
    ),
}

ENCODERS = {
    "shared_heads": (
        Qwen3ForCausalLM,
        dict(
            vocab_size=700, hidden_size=40, intermediate_size=56, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=2, head_dim=12, rope_parameters=dict(rope_type="default", rope_theta=1e6),
            tie_word_embeddings=True, max_position_embeddings=512,
        ),
    ),
    "alone": (
        Qwen3Model,
        dict(
            vocab_size=700, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, head_dim=8, rms_norm_eps=1e-5,
            rope_parameters=dict(rope_type="default", rope_theta=1e4), max_position_embeddings=512,
        ),
    ),
    "one_head_of_keys": (
        Qwen3ForCausalLM,
        dict(
            vocab_size=700, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=5,
            num_key_value_heads=1, head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=5e5),
            tie_word_embeddings=False, max_position_embeddings=512,
        ),
    ),
}


class LiteralPrior:
    """The attention of one block with its maps: recorded in one pass, blended in another."""

    def __init__(self, weight=RAP_WEIGHT):
        self.weight = weight
        self.maps = None  # [1, heads * text, h, w]
        self.values = None  # [heads, text, d]
        self.size = None  # height and width in patches; none in a block without a prior
        self.rects = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1))

        def turned(x):
            pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * freqs_cis.unsqueeze(2)
            return torch.view_as_real(pairs).flatten(3).transpose(1, 2)

        q, k = heads(attn.to_q(hidden_states)), heads(attn.to_k(hidden_states))
        if attn.norm_q is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = turned(q), turned(k), heads(attn.to_v(hidden_states)).transpose(1, 2)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask[:, None, None, :], -torch.inf)
        weights = scores.softmax(-1)
        mixed = weights @ v
        if self.size is None:
            return attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        height, width = self.size
        patches = height * width
        tokens = patches + -patches % 32
        of_text, text_values = weights[:, :, :patches, tokens:], v[:, :, tokens:]
        if self.rects is None:
            self.values = text_values[0]
            self.maps = of_text[0].transpose(1, 2).reshape(1, -1, height, width)
        else:
            own = of_text @ text_values
            regions = []
            for rect in self.rects:
                cropped = crop(self.maps, rect, height, width).reshape(attn.heads, self.values.shape[1], -1)
                regions.append(cropped.transpose(1, 2) @ self.values)
            mixed = mixed.clone()
            mixed[:, :, :patches] += self.weight * (torch.stack(regions) - own)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


def predict(model, inputs, timestep, dtype):
    """The velocity from picture to noise, as the pipeline makes it of the model's output."""
    time = torch.full((len(inputs["sample"]),), (1000 - timestep) / 1000, dtype=dtype)
    with torch.no_grad():
        output = model(
            [sample.to(dtype).unsqueeze(1) for sample in inputs["sample"]],
            time,
            [text.to(dtype) for text in inputs["texts"]],
            return_dict=False,
        )[0]
    return -torch.stack(output).squeeze(2)


def wide_rotation(model):
    """The model's table of angles in f64: the literal prior multiplies complex numbers of that width."""
    tables = model.rope_embedder.precompute_freqs_cis(model.axes_dims, model.axes_lens, theta=model.rope_theta)
    model.rope_embedder.freqs_cis = [table.to(torch.complex128) for table in tables]


def literal(model, low, regions, timestep):
    """The regions' outputs with the literal prior of the low-resolution pass."""
    priors = [LiteralPrior() for _ in model.layers]
    wide_rotation(model)
    plain = [*model.noise_refiner, *model.context_refiner]
    for block in plain:
        # Blocks without a prior, with the angles that the others have.
        block.attention.set_processor(LiteralPrior())
    for block, prior in zip(model.layers, priors):
        block.attention.set_processor(prior)
    for inputs, rects in [(low, None), (regions, RECTS)]:
        height, width = inputs["sample"][0].shape[-2:]
        for prior in priors:
            prior.size, prior.rects = (height // 2, width // 2), rects
        output = predict(model, inputs, timestep, torch.float64)
    return output


def write_transformers():
    for case, spec in CASES.items():
        config = spec["config"]
        model = ZImageTransformer2DModel(**config).eval()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()})
        channels, width = config["in_channels"], config["cap_feat_dim"]

        def inputs(prefix, lengths, size):
            return dict(
                sample=(f"{prefix}sample", [len(lengths), channels, *size]),
                # Behind what counts stand numbers that must play no part.
                context=(f"{prefix}context", [len(lengths), max(lengths) + 3, width]),
                lengths=lengths,
            )

        side = spec["side"]
        all_inputs = {
            "plain": inputs("", spec["lengths"], spec["size"]),
            "low": inputs("low.", [spec["low"]], spec["size"]),
            "regions": inputs("regions.", spec["regions"], (side, side)),
        }
        drawn = {
            kind: dict(
                sample=list(field(*named["sample"])),
                texts=[row[:length] for row, length in zip(field(*named["context"]), named["lengths"])],
            )
            for kind, named in all_inputs.items()
        }
        output = predict(model, drawn["plain"], spec["timestep"], torch.float32)
        model = model.double()
        blended = literal(model, drawn["low"], drawn["regions"], spec["timestep"])
        tensors = dict(output=output.permute(0, 2, 3, 1), blended=blended.permute(0, 2, 3, 1))
        tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, OUT / f"{case}.safetensors")
        description = dict(
            config=config, shapes=shapes, timestep=spec["timestep"], inputs=all_inputs, rects=RECTS, weight=RAP_WEIGHT
        )
        (OUT / f"{case}.json").write_text(json.dumps(description) + "\n")
        print(case, float(output.abs().max()), float(blended.abs().max()))


def write_schedule():
    """Timesteps of the pipeline, which hands its scheduler a list of sigmas."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=1000)
    steps = {}
    for n in [1, 2, 8, 9, 50]:
        scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(n), mu=1.0)
        assert len(scheduler.timesteps) == n
        steps[n] = [float(t) for t in scheduler.timesteps]
    config = dict(_class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0)
    (OUT / "schedule.json").write_text(json.dumps(dict(config=config, steps=steps)) + "\n")


def write_tokenizer():
    """A folder as published models have it: tokenizer.json, and vocab.json with merges.txt beside it."""
    folder = OUT / "tokenizer"
    folder.mkdir()
    lines = (ROOT / "LICENSE-APACHE").read_text().splitlines()
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(lines + TEXTS + PROMPTS, vocab_size=600, show_progress=False)
    trained.save_model(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", model_max_length=131072)
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    for path in folder.iterdir():
        if path.name not in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
            path.unlink()
    return Qwen2Tokenizer.from_pretrained(folder)


def write_texts(tokenizer):
    texts = TEXTS + PROMPTS
    ids = {}
    for length in [24, 120]:
        rows = tokenizer(texts, padding="max_length", max_length=length, truncation=True)
        # Padding is written as its number alone.
        ids[length] = [row[: sum(mask)] for row, mask in zip(rows.input_ids, rows.attention_mask)]
    (OUT / "texts.json").write_text(json.dumps(dict(texts=texts, ids=ids, prompts=PROMPTS, sequence=SEQUENCE)) + "\n")


def write_encoders(tokenizer):
    for name, (kind, config) in ENCODERS.items():
        config = Qwen3Config(**config)
        model = kind(config).eval()
        shapes = {tensor: list(value.shape) for tensor, value in model.state_dict().items()}
        if config.tie_word_embeddings:
            shapes.pop("lm_head.weight")
        model.load_state_dict({tensor: weight(tensor, shape) for tensor, shape in shapes.items()}, strict=False)
        pipeline = ZImagePipeline(scheduler=None, vae=None, text_encoder=model, tokenizer=tokenizer, transformer=None)
        with torch.no_grad():
            embedded = pipeline._encode_prompt(list(PROMPTS), device="cpu", max_sequence_length=SEQUENCE)
        save_file({str(row): states.contiguous() for row, states in enumerate(embedded)}, OUT / f"{name}.safetensors")
        written = json.loads(config.to_json_string(use_diff=False))
        kept = (*ENCODERS[name][1], "hidden_act", "attention_bias", "use_sliding_window", "rms_norm_eps")
        written = {key: written[key] for key in kept}
        description = dict(architectures=[kind.__name__], model_type="qwen3", **written)
        (OUT / f"{name}.json").write_text(json.dumps(dict(config=description, shapes=shapes)) + "\n")
        print(name, [list(states.shape) for states in embedded])


def write_gguf(tokenizer):
    """The encoder `alone` in a file of llama.cpp's kind: its names, numbers and vocabulary."""
    kind, config = ENCODERS["alone"]
    config = Qwen3Config(**config)
    model = kind(config).eval()
    writer = gguf.GGUFWriter(OUT / "qwen3.gguf", "qwen3")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    rounded = {}
    for name, tensor in model.state_dict().items():
        values = weight(name, list(tensor.shape)).numpy()
        stored_as = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        if values.ndim == 2 and values.shape[1] % 32:
            stored_as = gguf.GGMLQuantizationType.F16
        stored = quantize(values, stored_as)
        rounded[name] = torch.from_numpy(dequantize(stored, stored_as)).reshape(tensor.shape).clone()
        theirs = names.get_name(f"model.{name}", try_suffixes=(".weight",))
        writer.add_tensor(theirs, stored, raw_dtype=stored_as)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    of_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens, kinds = [], []
    for index in range(config.vocab_size):
        token = of_id.get(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            kinds.append(gguf.TokenType.UNUSED)
            continue
        tokens.append(token)
        own = gguf.TokenType.CONTROL if added.get(token) else gguf.TokenType.USER_DEFINED
        kinds.append(own if token in added else gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = (OUT / "tokenizer" / "merges.txt").read_text().splitlines()
    writer.add_token_merges([merge for merge in merges if merge and not merge.startswith("#version")])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(rounded)
    pipeline = ZImagePipeline(scheduler=None, vae=None, text_encoder=model, tokenizer=tokenizer, transformer=None)
    with torch.no_grad():
        embedded = pipeline._encode_prompt(list(PROMPTS[:3]), device="cpu", max_sequence_length=512)
    states = {str(row): states.contiguous() for row, states in enumerate(embedded)}
    save_file(states, OUT / "qwen3_gguf.safetensors")


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    write_transformers()
    write_schedule()
    tokenizer = write_tokenizer()
    write_texts(tokenizer)
    write_encoders(tokenizer)
    write_gguf(tokenizer)


if __name__ == "__main__":
    main()
