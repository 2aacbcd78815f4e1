"""Seeds of the fuzz targets, in `corpus/`: fixtures of the tests that are small, and what is built here in a few bytes.

    python3 fuzz/make_corpus.py
"""

import base64
import json
import struct
import zlib
from pathlib import Path

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "tests/fixtures"
MODELS = HERE.parent / "models"
LARGEST = 3072


def seed(target, name, data):
    if isinstance(data, str):
        data = data.encode()
    assert len(data) <= LARGEST, (target, name, len(data))
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def fixtures(pattern):
    found = (path for path in sorted(FIXTURES.glob(pattern)) if path.stat().st_size <= LARGEST)
    return [(str(path.relative_to(FIXTURES)).replace("/", "_"), path.read_bytes()) for path in found]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(order, entries, big=False):
    """A classic or big directory of (tag, kind, count, 4 or 8 bytes of value)."""
    head = {"<": b"II", ">": b"MM"}[order]
    if big:
        body = head + struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(entries))
        body += b"".join(struct.pack(order + "HHQ", *entry[:3]) + entry[3] for entry in entries)
        return body + bytes(8)
    body = head + struct.pack(order + "HIH", 42, 8, len(entries))
    body += b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return body + bytes(4)


def profile(space, tags):
    """An ICC profile of a screen with these tags (name, contents)."""
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags:
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = at + len(data)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04300000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def profiles():
    fixed = lambda *values: struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
    xyz = lambda *values: b"XYZ \0\0\0\0" + fixed(*values)
    para = lambda kind, *values: b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*values)
    curv = lambda *values: b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)
    white = (b"wtpt", xyz(0.9642, 1, 0.8249))
    colorants = [(b"rXYZ", xyz(0.436, 0.222, 0.014)), (b"gXYZ", xyz(0.385, 0.717, 0.097)), (b"bXYZ", xyz(0.143, 0.061, 0.714))]
    srgb = para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

    def curves(*three):
        return list(zip([b"rTRC", b"gTRC", b"bTRC"], three))

    def lut8(inputs, grid):
        body = b"mft1\0\0\0\0" + bytes([inputs, 3, grid, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        cells = bytes(cell * 255 // (grid**inputs - 1) for cell in range(grid**inputs) for _ in range(3))
        return body + bytes(range(256)) * inputs + cells + bytes(range(256)) * 3

    def lut16(inputs, grid):
        body = b"mft2\0\0\0\0" + bytes([inputs, 3, grid, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
        cells = b"".join(struct.pack(">HHH", *[cell * 65535 // (grid**inputs - 1)] * 3) for cell in range(grid**inputs))
        return body + struct.pack(">HH", 0, 65535) * inputs + cells + struct.pack(">HH", 0, 65535) * 3

    def tables(kind, grid):
        """`mAB ` or `mBA `: curves of 32 bytes each, a matrix, and a table of three dimensions."""
        three = para(0, 1) * 3
        matrix = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
        cells = bytes([grid] * 3 + [0] * 13 + [1, 0, 0, 0]) + bytes(range(0, 3 * grid**3))
        at = [32, 32 + len(three), 32 + len(three) + len(matrix), 32 + 2 * len(three) + len(matrix)]
        offsets = struct.pack(">5I", at[0], at[1], at[2], at[3], at[3] + len(cells) + -len(cells) % 4)
        return kind + bytes(4) + bytes([3, 3, 0, 0]) + offsets + three + matrix + three + cells + bytes(-len(cells) % 4) + three

    seeds = {
        "grey": (0, b"GRAY", [white, (b"kTRC", curv(0x0233))]),
        "grey_table": (0, b"GRAY", [white, (b"kTRC", curv(0, 9000, 30000, 65535))]),
        "srgb": (1, b"RGB ", [white, *colorants, *curves(srgb, srgb, srgb)]),
        "gammas": (1, b"RGB ", [white, *colorants, *curves(para(0, 1.8), para(1, 2.2, 0.9, 0.1), para(2, 2.2, 0.9, 0.1, 0.02))]),
        "curves": (1, b"RGB ", [white, *colorants, *curves(para(4, 2.4, 0.9, 0.1, 0.08, 0.04, 0.01, 0.02), curv(), curv(0, 100, 65535))]),
        "rgb_on_grey": (0, b"RGB ", [white, *colorants, *curves(srgb, srgb, srgb)]),
        "tables": (1, b"RGB ", [white, (b"A2B0", tables(b"mAB ", 2)), (b"B2A0", tables(b"mBA ", 2))]),
        "words": (1, b"RGB ", [white, (b"A2B0", lut16(3, 2)), (b"B2A0", lut16(3, 2))]),
        "inks": (2, b"CMYK", [white, (b"A2B0", lut16(4, 2))]),
        "inks8": (2, b"CMYK", [white, (b"A2B0", lut8(4, 2))]),
    }
    for name, (kind, space, tags) in seeds.items():
        seed("profile", name, bytes([kind]) + profile(space, tags))


def pictures():
    kinds = {"png": "png", "jpg": "jpeg", "tif": "tiff", "webp": "webp"}
    only_read = {name: "rasters" for name in ["bmp", "tga", "qoi", "ico", "dds", "gif"]}
    only_read |= {"psd": "psd", "psb": "psd", "jp2": "jpeg2000", "j2k": "jpeg2000", "jxl": "jpeg_xl", "heic": "heic", "avif": "avif"}
    for ending, target in (kinds | only_read).items():
        folders = ["image", "image/kinds", "image/inputs"]
        for name, data in [found for folder in folders for found in fixtures(f"{folder}/*.{ending}")]:
            if "orientation" in name and "orientation6" not in name:
                continue
            seed(target, name, data)
            if target in ["jpeg2000", "jpeg_xl"]:
                seed("metadata", name, data)
    kinds = {"ppm": "netpbm", "pgm": "netpbm", "pbm": "netpbm", "pam": "netpbm", "ff": "farbfeld", "exr": "exr", "hdr": "rasters"}
    for ending, target in kinds.items():
        for name, data in fixtures(f"image/light/*.{ending}"):
            seed(target, name, data)
    seed("farbfeld", "two-by-two", b"farbfeld" + struct.pack(">II16H", 2, 2, *range(0, 65536, 4096)))
    # Lossless, 2 x 2, by hand: one Huffman code of one symbol for every channel.
    lossless = bytes.fromhex("2f01400000070000000000")
    body = b"VP8L" + struct.pack("<I", len(lossless)) + lossless + b"\0"
    seed("webp", "lossless.webp", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)

    block = exif("<", [(274, 3, 1, b"\6\0\0\0"), (282, 5, 1, struct.pack("<I", 62))]) + bytes(24)
    packet = XMP % "tiff:Orientation=\"6\""
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
    png += chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))
    png += chunk(b"eXIf", block)
    png += chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet.encode()))
    png += chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a wall")) + chunk(b"tEXt", b"Title\0a door")
    png += chunk(b"iTXt", b"cupscale\0\0\0\0\0{}") + chunk(b"cICP", bytes([9, 16, 0, 1]))
    png += chunk(b"IDAT", zlib.compress(bytes(14))) + chunk(b"IEND", b"")
    seed("metadata", "all.png", png)
    seed("png", "metadata.png", png)

    def segment(marker, data):
        return struct.pack(">BBH", 255, marker, len(data) + 2) + data

    jpeg = dict(fixtures("image/grey.jpg"))["image_grey.jpg"]
    extra = segment(0xE1, b"Exif\0\0" + block)
    extra += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet.encode())
    extra += segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(8)) + segment(0xFE, b"a comment")
    records = b"".join(b"\x1c\2" + struct.pack(">BH", number, len(text)) + text for number, text in
                       [(5, b"title"), (25, b"key"), (55, b"20240517"), (60, b"102030+0200")])
    resources = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(records)) + records + bytes(len(records) % 2)
    extra += segment(0xED, b"Photoshop 3.0\0" + resources)
    seed("photoshop", "resources", resources)
    seed("photoshop", "records", records)
    seed("metadata", "all.jpg", jpeg[:2] + extra + jpeg[2:])
    body = b"VP8X" + struct.pack("<I", 10) + bytes([0x0C]) + bytes(9)
    body += b"VP8L" + struct.pack("<I", len(lossless)) + lossless + b"\0"
    body += b"EXIF" + struct.pack("<I", len(block)) + block
    body += b"XMP " + struct.pack("<I", len(packet)) + packet.encode() + bytes(len(packet) % 2)
    webp = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    seed("metadata", "all.webp", webp)
    seed("webp", "metadata.webp", webp)
    seed("metadata", "rgb16.tif", dict(fixtures("image/rgb16.tif"))["image_rgb16.tif"])

    seed("exif", "little", block)
    seed("exif", "big_endian", exif(">", [(274, 3, 1, b"\0\3\0\0"), (34665, 4, 1, struct.pack(">I", 26))]) * 2)
    seed("exif", "bigtiff", exif("<", [(274, 3, 1, b"\5" + bytes(7))], big=True))
    seed("xmp", "packet", packet)
    seed("xmp", "extended", XMP % "xmpNote:HasExtendedXMP=\"0123456789ABCDEF0123456789ABCDEF\"" + "\0" + XMP % "a=\"b\"")
    own = "cupscale:settings=\"{&quot;seed&quot;: 1}\" xmlns:GContainer=\"http://ns.google.com/photos/1.0/container/\" GContainer:Directory=\"x\""
    seed("xmp", "own", XMP % own)


XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
    'xmlns:cupscale="http://ns.cupscale/1.0/" %s><tiff:ImageWidth>4</tiff:ImageWidth></rdf:Description>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(entries, tensors):
    """Entries are (key, kind, bytes); tensors are (name, dimensions), F32 of zeros."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    for key, kind, value in entries:
        out += string(key) + struct.pack("<I", kind) + value
    at = 0
    for name, dimensions in tensors:
        out += string(name) + struct.pack("<I", len(dimensions))
        out += b"".join(struct.pack("<Q", size) for size in dimensions) + struct.pack("<IQ", 0, at)
        count = 4
        for size in dimensions:
            count *= size
        at += -(-count // 32) * 32
    return out + bytes(-len(out) % 32) + bytes(at)


def weights():
    for name, data in fixtures("**/*.safetensors")[:4]:
        seed("safetensors", name, data)
        length = struct.unpack("<Q", data[:8])[0]
        seed("safetensors", name + ".headless", data[8 : 8 + length])
    seed("safetensors", "small", '{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}\0\0\0\0')

    comfy = struct.pack("<IQ", 5, 2) + struct.pack("<ii", 2, 3)
    seed("gguf", "comfy", gguf([("comfy.gguf.orig_shape.a.weight", 9, comfy)], [("a.weight", [6])]))
    u32 = lambda value: struct.pack("<I", value)
    array = lambda kind, values: struct.pack("<IQ", kind, len(values)) + b"".join(values)
    pieces = ["<unk>", "<s>", "</s>", "<image>", "a", "b", "ab"]
    entries = [
        ("general.architecture", 8, string("llama")),
        ("general.alignment", 4, u32(32)),
        ("llama.block_count", 4, u32(1)),
        ("llama.context_length", 4, u32(64)),
        ("llama.embedding_length", 4, u32(4)),
        ("llama.feed_forward_length", 4, u32(4)),
        ("llama.attention.head_count", 4, u32(1)),
        ("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        ("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        ("llama.rope.dimension_count", 4, u32(4)),
        ("tokenizer.ggml.model", 8, string("llama")),
        ("tokenizer.ggml.tokens", 9, array(8, [string(piece) for piece in pieces])),
        ("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", -i) for i in range(7)])),
        ("tokenizer.ggml.token_type", 9, array(5, [u32(kind) for kind in [2, 3, 3, 3, 1, 1, 1]])),
        ("tokenizer.ggml.bos_token_id", 4, u32(1)),
        ("clip.vision.image_size", 4, u32(8)),
        ("clip.vision.patch_size", 4, u32(4)),
        ("clip.vision.embedding_length", 4, u32(4)),
        ("clip.vision.feed_forward_length", 4, u32(4)),
        ("clip.vision.attention.head_count", 4, u32(1)),
        ("clip.vision.block_count", 4, u32(1)),
    ]
    pieces = ["a", "b", "ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[PAD6]"]
    qwen = [
        ("general.architecture", 8, string("qwen3")),
        ("qwen3.block_count", 4, u32(2)),
        ("qwen3.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-6)),
        ("qwen3.rope.freq_base", 6, struct.pack("<f", 1e6)),
        ("tokenizer.ggml.model", 8, string("gpt2")),
        ("tokenizer.ggml.pre", 8, string("qwen2")),
        ("tokenizer.ggml.tokens", 9, array(8, [string(piece) for piece in pieces])),
        ("tokenizer.ggml.token_type", 9, array(5, [u32(kind) for kind in [1, 1, 1, 3, 3, 3, 5]])),
        ("tokenizer.ggml.merges", 9, array(8, [string("a b")])),
    ]
    seed("gguf", "qwen3", gguf(qwen, [("token_embd.weight", [4, 7])]))
    seed("gguf", "llama", gguf(entries, [("token_embd.weight", [4, 7]), ("v.blk.0.ln1.weight", [4])]))
    for path in sorted((FIXTURES / "enlarger" / "ncnn").glob("*.param")):
        # The numbers are too long for a seed; the text is what is read.
        seed("ncnn", path.stem, path.read_bytes()[: LARGEST - 1] + b"\0")

    block = "down_blocks_1_attentions_0_transformer_blocks_0"
    dotted = block.replace("down_blocks_1_attentions_0_transformer_blocks_0", "down_blocks.1.attentions.0.transformer_blocks.0")
    kohya = f"lora_unet_{block}_attn1_to_q"
    seed("lora", "kohya", f"\n{kohya}.lora_down.weight\n{kohya}.lora_up.weight\n{kohya}.alpha\n{kohya}.lora_mid.weight")
    peft = f"base_model.model.{dotted}.attn2.to_k"
    config = json.dumps({"unet.lora_alpha": 4, "unet.r": 2, "unet.alpha_pattern": {"attn1.to_q": 8}, "unet.use_rslora": True})
    seed("lora", "peft", f"{config}\n{peft}.lora_A.weight\n{peft}.lora_B.weight\nx.hada_w1_a")
    old = f"unet.{dotted}.attn1.processor.to_q_lora"
    seed("lora", "diffusers", f"null\n{old}.down.weight\n{old}.up.weight\nte.encoder.layers.0.self_attn.to_q_lora.up.weight")
    kinds = {
        "loha": "hada_w1_a hada_w1_b hada_w2_a hada_w2_b alpha scalar",
        "lokr": "lokr_w1 lokr_w2 dora_scale",
        "dora": "lora_down.weight lora_up.weight dora_scale",
        "oft": "oft_blocks rescale alpha",
        "glora": "a1.weight a2.weight b1.weight b2.weight",
        "ia3": "weight=8 on_input",
        "difference": "diff diff_b",
    }
    for kind, ends in kinds.items():
        seed("lora", kind, "\n" + "\n".join(f"{kohya}.{end}" for end in ends.split()).replace("=", " "))
    seed("lora", "boft", f"\n{kohya}.oft_blocks 2x4x2x2")
    oft = json.dumps({"peft_type": "OFT", "use_cayley_neumann": True, "peft_version": "0.18.0"})
    seed("lora", "peft_oft", f"{oft}\n{peft}.oft_R.weight")
    seed("lora", "open_clip", "\nlora_te_transformer_resblocks_0_attn_in_proj.hada_w1_a 18x2\n"
         "lora_te_transformer_resblocks_0_attn_in_proj.hada_w1_b 2x6\n"
         "lora_te_transformer_resblocks_0_attn_in_proj.hada_w2_a 18x2\n"
         "lora_te_transformer_resblocks_0_attn_in_proj.hada_w2_b 2x6")
    te = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    seed("lora", "text", f"\n{te}.lora_down.weight\n{te}.lora_up.weight")


def charsmap_of_one():
    """SentencePiece's table in which `a` becomes `b`, as a double array of 256 units."""
    units = [0] * 256
    own, value = ord("a"), ord("b")
    units[own] = own | 1 << 8 | (own ^ value) << 10
    units[value] = 1 << 31
    return struct.pack("<I256I", 1024, *units) + b"b\0"


def spiece(vocabulary, charsmap):
    """A model of SentencePiece with these pieces and scores."""
    def field(number, content):
        length = len(content)
        size = bytes([length & 127 | 128, length >> 7]) if length > 127 else bytes([length])
        return bytes([number << 3 | 2]) + size + content

    pieces = [field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score)) for piece, score in vocabulary]
    return b"".join(pieces) + field(2, b"\xc0\x02\x02") + field(3, field(2, charsmap))


