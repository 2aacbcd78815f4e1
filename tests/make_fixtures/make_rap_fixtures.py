"""Makes tests/fixtures/rap: the LITERAL Regional Attention Prior (docs/method.md section 4) in torch.

diffusers' Attention runs on the low-resolution tokens; its softmax maps M are formed per head,
cropped and resized at each region's place, applied to the global values, and projected. The Rust
side has only the layer's output, and must arrive at the same by linearity.

    python tests/make_fixtures/make_rap_fixtures.py
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "rap"

# top, left, height, width relative to the canvas: inside, the edges, everything, and one so small
# that a region's grid is finer than the map's.
RECTS = [
    [0.0, 0.0, 0.4, 0.5],
    [0.6, 0.5, 0.4, 0.5],
    [0.25, 0.125, 0.5, 0.375],
    [0.0, 0.0, 1.0, 1.0],
    [0.45, 0.3, 0.1, 0.08],
]
# map height, map width, region height, region width, channels, heads, tokens, token width
LAYERS = [(12, 16, 10, 10, 24, 3, 7, 20), (6, 8, 5, 5, 32, 4, 7, 20), (5, 7, 8, 3, 16, 1, 4, 12)]


def sample(maps, rect, height, width):
    """[1, K, h, w] -> [1, K, height, width] at pixel centres spread evenly over the rectangle."""
    top, left, tall, wide = rect
    y = top + tall * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = left + wide * (torch.arange(width, dtype=torch.float64) + 0.5) / width
    yy, xx = torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")
    grid = torch.stack([xx, yy], dim=-1).unsqueeze(0)
    return F.grid_sample(
        maps, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for index, (h, w, rh, rw, channels, heads, tokens, token_width) in enumerate(LAYERS):
        attention = Attention(
            query_dim=channels, cross_attention_dim=token_width, heads=heads,
            dim_head=channels // heads, bias=False, out_bias=True,
        ).double().eval()
        torch.nn.init.normal_(attention.to_out[0].bias)
        # Sharper than a fresh layer, so that the maps vary over the picture.
        attention.to_q.weight.data *= 4
        x = torch.randn(1, h * w, channels, dtype=torch.float64)
        context = torch.randn(1, tokens, token_width, dtype=torch.float64)
        with torch.no_grad():
            tensors[f"layer.{index}"] = attention(x, context).reshape(1, h, w, channels)
            q = attention.head_to_batch_dim(attention.to_q(x))
            k = attention.head_to_batch_dim(attention.to_k(context))
            v = attention.head_to_batch_dim(attention.to_v(context))
            maps = (q @ k.transpose(1, 2) * attention.scale).softmax(-1)  # [heads, h*w, tokens]
            maps = maps.reshape(heads, h, w, tokens).permute(0, 3, 1, 2)
            maps = maps.reshape(1, heads * tokens, h, w)
            regions = []
            for rect in RECTS:
                cropped = sample(maps, rect, rh, rw).reshape(heads, tokens, rh * rw)
                mixed = attention.batch_to_head_dim(cropped.transpose(1, 2) @ v)
                regions.append(attention.to_out[0](mixed).reshape(1, rh, rw, channels))
            tensors[f"literal.{index}"] = torch.cat(regions)
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, OUT / "rap.safetensors")
    sizes = [[rh, rw] for (_, _, rh, rw, *_) in LAYERS]
    (OUT / "rap.json").write_text(json.dumps(dict(rects=RECTS, sizes=sizes)) + "\n")


if __name__ == "__main__":
    main()
