"""Makes tests/fixtures/ops: single operations as torch computes them, for tests/parity/ops.rs.

Everything is computed in f64 and stored in f32, channels-last on our side.

    python tests/make_fixtures/make_ops_fixtures.py
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "ops"

# name: input, output, kernel, stride, padding, height, width, batch
CONVS = {
    "3x3": (5, 7, 3, 1, 1, 9, 6, 2),
    "3x3_wide": (33, 40, 3, 1, 1, 5, 19, 1),
    "3x3_stride_2": (6, 5, 3, 2, 1, 8, 10, 2),
    "3x3_stride_2_odd": (6, 5, 3, 2, 1, 7, 9, 1),
    "3x3_stride_2_unpadded": (4, 3, 3, 2, 0, 9, 11, 1),
    "1x1": (19, 8, 1, 1, 0, 5, 7, 2),
    "1x1_stride_2": (4, 6, 1, 2, 0, 7, 6, 1),
    "5x5": (3, 4, 5, 1, 2, 6, 7, 1),
    "3x3_one_pixel": (4, 4, 3, 1, 1, 1, 1, 1),
    "3x3_one_row": (4, 4, 3, 1, 1, 1, 9, 1),
}
# name: queries, keys, heads, width, batch, causal
ATTENTIONS = {
    "self": (35, 35, 3, 24, 2, False),
    "cross": (50, 7, 2, 32, 2, False),
    "causal": (13, 13, 4, 32, 2, True),
    "one_head": (5, 9, 1, 20, 1, False),
    "long": (300, 129, 2, 16, 1, False),
}


def last(x):
    return x.permute(0, 2, 3, 1)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    OUT.mkdir(parents=True, exist_ok=True)
    t, meta = {}, {}

    for name, (cin, cout, kernel, stride, padding, h, w, batch) in CONVS.items():
        x, weight, bias = normal(batch, cin, h, w), normal(cout, cin, kernel, kernel), normal(cout)
        t[f"conv.{name}.x"], t[f"conv.{name}.weight"], t[f"conv.{name}.bias"] = last(x), weight, bias
        t[f"conv.{name}.y"] = last(F.conv2d(x, weight, bias, stride=stride, padding=padding))
        t[f"conv.{name}.y_no_bias"] = last(F.conv2d(x, weight, stride=stride, padding=padding))
        meta[f"conv.{name}"] = dict(stride=stride, padding=padding)

    # A mean far from zero shows a variance taken as E[x^2] - E[x]^2 in single precision.
    for name, (groups, channels, offset, eps) in {
        "plain": (4, 12, 0.0, 1e-5), "offset": (8, 16, 300.0, 1e-6), "one_group": (1, 6, 1.0, 1e-5),
        "each": (5, 5, 0.0, 1e-5),
    }.items():
        x, weight, bias = normal(2, channels, 5, 7) + offset, normal(channels), normal(channels)
        x = x.float().double()
        y = F.group_norm(x, groups, weight, bias, eps)
        t[f"group_norm.{name}.x"] = last(x)
        t[f"group_norm.{name}.weight"], t[f"group_norm.{name}.bias"] = weight, bias
        t[f"group_norm.{name}.y"], t[f"group_norm.{name}.y_silu"] = last(y), last(F.silu(y))
        meta[f"group_norm.{name}"] = dict(groups=groups, eps=eps)

    x, weight, bias = (normal(2, 9, 21) * 3 + 50).float().double(), normal(21), normal(21)
    t["layer_norm.x"], t["layer_norm.weight"], t["layer_norm.bias"] = x, weight, bias
    t["layer_norm.y"] = F.layer_norm(x, (21,), weight, bias, 1e-5)

    for name, (queries, keys, heads, width, batch, causal) in ATTENTIONS.items():
        q, k, v = normal(batch, queries, width), normal(batch, keys, width), normal(batch, keys, width)
        q = q * 2
        split = lambda x: x.reshape(batch, -1, heads, width // heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal)
        t[f"attention.{name}.q"], t[f"attention.{name}.k"], t[f"attention.{name}.v"] = q, k, v
        t[f"attention.{name}.y"] = y.transpose(1, 2).reshape(batch, queries, width)
        meta[f"attention.{name}"] = dict(heads=heads, causal=causal)

    x = normal(2, 11, 26) * 3
    t["pointwise.x"] = x
    t["pointwise.silu"], t["pointwise.gelu"] = F.silu(x), F.gelu(x)
    t["pointwise.quick_gelu"] = x * torch.sigmoid(1.702 * x)
    value, gate = x.chunk(2, dim=-1)
    t["pointwise.geglu"] = value * F.gelu(gate)

    x, weight, bias = normal(2, 3, 7, 19), normal(13, 19), normal(13)
    t["linear.x"], t["linear.weight"], t["linear.bias"] = x, weight, bias
    t["linear.y"], t["linear.y_no_bias"] = F.linear(x, weight, bias), F.linear(x, weight)

    x = normal(2, 3, 5, 7)
    t["upsample.x"] = last(x)
    t["upsample.y"] = last(F.interpolate(x, scale_factor=2, mode="nearest"))

    x = normal(1, 3, 9, 13)
    t["crop_resize.x"] = last(x)
    crops = [
        [0.0, 0.0, 1.0, 1.0, 9, 13], [0.0, 0.0, 1.0, 1.0, 4, 20], [0.25, 0.5, 0.5, 0.5, 8, 8],
        [0.7, 0.6, 0.3, 0.4, 5, 3], [0.1, 0.2, 0.05, 0.04, 6, 6], [0.5, 0.0, 0.5, 0.1, 1, 1],
    ]
    for index, (top, left, tall, wide, height, width) in enumerate(crops):
        y = top + tall * (torch.arange(height, dtype=torch.float64) + 0.5) / height
        z = left + wide * (torch.arange(width, dtype=torch.float64) + 0.5) / width
        yy, xx = torch.meshgrid(2 * y - 1, 2 * z - 1, indexing="ij")
        t[f"crop_resize.{index}"] = last(F.grid_sample(
            x, torch.stack([xx, yy], dim=-1).unsqueeze(0),
            mode="bilinear", padding_mode="border", align_corners=False))
    meta["crop_resize"] = crops

    # What diffusion transformers add: drawn last, so that the numbers above stay as they were.
    t["pointwise.gelu_tanh"] = F.gelu(t["pointwise.x"], approximate="tanh")
    x, y = normal(3, 10, 37) * 2 + 1, normal(3, 10, 37)
    scale, shift, gate = normal(3, 37), normal(3, 37), normal(3, 37)
    t["modulated.x"], t["modulated.y"] = x, y
    t["modulated.scale"], t["modulated.shift"], t["modulated.gate"] = scale, shift, gate
    t["modulated.norm"] = F.layer_norm(x, (37,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    t["modulated.gated"] = x + gate[:, None] * y

    save_file({name: x.float().contiguous() for name, x in t.items()}, OUT / "ops.safetensors")
    (OUT / "ops.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main()
