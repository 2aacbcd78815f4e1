"""Makes the tokenizers of `models/mini`: CLIP's byte-level BPE (lower case, `</w>`), small.

Corpus: the captioner's words (heavily weighted, so that each is one token), a list of words that people use of
photographs, and the licence texts that every Debian system has, for plain English. Both folders get the same
vocabulary; they differ, as in SDXL, in the padding token.
"""
import argparse
import collections
import itertools
import json
import pathlib
import re

import attributes

PLAIN = """photo photograph picture image of a an the and with in on at by from to over under near behind between very more
sharp crisp detailed fine highly realistic natural texture textured close up wide angle landscape portrait macro street
sky cloud clouds sun sunset sunrise night day light lights shadow shadows dark bright fog mist rain snow ice storm sea ocean
lake river stream water waterfall wave waves beach sand stone stones rock rocks pebbles cliff mountain mountains hill hills
valley field meadow grass forest tree trees leaf leaves branch branches bark wood wooden flower flowers petal petals plant
plants garden moss mushroom fruit food bread wine glass bottle cup cups table chair room house houses building buildings
window windows door wall walls roof brick bricks tower bridge road path city town village castle church street car cars
train boat boats ship plane bicycle dog dogs cat cats bird birds horse horses cow sheep insect bee butterfly ladybird fish
feather feathers fur hair skin face faces eye eyes hand hands man woman child children people person crowd smile old young
red orange yellow green blue violet purple pink brown black white grey gray gold golden silver colourful colorful color
colour colours black-and-white soft smooth rough busy clean noisy blurred blurry focus background foreground bokeh
cloth fabric leather metal steel iron rust paint brush paper book letter letters sign text plastic marble concrete
reflection reflections symmetric pattern patterns stripes lines round square diagonal vertical horizontal high low contrast
autumn spring summer winter morning evening warm cold wet dry calm wild vintage modern cinematic dramatic 4k 8k hdr
strand strands hairs blades needles scales waves ripples cracks grain knots seeds dew drops droplets""".split()


def byte_symbols():
    """GPT-2's printable stand-in for every byte, in CLIP's order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in kept}
    for offset, b in enumerate(b for b in range(256) if b not in table):
        table[b] = chr(256 + offset)
    return table


def words_of(text):
    """CLIP's pre-tokenisation, for ASCII."""
    return re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())


def corpus():
    """Word counts."""
    counts = collections.Counter()
    spoken = [attributes.TEXTURES, attributes.LINES, attributes.COLOURS, [w for _, w in attributes.BRIGHTNESS]]
    text = pathlib.Path(attributes.__file__).read_text()
    spoken.append(re.findall(r'"([^"\n]*)"', text))
    for phrase in itertools.chain(*spoken):
        for word in words_of(phrase):
            counts[word] += 3000
    for word in PLAIN:
        for part in words_of(word):
            counts[part] += 200
    for path in sorted(pathlib.Path("/usr/share/common-licenses").glob("*")):
        if not path.is_symlink():
            counts.update(w for w in words_of(path.read_text(errors="ignore")) if len(w) < 16)
    return counts


def learn_merges(counts, symbols, number):
    """Plain BPE: joins the most frequent pair, ties broken by the pair itself."""
    words = []
    for word, count in counts.items():
        parts = [symbols[b] for b in word.encode()]
        parts[-1] += "</w>"
        words.append((parts, count))
    merges = []
    for _ in range(number):
        pairs = collections.Counter()
        for parts, count in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        if pairs[best] < 2:
            break
        merges.append(best)
        joined = best[0] + best[1]
        for parts, _ in words:
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = [joined]
                i += 1
    return merges


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="model folder; writes tokenizer and tokenizer_2")
    parser.add_argument("--vocab", type=int, default=1536)
    args = parser.parse_args()
    symbols = byte_symbols()
    merges = learn_merges(corpus(), symbols, args.vocab - 512 - 2)
    base = [symbols[b] for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    base += [s for b, s in symbols.items() if s not in set(base)]
    tokens = base + [s + "</w>" for s in base] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    tokens = list(dict.fromkeys(tokens))
    vocab = {t: i for i, t in enumerate(tokens)}
    for folder, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        out = args.out / folder
        out.mkdir(parents=True, exist_ok=True)
        (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n")
        (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        special = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad)
        (out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
        (out / "tokenizer_config.json").write_text(json.dumps(
            dict(tokenizer_class="CLIPTokenizer", model_max_length=77, do_lower_case=True, add_prefix_space=False,
                 clean_up_tokenization_spaces=True, errors="replace", **special), indent=2) + "\n")
    print(len(vocab), "tokens,", len(merges), "merges")


if __name__ == "__main__":
    main()
