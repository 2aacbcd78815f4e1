"""Makes tests/fixtures/llava: four small random LLaVA models in the forms in which people have them, folders
and GGUF files, and what transformers says of pictures with them (scores and greedy texts).

    python tests/make_fixtures/make_llava_fixtures.py

Weights are larger than torch would draw them, so that texts depend on the pictures; of several seeds the
first is taken whose every greedy choice has a clear margin (MARGIN), so that rounding cannot turn one.
"""

import json
import shutil
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "llava"
SIDE, PATCH = 42, 14
PINPOINTS = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
INSTRUCTION = "Say what is there, in one sentence."
NEW_TOKENS = 16
# Scores of so many steps are kept.
SCORED = 6
# The best score of every step is this far above the second, where the scores spread over about 10.
MARGIN = 4e-3
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. "
)
VICUNA = "USER: <image>\n{} ASSISTANT:"
MISTRAL = "[INST] <image>\n{} [/INST]"

MERGES = """▁ t|▁t h|▁th e|▁ a|i n|e r|o n|▁ s|a t|▁ o|▁o f|▁i n|▁ i|▁i s|h e|h a|▁ w|▁w hat|w hat|ha t|▁ c|e n
▁a nd|n d|t en|c e|ten ce|s en|▁s en|▁sen tence|U S|US E|USE R|▁ USER|A S|AS S|ASS I|I S|ASSI S|T A|ASSIS TA
ASSISTA N|ASSISTAN T|▁ ASSISTANT|I N|IN S|INS T|▁ [""".replace("\n", "|").split("|")


def tokenizer():
    """A vocabulary of LLaMA's kind: bytes, signs, and pieces of words after a mark for spaces."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += ["▁"] + [chr(code) for code in range(33, 127)]
    first = len(tokens)
    for merge in MERGES:
        left, right = merge.split(" ")
        if left in tokens and right in tokens and left + right not in tokens:
            tokens.append(left + right)
    vocab = {token: index for index, token in enumerate(tokens)}
    # Every pair that makes a piece, best pieces first, as sentencepiece's models are converted.
    merges = [
        (token[:cut], token[cut:])
        for token in tokens[first:]
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    special = [AddedToken(text, special=True, normalized=False) for text in ["<unk>", "<s>", "</s>", "<image>", "<pad>"]]
    made.add_special_tokens(special)
    return made


def picture(width, height, seed):
    """Smooth colours: what real pictures have most of, and enough to tell one crop from another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 12, width // 12, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def crops():
    """x, y, width, height: 49 regions of a grid, then three of other shapes.

    Since version 13 Pillow resizes rows first where that is less work, and with 8 bits between the two passes
    this changes pixels by a level. The models have seen pictures whose columns were resized first; all
    shapes here are such that every version does that.
    """
    grid = [(x * 12, y * 10, 50, 50) for y in range(7) for x in range(7)]
    return grid + [(0, 20, 111, 37), (60, 10, 13, 39), (7, 9, 100, 71)]


def randomize(model, seed, end_token):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.1 * noise)
            elif weight.dim() == 1 and not name.endswith(("class_embedding", "image_newline")):
                weight.copy_(0.1 * noise)
            elif "embed_tokens" in name or "embedding" in name or weight.dim() == 1:
                weight.copy_(0.8 * noise)
            elif "lm_head" in name:
                noise[end_token] *= 1.7
                weight.copy_(noise * 2.2 / weight.shape[1] ** 0.5)
            else:
                fan_in = weight[0].numel()
                weight.copy_(noise * (2.5 if "projector" in name else 1.4) / fan_in**0.5)
            weight.copy_(weight.half().float())
    return model.eval()


def published(name):
    """A tensor's name in checkpoints of transformers 4, from that in transformers 5."""
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head", "language_model.lm_head")
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    return name.replace("model.multi_modal_projector", "multi_modal_projector").replace("model.image_newline", "image_newline")


