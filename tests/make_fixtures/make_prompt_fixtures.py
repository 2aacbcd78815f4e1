"""Makes tests/fixtures/prompt: what weighted prompts are read as, the states that they become on the small encoders of
tests/fixtures/text and tests/fixtures/t5, states with textual inversions, and a whole job with a weighted prompt of two chunks.

    pip install compel
    python tests/make_fixtures/make_prompt_fixtures.py

The reader, the chunks and the weights are written here once more, from A1111's documentation (its wiki's "Features": "Attention/
emphasis", "Infinite prompt length", "Textual inversion") and ComfyUI's for T5, in other ways than the program has them: weights by spans of
signs, chunks by places in the whole list of tokens, in f64. Where compel means the same, an unweighted prompt that is longer than a
chunk and has no comma, its states are compared. Textual inversions are loaded by diffusers.

Written: `table.json` (each prompt's pieces, [text, weight] or "BREAK"), `states.json` with `states.safetensors`, the files
of embeddings, `inverted.safetensors`, and `job.json` with `job.safetensors`.
"""

import json
import re
import shutil
from dataclasses import replace

import torch
from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from make_img2img_fixture import picture
from make_method_fixture import ALL, CAPTIONS, HEIGHT, WIDTH, Method
from make_method_fixture import PROMPT as OF_METHOD
from make_text_fixtures import FIXTURES, write_json, write_tokenizer, tokenizer_configs, clip_vocabulary
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers import T5Config, T5EncoderModel, T5Tokenizer

AREA, TEXT = FIXTURES / "prompt", FIXTURES / "text"

TABLE = [
    "normal text",
    "an (important) word",
    "(unbalanced",
    r"\(literal\]",
    "(unnecessary)(parens)",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
    "",
    " ",
    "()",
    "[]",
    "(())",
    "a (cat:1.5) and a [dog]",
    "((cat))",
    "(((cat)))",
    "[[cat]]",
    "([cat])",
    "[(cat:1.5)]",
    "(cat:0)",
    "(cat:-0.5)",
    "(cat:+1.2)",
    "(cat:.5)",
    "(cat:2.)",
    "(cat: 1.3)",
    "(cat:1.3 )",
    "(cat : 1.3)",
    "(cat:1,3)",
    "(cat:1e1)",
    "(cat:x)",
    "(cat:)",
    "cat:1.3)",
    "cat:1.3",
    "a) b] c",
    "a ) (b",
    "[a (b] c)",
    "(a [b) c]",
    "(a:1.2) (b:1.2)",
    "(a:1.2)(b:1.2)",
    "(a (b:1.5) c:0.8)",
    "(a (b (c (d))))",
    "(a, (b:1.1), c)",
    r"a \(b\) c",
    r"a \[b\] c",
    r"back\\slash",
    r"back\slash",
    r"end\\",
    "end\\",
    r"(a \(b:1.5\) c:1.2)",
    r"\((a)\)",
    "a:b:c",
    "time 12:30 (noon:1.2)",
    "[a:b]",
    "a, b, c",
    "one BREAK two",
    "one BREAK  two\nBREAK three",
    "BREAK",
    "BREAK one",
    "one BREAK",
    "BREAKFAST and OUTBREAK, break BREAK_ one",
    "(one) BREAK [two]",
    "one,BREAK,two",
    "a\nb\t(c\u00a0d:1.2)",
    "caf\u00e9 (\u65e5\u672c\u8a9e:1.3) \U0001f600",
    "(masterpiece, best quality:1.2), 1girl, [[blurry]], (smile:0.9)",
    "(a:1.21) ((b))",
    "(a:1) b",
    "a (b:1.0) c",
    "{a} <b> |c|",
    "(a:3.12) [b:c:d]",
    "(((((((((deep)))))))))",
    "]](( a )[",
    ":1.5) (a:1.5)",
    "(a::1.5)",
    "(a:1.5)) b",
    "- (a) -- [b] ---",
]


