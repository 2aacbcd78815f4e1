"""Makes tests/fixtures/gguf: a GGUF file by the `gguf` package of llama.cpp with a tensor of every
type that weights come in, and what that package makes of them.

    python tests/make_fixtures/make_gguf_fixtures.py

`types.gguf` holds `tensor.<TYPE>`, `[3, 512]`, an f32 tensor of four dimensions, metadata of every
kind, and an alignment of its own; `types.safetensors` the tensors' values in f32.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures/gguf"
ROWS, COLUMNS = 3, 512
PLAIN = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# The package does not quantize to these: any bytes are blocks, if their f16 scales (at these
# bytes) are sensible numbers.
BLOCKS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def blocks(kind, scales, rng):
    _, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (ROWS, COLUMNS // 256, size), dtype=np.uint8)
    for at in scales:
        values = rng.uniform(0.001, 0.01, data.shape[:2]).astype(np.float16)
        data[..., at : at + 2] = values[..., None].view(np.uint8)
    return data.reshape(ROWS, -1)


def main():
    FIXTURES.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    writer = GGUFWriter(FIXTURES / "types.gguf", "test")
    writer.add_custom_alignment(64)
    writer.add_uint8("kinds.u8", 200)
    writer.add_int8("kinds.i8", -100)
    writer.add_uint16("kinds.u16", 60000)
    writer.add_int16("kinds.i16", -30000)
    writer.add_int32("kinds.i32", -2000000000)
    writer.add_uint64("kinds.u64", 2**63)
    writer.add_int64("kinds.i64", -(2**62))
    writer.add_float32("kinds.f32", 0.5)
    writer.add_float64("kinds.f64", 0.1)
    writer.add_bool("kinds.bool", True)
    writer.add_string("kinds.string", "Grüße")
    writer.add_array("kinds.short", [320, 4, 3, 3])
    writer.add_array("kinds.strings", ["a", "", "é"])
    writer.add_array("kinds.long", list(range(1000)))
    writer.add_array("kinds.long_strings", [str(number) for number in range(1000)])

    expected = {}
    for name in PLAIN:
        values = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
        data = quantize(values, Type[name])
        expected[f"tensor.{name}"] = dequantize(data, Type[name]).astype(np.float32)
        writer.add_tensor(f"tensor.{name}", data, raw_dtype=Type[name])
    for name, scales in BLOCKS.items():
        data = blocks(Type[name], scales, rng)
        expected[f"tensor.{name}"] = dequantize(data, Type[name]).astype(np.float32)
        writer.add_tensor(f"tensor.{name}", data, raw_dtype=Type[name])
    conv = rng.standard_normal((5, 4, 3, 2)).astype(np.float32)
    expected["conv"] = conv
    writer.add_tensor("conv", conv)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, FIXTURES / "types.safetensors")


if __name__ == "__main__":
    main()