def save(folder, model, config, processor, old_names, shards):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    if old_names:
        tensors = {published(name): weight for name, weight in tensors.items()}
    if shards:
        names = sorted(tensors)
        parts = [names[: len(names) // 2], names[len(names) // 2 :]]
        files = [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
        for file, part in zip(files, parts):
            save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, part in zip(files, parts) for name in part}}
        write_json(folder / "model.safetensors.index.json", index)
    else:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1})
    processor.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "preprocessor_config.json", {
        "image_mean": list(processor.image_processor.image_mean),
        "image_std": list(processor.image_processor.image_std),
        "crop_size": {"height": SIDE, "width": SIDE},
        "size": {"shortest_edge": SIDE},
        "resample": 3,
        "rescale_factor": 1 / 255,
    })


def interleaved(weight, heads):
    """Rows of queries or keys in llama.cpp's order: the halves of a head turn to pairs (its
    `conversion/llama.py`, `permute`)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


TEXT_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
}
VISION_NAMES = {
    "embeddings.class_embedding": "class_embd", "embeddings.patch_embedding": "patch_embd",
    "embeddings.position_embedding": "position_embd", "pre_layrnorm": "pre_ln", "encoder.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out", "layer_norm1": "ln1", "layer_norm2": "ln2",
}
# llama.cpp's first converter for LLaVA had these two the other way round, and so have its files.
OLD_MLP = {"mlp.fc1": "ffn_down", "mlp.fc2": "ffn_up"}
NEW_MLP = {"mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}


def renamed(name, names):
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def save_gguf(folder, model, tokens, pinpoints, old):
    """The pair of files that llama.cpp has: the decoder, and the vision tower with the projector."""
    folder.mkdir(parents=True, exist_ok=True)
    text, vision = model.config.text_config, model.config.vision_config
    out = gguf.GGUFWriter(folder / "model-f16.gguf", "llama")
    out.add_context_length(text.max_position_embeddings)
    out.add_embedding_length(text.hidden_size)
    out.add_block_count(text.num_hidden_layers)
    out.add_feed_forward_length(text.intermediate_size)
    out.add_head_count(text.num_attention_heads)
    out.add_head_count_kv(text.num_key_value_heads)
    out.add_layer_norm_rms_eps(text.rms_norm_eps)
    out.add_rope_freq_base(text.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(text.head_dim)
    out.add_key_length(text.head_dim)
    if getattr(text, "sliding_window", None):
        out.add_sliding_window(text.sliding_window)
    count = tokens.get_vocab_size() - (2 if old else 0)  # older files have no <image> and <pad>
    pieces = [tokens.id_to_token(index) for index in range(count)]
    out.add_tokenizer_model("llama")
    out.add_token_list(pieces)
    out.add_token_scores([-float(index) for index in range(count)])
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3, "<image>": 3, "<pad>": 3}
    out.add_token_types([kinds.get(piece, 6 if piece.startswith("<0x") else 1) for piece in pieces])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    mmproj = gguf.GGUFWriter(folder / "mmproj-model-f16.gguf", "clip")
    mmproj.add_bool("clip.has_vision_encoder", True)
    mmproj.add_bool("clip.has_llava_projector", True)
    mmproj.add_string("clip.projector_type", "mlp")
    mmproj.add_uint32("clip.vision.image_size", vision.image_size)
    mmproj.add_uint32("clip.vision.patch_size", vision.patch_size)
    mmproj.add_uint32("clip.vision.embedding_length", vision.hidden_size)
    mmproj.add_uint32("clip.vision.feed_forward_length", vision.intermediate_size)
    mmproj.add_uint32("clip.vision.attention.head_count", vision.num_attention_heads)
    mmproj.add_float32("clip.vision.attention.layer_norm_epsilon", vision.layer_norm_eps)
    blocks = vision.num_hidden_layers + 1 + model.config.vision_feature_layer
    mmproj.add_uint32("clip.vision.block_count", blocks)
    mmproj.add_bool("clip.use_gelu", False)
    mmproj.add_array("clip.vision.image_mean", [0.48145466, 0.4578275, 0.40821073])
    mmproj.add_array("clip.vision.image_std", [0.26862954, 0.26130258, 0.27577711])
    if not old:
        mmproj.add_array("clip.vision.feature_layer", [blocks])
    if pinpoints:
        mmproj.add_string("clip.vision.mm_patch_merge_type", "spatial_unpad")
        mmproj.add_array("clip.vision.image_grid_pinpoints", [side for size in pinpoints for side in size])
    for name, weight in model.state_dict().items():
        name = published(name)
        heads = {"q_proj": text.num_attention_heads, "k_proj": text.num_key_value_heads}
        if name.startswith("language_model."):
            for projection, count in heads.items():
                if projection in name:
                    weight = interleaved(weight, count)
            name, file = renamed(name.removeprefix("language_model."), TEXT_NAMES), out
        elif name == "image_newline":
            name, file = "model.image_newline", mmproj
        elif name.startswith("multi_modal_projector."):
            name = name.replace("multi_modal_projector.linear_1", "mm.0").replace("multi_modal_projector.linear_2", "mm.2")
            file = mmproj
        else:
            name = "v." + renamed(name.removeprefix("vision_tower.vision_model."), {**VISION_NAMES, **(OLD_MLP if old else NEW_MLP)})
            file = mmproj
            if "post_layernorm" in name or any(f"blk.{index}." in name for index in range(blocks, 99)):
                continue
        file.add_tensor(name, (weight.half() if weight.dim() > 1 else weight).contiguous().numpy())
    for file in (out, mmproj):
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def inputs(processor, prompt, whole, crop):
    x, y, width, height = crop
    part = whole[y : y + height, x : x + width].contiguous().numpy()
    return processor(images=part, text=prompt, return_tensors="pt")


def answers(model, processor, prompt, whole, regions):
    """For each crop the tokens of the prompt, the scores of every step, and the text's tokens."""
    groups = {}
    for index, crop in enumerate(regions):
        groups.setdefault(crop[2:], []).append(index)
    found = [None] * len(regions)
    for members in groups.values():
        rows = [inputs(processor, prompt, whole, regions[index]) for index in members]
        batch = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        with torch.no_grad():
            out = model.generate(
                **batch, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=1,
                return_dict_in_generate=True, output_logits=True,
            )
        start = batch["input_ids"].shape[1]
        scores = torch.stack(out.logits, 1)
        for row, index in enumerate(members):
            text = out.sequences[row, start:].tolist()
            count = text.index(2) + 1 if 2 in text else len(text)
            found[index] = (batch["input_ids"][row], scores[row, :count], text[:count])
    return found