def read(prompt):
    """The pieces of a prompt without prompt editing, alternation, AND or networks: [text, weight], or "BREAK"."""
    # The signs of the text, each with its place, and brackets that found a partner of their kind, in the order in which they
    # close; then those that did not close, round ones first.
    signs, closed, opened = [], [], {"(": [], "[": []}
    at = 0
    while at < len(prompt):
        sign = prompt[at]
        if sign == "\\":
            if prompt[at + 1 : at + 2] and prompt[at + 1] in "()[]\\":
                signs.append((at, prompt[at + 1], True))
                at += 1
            at += 1
            continue
        number = re.match(r":\s*([+-]?[.0-9]+)\s*\)", prompt[at:])
        if number and opened["("]:
            closed.append((opened["("].pop(), at, float(number[1])))
            at += number.end()
            continue
        if number:
            signs += [(at + i, char, False) for i, char in enumerate(number[0])]
            at += number.end()
            continue
        if sign in opened:
            opened[sign].append(at)
        elif sign == ")" and opened["("]:
            closed.append((opened["("].pop(), at, 1.1))
        elif sign == "]" and opened["["]:
            closed.append((opened["["].pop(), at, 1 / 1.1))
        else:
            signs.append((at, sign, False))
        at += 1
    for bracket, by in (("(", 1.1), ("[", 1 / 1.1)):
        closed += [(start, len(prompt), by) for start in opened[bracket]]

    def weight(place):
        result = 1.0
        for start, end, by in closed:
            if start < place < end:
                result *= by
        return result

    pieces = []
    for place, sign, _ in signs:
        if pieces and pieces[-1][1] == weight(place):
            pieces[-1][0] += sign
        else:
            pieces.append([sign, weight(place)])
    # BREAK with the white space around it, in text that no escaped sign or bracket interrupts: those of the table have none.
    broken = []
    for text, by in pieces:
        for index, part in enumerate(re.split(r"\s*\bBREAK\b\s*", text)):
            broken += ["BREAK"] if index else []
            broken += [[part, by]] if part else []
    if broken and broken[0] != "BREAK":
        broken[0][0] = broken[0][0].lstrip()
    if broken and broken[-1] != "BREAK":
        broken[-1][0] = broken[-1][0].rstrip()
    return [piece for piece in broken if piece == "BREAK" or piece[0]]


def chunks(tokenizer, pieces):
    """Ids and weights of each chunk, 77 of each."""
    comma, end = tokenizer.get_vocab()[",</w>"], tokenizer.eos_token_id
    parts = [[]]
    for piece in pieces:
        if piece == "BREAK":
            parts.append([])
            continue
        ids = tokenizer(piece[0], add_special_tokens=False).input_ids if piece[0] else []
        parts[-1] += [(token, piece[1]) for token in ids]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    made = []
    for part in parts:
        start = 0
        while start < len(part) or start == 0:
            stop = min(start + 75, len(part))
            if stop < len(part) and part[stop][0] != comma:
                commas = [at for at in range(start, stop) if part[at][0] == comma]
                # The comma that a chunk begins with because the one before was full does not count.
                commas = [at for at in commas if at > start or start == 0 or part[start - 1][0] == comma]
                if commas and stop - commas[-1] <= 20:
                    stop = commas[-1] + 1
            made.append(part[start:stop])
            if stop >= len(part):
                break
            start = stop
    result = []
    for chunk in made:
        ids = [tokenizer.bos_token_id] + [token for token, _ in chunk] + [end]
        by = [1.0] + [weight for _, weight in chunk] + [1.0]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        result.append((ids, by + [1.0] * (77 - len(by))))
    return result


def empty(tokenizer):
    return chunks(tokenizer, [])[0]


@torch.no_grad()
def states(encoder, tokenizer, pieces, count, penultimate):
    """[1, 77·count, width] with weights, and the pooled state of the first chunk."""
    own = chunks(tokenizer, pieces)
    own += [empty(tokenizer)] * (count - len(own))
    parts, pooled = [], None
    for ids, by in own[:count]:
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
        z = (output.hidden_states[-2] if penultimate else output.last_hidden_state).double()
        if pooled is None and hasattr(output, "text_embeds"):
            pooled = output.text_embeds
        mean = z.mean()
        z = z * torch.tensor(by, dtype=torch.float64)[None, :, None]
        parts.append(z * (mean / z.mean()))
    return torch.cat(parts, dim=1), pooled