def tokenizers():
    folder = FIXTURES / "text/tokenizer_first"
    parts = [(folder / name).read_text() for name in ["tokenizer_config.json", "special_tokens_map.json"]]
    vocabulary = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    table = {piece: index for index, piece in enumerate(vocabulary)}
    model = {"type": "BPE", "vocab": table, "merges": ["a b</w>"]}
    text = "ab a b <|endoftext|> 1"
    seed("clip_tokenizer", "files", "\n---\n".join(parts + [json.dumps(table), "#version: 0.2\na b</w>\n", text]))
    seed("clip_tokenizer", "json", "\n---\n".join(["{}", "", json.dumps({"model": model, "added_tokens": []}), text]))
    vocabulary = ["a", "b", "ab", "\u0120", "1", "<|endoftext|>"]
    table = {piece: index for index, piece in enumerate(vocabulary)}
    config = json.dumps({"eos_token": "<|endoftext|>", "chat_template": "<|im_start|>"})
    model = {"type": "BPE", "vocab": table, "merges": [["a", "b"]]}
    seed("qwen_tokenizer", "files", "\n---\n".join([config, json.dumps(table), "#version: 0.2\na b\n", "ab  a1\n b"]))
    added = [{"id": 6, "content": "<|im_end|>", "special": True}]
    seed("qwen_tokenizer", "json", "\n---\n".join(["{}", json.dumps({"model": model, "added_tokens": added}), "a <|im_end|>b"]))
    unigram = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0], ["\u2581a", -2.5], ["b", -3.0], ["a", -3.0]]
    charsmap = base64.b64encode(charsmap_of_one()).decode()
    whole = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
             "model": {"type": "Unigram", "unk_id": 2, "vocab": unigram, "byte_fallback": False}}
    config = json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 2})
    seed("t5_tokenizer", "json", f"{config}\n---\n{json.dumps(whole)}\n---\nab \ufb01 <extra_id_1>")
    seed("t5_tokenizer", "spiece", config.encode() + b"\n---\n" + spiece(unigram, charsmap_of_one()) + b"\n---\nab \xc3\xa9")
    pieces = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", "<image>", "a", "b", "ab", "\u2581"])}
    special = [{"id": pieces[name], "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for name in ["<unk>", "<s>", "</s>", "<image>"]]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    tokenizer = {"version": "1.0", "added_tokens": special, "normalizer": replace, "pre_tokenizer": None,
                 "post_processor": post, "decoder": {"type": "Fuse"},
                 "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                           "vocab": pieces, "merges": [["a", "b"]]}}
    seed("llava_tokenizer", "bpe", json.dumps(tokenizer))
    tokenizer["model"] = {"type": "WordLevel", "vocab": pieces, "unk_token": "<unk>"}
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    tokenizer["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    seed("llava_tokenizer", "words", json.dumps(tokenizer))


def configs():
    for name, data in fixtures("**/unet/config.json") + fixtures("unet/**/config.json"):
        seed("unet_config", name, data)
    seed("unet_config", "mini", (MODELS / "mini/unet/config.json").read_bytes())
    for name in ("plain", "union"):
        whole = json.loads((FIXTURES / "control_method" / f"{name}.json").read_bytes())
        seed("control_config", f"control_method_{name}.json", json.dumps(whole["config"]))
    for name, data in fixtures("**/transformer/config.json") + fixtures("pixart/*.json"):
        whole = json.loads(data)
        seed("pixart_config", name, json.dumps(whole.get("config", whole)).encode())
    for name, data in fixtures("sd3/model/transformer/config.json"):
        seed("sd3_config", name, data)
    for name, data in fixtures("z_image/model/transformer/config.json"):
        seed("z_image_config", name, data)
    for name, data in fixtures("flux2/transformer/config.json"):
        seed("flux2_config", name, data)
    for name, data in fixtures("z_image/model/text_encoder/config.json"):
        seed("qwen3_config", name, data)
    for name, data in fixtures("vae*/**/config.json"):
        seed("vae_config", name, data)
    for name, data in fixtures("**/text_encoder*/config.json") + fixtures("text/clip*/config.json") + fixtures("t5/*/config.json"):
        seed("text_config", name, data)
    for name, data in fixtures("llava/*/config.json"):
        seed("llava_config", name, data + b"\n---\n{\"eos_token_id\": [2]}")
    for name, data in fixtures("**/scheduler_config.json"):
        seed("scheduler_config", name, data)
    seed("scheduler_config", "mini", (MODELS / "mini/scheduler/scheduler_config.json").read_bytes())
    for name, fields in {
        "dpm": {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2, "use_karras_sigmas": True},
        "lcm": {"_class_name": "LCMScheduler", "original_inference_steps": 50, "rescale_betas_zero_snr": True},
        "ddim": {"_class_name": "DDIMScheduler", "clip_sample": True, "thresholding": True, "set_alpha_to_one": False},
        "betas": {"_class_name": "EulerDiscreteScheduler", "trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
        "flow": {
            "_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "base_shift": 0.5,
            "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "time_shift_type": "linear",
        },
        "sd3": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "shift_terminal": 0.1, "use_beta_sigmas": True},
    }.items():
        seed("scheduler_config", name, json.dumps(fields))


def texts():
    for name, data in fixtures("method/captions*.json"):
        seed("captions", name, data)
    grid = {"rows": 1, "cols": 1, "region": 8, "overlap": 0, "width": 8, "height": 8}
    region = {"row": 0, "col": 0, "x": 0, "y": 0, "width": 8, "height": 8, "caption": "a door"}
    seed("captions", "one", json.dumps({"version": 1, "grid": grid, "captioner": "file", "model": "m", "regions": [region]}))

    words = "a (((house:1.3)) [on] a (hill:0.5) BREAK sun, (((sky))), <lora:wash:0.8> \\(b\\) [c:d] e\n---\na (red) roof"
    seed("prompt", "all", words)
    seed("prompt", "editing", "a [cat:dog:0.5] AND [a|b]\n---\n")

    records = ['{"encoded":{"tiles":4}}', '"low_resolution"']
    for step in range(1, 4):
        records += ['{"predicted":{"regions":5}}', '{"stepped":{"steps":%d}}' % step]
    records += ['{"decoded":{"rows":%d}}' % rows for rows in [32, 64]]
    seed("journal", "records", "".join(f" {record}\n" for record in records))
    line = lambda record: "%08x %s\n" % (zlib.crc32(record.encode()), record)
    seed("journal", "lines", "".join(map(line, records[:3])) + "1234")
    seed("journal", "middle", " " + "\n ".join(records[:4]) + "\n")

    seed("hub_names", "paths", "model-*-of-*.safetensors\nmodel-00001-of-00002.safetensors\nunet/config.json\n*/config.json\n../x\nC:\\x")
    seed("hub_names", "addresses", "https://Hub.example:443/a/b?c=d#e\nhttp://[::1]:8080\n/api/x\n//cdn.example/x\n?a=http://b\nhttps://user@hub.example/\nhttp://localhost")
    seed("hub_names", "names", "owner/name\n" + "0123456789abcdef" * 4 + "\n" + "0123456789" * 4)
    files = [{"rfilename": "unet/config.json", "size": 12}, {"rfilename": "a.safetensors", "lfs": {"sha256": "ab" * 32, "size": 5}}]
    seed("hub_answer", "revision", json.dumps({"sha": "0123456789" * 4, "siblings": files, "private": False}))
    seed("hub_answer", "range", "bytes 5-9/10")

    def frame(header, payload=b""):
        header = json.dumps(header).encode()
        return struct.pack("<IQ", len(header), len(payload)) + header + payload

    settings = {"scale": 2, "prompt": "a door", "timesteps": [800, 400], "no-caption-cache": True, "eta": None}
    asked = {"type": "upscale", "id": 1, "settings": settings, "input": {"pix": "rgb24", "width": 2, "height": 1},
             "output": {"format": "jpeg", "quality": 90}, "preview": True}
    others = [{"type": "plan", "id": "p", "input": {"width": 4, "height": 3, "alpha": True}}, {"type": "cancel", "id": 1},
              {"type": "ping"}, {"type": "shutdown"}]
    seed("pipe", "upscale", frame(asked, b"pixels") + frame({"type": "upscale", "id": "x", "output": {"pix": "rgba"}}))
    seed("pipe", "others", b"".join(map(frame, others)))

    load = {"load": {"folder": "m", "quantize": "q8_0", "cpu": True, "max_new_tokens": 96, "try_together": False}}
    describe = {"describe": {"id": 7, "instruction": "Say", "width": 2, "height": 1}}
    seed("worker", "requests", json.dumps(load) + "\n" + json.dumps(describe) + "\n\0\1\2\3\4\5")
    replies = [{"ready": {"together": True, "note": None}}, "trying_together", {"text": {"id": 7, "text": "a wall", "ended": True}},
               {"failed": {"id": 8, "reason": "no"}}, {"refused": "no"}]
    seed("worker", "replies", "loading\n" + "".join(f"\n@cupscale {json.dumps(reply)}\n" for reply in replies))


pictures()
profiles()
weights()
tokenizers()
configs()
texts()
files = [path for path in (HERE / "corpus").rglob("*") if path.is_file()]
print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")