def margin(found):
    best = torch.cat([scores for _, scores, _ in found]).topk(2).values
    return (best[:, 0] - best[:, 1]).min().item()


def vision_config():
    return {
        "model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 16,
    }


def text_config(vocabulary, **changes):
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, **changes,
    }


def cases(vocabulary, image_token):
    """Name, whether it is 1.6, configuration, whole prompt, whether names are old, whether in shards, crops."""
    base = {"image_token_index": image_token, "vision_config": vision_config(), "projector_hidden_act": "gelu"}
    few = list(range(0, 49, 16)) + [49, 50, 51]
    everything = list(range(52))
    llama = text_config(vocabulary, model_type="llama")
    yield ("llava15_llama", False, {**base, "text_config": llama, "vision_feature_layer": -2,
           "vision_feature_select_strategy": "default"}, VICUNA, False, False, everything)
    mistral = text_config(vocabulary, model_type="mistral", num_key_value_heads=2, sliding_window=None)
    yield ("llava15_mistral_full", False, {**base, "text_config": mistral, "vision_feature_layer": [-3, -1],
           "vision_feature_select_strategy": "full"}, MISTRAL, True, False, few)
    mistral = text_config(vocabulary, model_type="mistral", num_key_value_heads=2, sliding_window=37,
                          rope_theta=1e6, head_dim=12)
    yield ("llava16_mistral", True, {**base, "text_config": mistral, "vision_feature_layer": -2,
           "vision_feature_select_strategy": "default", "image_grid_pinpoints": PINPOINTS}, MISTRAL, True, True,
           everything)
    scaling = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
    llama = text_config(vocabulary, model_type="llama", rope_scaling=scaling, num_key_value_heads=1)
    yield ("llava16_llama", True, {**base, "text_config": llama, "vision_feature_layer": -2,
           "vision_feature_select_strategy": "default", "image_grid_pinpoints": PINPOINTS}, SYSTEM + VICUNA, False,
           False, few)