def encoder(name, cls):
    config = json.loads((TEXT / name / "config.json").read_text())
    model = cls(CLIPTextConfig(**config)).eval()
    model.load_state_dict({key: value.float() for key, value in load_file(TEXT / name / "model.safetensors").items()})
    return model


def tokenizers():
    made = []
    for name in ("first", "second"):
        folder = AREA / name
        write_tokenizer(folder, *tokenizer_configs(clip_vocabulary()[0])[name])
        made.append(CLIPTokenizer.from_pretrained(folder))
        shutil.rmtree(folder)
    return made


PHRASE = "the old harbour at dusk and the blue sky in the photo of the cat "
PROMPTS = [
    "a photo of the (cat:1.4), [blue] sky!",
    "the (old harbour:0.3) BREAK (((dusk))), red",
    # 86 tokens, with a comma where the first chunk ends sooner
    PHRASE * 4 + "the, (red:1.3) " + PHRASE + "and (the cat:0)",
]
# Of two chunks and no comma, and no weight.
LONG = PHRASE * 6


def write_states(first, second, one, two):
    made, counts = {}, []
    for index, prompt in enumerate(PROMPTS):
        pieces = read(prompt)
        counts.append(max(len(chunks(tokenizer, pieces)) for tokenizer in (one, two)))
        context, _ = states(first, one, pieces, counts[-1], False)
        made[f"sd.{index}"] = context
        left, _ = states(first, one, pieces, counts[-1], True)
        right, pooled = states(second, two, pieces, counts[-1], True)
        made[f"sdxl.{index}"] = torch.cat([left, right], dim=-1)
        made[f"pooled.{index}"] = pooled
    assert counts == [1, 2, 2], counts
    context, _ = states(first, one, [["a cat", 1.0]], 2, False)
    made["sd.filled"] = context
    # compel, where it means the same.
    provider = EmbeddingsProvider(
        tokenizer=one,
        text_encoder=first,
        truncate=False,
        returned_embeddings_type=ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
        split_long_text_mode=SplitLongTextMode.BRUTAL,
    )
    of_compel = provider.get_embeddings_for_weighted_prompt_fragments([[LONG]], [[1.0]])
    ours, _ = states(first, one, [[LONG, 1.0]], 2, False)
    assert of_compel.shape == ours.shape == (1, 154, 16), of_compel.shape
    assert (of_compel - ours).abs().max() < 1e-5
    made["sd.compel"] = of_compel
    # T5 as PixArt has it: words in small letters, no padding, and weights away from no text.
    area = FIXTURES / "t5"
    tokenizer = T5Tokenizer.from_pretrained(area / "json")
    config = T5Config(**json.loads((area / "pipelines/text_encoder_3/config.json").read_text()))
    model = T5EncoderModel(config).eval()
    weights = {key: value.float() for key, value in load_file(area / "pipelines/text_encoder_3/model.safetensors").items()}
    weights["encoder.embed_tokens.weight"] = weights.get("shared.weight", weights.get("encoder.embed_tokens.weight"))
    weights["shared.weight"] = weights["encoder.embed_tokens.weight"]
    model.load_state_dict(weights)
    ids, by = [], []
    for text, weight in read(PROMPTS[0]):
        own = tokenizer(text.lower(), add_special_tokens=False).input_ids
        ids, by = ids + own, by + [weight] * len(own)
    ids, by = ids + [tokenizer.eos_token_id], by + [1.0]
    nothing = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (len(ids) - 1)
    z, z0 = (model(torch.tensor([row])).last_hidden_state.double() for row in (ids, nothing))
    made["t5"] = (z - z0) * torch.tensor(by, dtype=torch.float64)[None, :, None] + z0
    save_file({key: value.float().contiguous() for key, value in made.items()}, AREA / "states.safetensors")
    write_json(AREA / "states.json", {"prompts": PROMPTS, "chunks": counts, "compel": LONG})