def main():
    made = tokenizer()
    image_token = made.token_to_id("<image>")
    vocabulary = -(-made.get_vocab_size() // 8) * 8
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   extra_special_tokens={"image_token": "<image>"})
    whole = picture(132, 120, 7)
    OUT.mkdir(parents=True, exist_ok=True)
    save_file({"picture": whole}, OUT / "picture.safetensors")
    expected = {"instruction": INSTRUCTION, "new_tokens": NEW_TOKENS, "crops": crops(), "models": {}}
    for name, is_next, config, prompt, old_names, shards, chosen in cases(vocabulary, image_token):
        model_class = LlavaNextForConditionalGeneration if is_next else LlavaForConditionalGeneration
        config_class = LlavaNextConfig if is_next else LlavaConfig
        full = {"model_type": "llava_next" if is_next else "llava", **config}
        sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        strategy = config["vision_feature_select_strategy"]
        if is_next:
            images = LlavaNextImageProcessorPil(image_grid_pinpoints=PINPOINTS, **sizes)
            processor = LlavaNextProcessor(images, fast, patch_size=PATCH, num_additional_image_tokens=1,
                                           vision_feature_select_strategy=strategy)
        else:
            images = CLIPImageProcessorPil(**sizes)
            processor = LlavaProcessor(images, fast, patch_size=PATCH, num_additional_image_tokens=1,
                                       vision_feature_select_strategy=strategy)
        regions = [crops()[index] for index in chosen]
        asked = prompt.format(INSTRUCTION)
        for seed in range(1000):
            model = randomize(model_class(config_class(**json.loads(json.dumps(config)))), seed, 2)
            found = answers(model, processor, asked, whole, regions)
            texts = {tuple(text) for _, _, text in found}
            ended = sum(text[-1] == 2 for _, _, text in found)
            if margin(found) >= MARGIN and len(texts) > 0.6 * len(found) and 0.15 < ended / len(found) < 0.85:
                break
        else:
            raise SystemExit(f"{name}: no seed will do")
        spread = torch.cat([scores for _, scores, _ in found]).std().item()
        print(f"{name}: seed {seed}, margin {margin(found):.4f}, scores spread by {spread:.2f}, "
              f"{len(texts)} of {len(found)} texts differ, {ended} end")
        save(OUT / name, model, full if old_names else {"model_type": full["model_type"], **model.config.to_diff_dict()},
             processor, old_names, shards)
        if name in ("llava15_llama", "llava16_mistral"):
            save_gguf(OUT / f"{name}_gguf", model, made, PINPOINTS if is_next else None, not is_next)
        scored = [index for index, crop in enumerate(chosen) if crop in (0, 48, 49, 50, 51)]
        save_file({f"scores.{chosen[index]}": found[index][1][:SCORED].contiguous() for index in scored},
                  OUT / name / "expected.safetensors")
        expected["models"][name] = {
            "crops": chosen,
            "prompts": {str(chosen[index]): found[index][0].tolist() for index in scored},
            "tokens": [text for _, _, text in found],
            "texts": [fast.decode(text, skip_special_tokens=True) for _, _, text in found],
        }
    write_json(OUT / "expected.json", expected)


if __name__ == "__main__":
    main()