@torch.no_grad()
def write_inverted(first, second, one, two):
    """Files of embeddings in all forms, and the states of a plain prompt with them as diffusers has them."""
    generator = torch.Generator().manual_seed(31)
    vectors = lambda *shape: 0.5 * torch.randn(*shape, generator=generator)
    toy, ink = vectors(16), vectors(3, 16)
    save_file({"<cat-toy>": toy}, AREA / "learned_embeds.safetensors")
    save_file({"emb_params": ink}, AREA / "ink_3.safetensors")
    both = {"clip_l": vectors(2, 16), "clip_g": vectors(2, 24)}
    save_file(both, AREA / "sky-bird.safetensors")
    made = {}
    pipeline = StableDiffusionPipeline(
        vae=None, unet=None, scheduler=None, safety_checker=None, feature_extractor=None,
        text_encoder=first, tokenizer=one, requires_safety_checker=False,
    )
    pipeline.load_textual_inversion({"<cat-toy>": toy}, token="<cat-toy>")
    pipeline.load_textual_inversion({"ink_3": ink}, token="ink_3")
    # diffusers knows no words: what is not to be an embedding is spelt apart.
    prompt = "a photo of <cat-toy>, the ink_3 sky and <cat-toy>"
    context, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
    made["sd"] = context
    return_to = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=None, text_encoder=encoder("clip", CLIPTextModel), text_encoder_2=second,
        tokenizer=tokenizers()[0], tokenizer_2=two,
    )
    for key, model, tokenizer in (
        ("clip_l", return_to.text_encoder, return_to.tokenizer),
        ("clip_g", return_to.text_encoder_2, return_to.tokenizer_2),
    ):
        return_to.load_textual_inversion(both[key], token="sky-bird", text_encoder=model, tokenizer=tokenizer)
    of_xl = "a sky-bird in the red sky"
    context, _, pooled, _ = return_to.encode_prompt(of_xl, device="cpu", do_classifier_free_guidance=False)
    made["sdxl"], made["pooled"] = context, pooled
    save_file({key: value.float().contiguous() for key, value in made.items()}, AREA / "inverted.safetensors")
    write_json(AREA / "inverted.json", {"sd": prompt, "sdxl": of_xl})


JOB = "a photo of the (old harbour:1.3) at dusk, blue sky! BREAK [wet stone wall], (boats:1.5)"
AGAINST = "(red:1.4) roof"


class Weighted(Method):
    """The method with the job's prompt and its negative prompt in A1111's syntax, of two chunks; captions have none."""

    def pieces(self, text):
        if text in (OF_METHOD, AGAINST):
            return read(JOB if text == OF_METHOD else AGAINST)
        words = "".join(" " if piece == "BREAK" else piece[0] for piece in read(JOB))
        if text.startswith(words.rstrip("!,.; ")):
            raise AssertionError("a caption that begins with the prompt")
        return [[text, 1.0]]

    def condition(self, text):
        pieces, pipe = self.pieces(text), self.text
        left, _ = states(pipe.text_encoder, pipe.tokenizer, pieces, 2, True)
        right, pooled = states(pipe.text_encoder_2, pipe.tokenizer_2, pieces, 2, True)
        return torch.cat([left, right], dim=-1), pooled

    def negative(self, text):
        return self.condition(text)


def write_job():
    """One job with captions and guidance, of the size of the method's cases without padding."""
    image = (picture(HEIGHT, WIDTH, torch.Generator().manual_seed(7)).double() + 1) / 2
    image = (image * 65535).round() / 65535
    case = replace(ALL, guidance=2.0, negative=AGAINST)
    result, texts = Weighted().run(image, case)
    assert [region["caption"] for region in texts["regions"]] == CAPTIONS
    options = case.options()
    options[options.index("--prompt") + 1] = JOB
    write_json(AREA / "job.json", {"options": options + ["--prompt-syntax", "weighted"], "force_zeros": None})
    save_file({"weighted": result}, AREA / "job.safetensors")
    plain, _ = Method().run(image, case)
    assert (plain - result).abs().max() > 0.1


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    write_json(AREA / "table.json", [[prompt, read(prompt)] for prompt in TABLE])
    one, two = tokenizers()
    first = encoder("clip", CLIPTextModel)
    second = encoder("clip_with_projection_f16", CLIPTextModelWithProjection)
    write_states(first, second, one, two)
    write_inverted(first, second, one, two)
    write_job()


if __name__ == "__main__":
    main()
