"""Makes tests/fixtures/enlarger: what PyTorch computes with small enlarging networks, for tests/parity/enlarger.rs,
tests/weights/enlarger.rs and tests/jobs/first.rs.

The networks are written here after their sources, module by module, so that the names of their tensors are those of real
files: basicsr `archs/rrdbnet_arch.py` (with the pixel unshuffle of Real-ESRGAN's x2plus), ESRGAN `RRDBNet_arch.py`
(`RRDB_trunk`), BasicSR's first `architecture.py` (a sequence: `model.1.sub`), and Real-ESRGAN `archs/srvgg_arch.py`.

Weights and pictures are not stored: both sides draw them from the same formula (`field` and `weight` of
make_unet_fixtures.py), by the tensors' names in the file. Files of ncnn are stored, because their numbers have no names;
they are written as ncnn's converter writes them (`Split` layers, convolutions with their activation), and once in another
way that means the same.

    python tests/make_fixtures/make_enlarger_fixtures.py
"""

import json
import math
import shutil
import struct
from pathlib import Path
from unittest import mock

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

import make_method_fixture as method
from make_unet_fixtures import field, weight

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "enlarger"
# Of whole units.
HEIGHT, WIDTH = 8, 4


def leaky(x):
    return F.leaky_relu(x, 0.2)


def doubled(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResidualDenseBlock(nn.Module):
    def __init__(self, features, growth):
        super().__init__()
        for index in range(5):
            output = growth if index < 4 else features
            setattr(self, f"conv{index + 1}", nn.Conv2d(features + index * growth, output, 3, 1, 1))

    def forward(self, x):
        x1 = leaky(self.conv1(x))
        x2 = leaky(self.conv2(torch.cat((x, x1), 1)))
        x3 = leaky(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = leaky(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        return self.conv5(torch.cat((x, x1, x2, x3, x4), 1)) * 0.2 + x


class RRDB(nn.Module):
    def __init__(self, features, growth, name="rdb"):
        super().__init__()
        self.names = [f"{name}{index}" for index in (1, 2, 3)]
        for own in self.names:
            setattr(self, own, ResidualDenseBlock(features, growth))

    def forward(self, x):
        out = x
        for name in self.names:
            out = getattr(self, name)(out)
        return out * 0.2 + x


class RRDBNet(nn.Module):
    """basicsr's."""

    def __init__(self, scale, features, growth, blocks):
        super().__init__()
        self.unit = {4: 1, 2: 2, 1: 4}[scale]
        self.conv_first = nn.Conv2d(3 * self.unit**2, features, 3, 1, 1)
        self.body = nn.Sequential(*(RRDB(features, growth) for _ in range(blocks)))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            setattr(self, name, nn.Conv2d(features, features, 3, 1, 1))
        self.conv_last = nn.Conv2d(features, 3, 3, 1, 1)

    def forward(self, x):
        feat = self.conv_first(F.pixel_unshuffle(x, self.unit))
        feat = feat + self.conv_body(self.body(feat))
        feat = leaky(self.conv_up1(doubled(feat)))
        feat = leaky(self.conv_up2(doubled(feat)))
        return self.conv_last(leaky(self.conv_hr(feat)))


class Trunk(nn.Module):
    """ESRGAN's."""

    def __init__(self, features, growth, blocks):
        super().__init__()
        self.conv_first = nn.Conv2d(3, features, 3, 1, 1)
        self.RRDB_trunk = nn.Sequential(*(RRDB(features, growth, "RDB") for _ in range(blocks)))
        for name in ("trunk_conv", "upconv1", "upconv2", "HRconv"):
            setattr(self, name, nn.Conv2d(features, features, 3, 1, 1))
        self.conv_last = nn.Conv2d(features, 3, 3, 1, 1)

    def forward(self, x):
        fea = self.conv_first(x)
        fea = fea + self.trunk_conv(self.RRDB_trunk(fea))
        fea = leaky(self.upconv1(doubled(fea)))
        fea = leaky(self.upconv2(doubled(fea)))
        return self.conv_last(leaky(self.HRconv(fea)))


class OldDense(nn.Module):
    def __init__(self, features, growth):
        super().__init__()
        for index in range(5):
            conv = nn.Conv2d(features + index * growth, growth if index < 4 else features, 3, 1, 1)
            last = [nn.LeakyReLU(0.2, True)] if index < 4 else []
            setattr(self, f"conv{index + 1}", nn.Sequential(conv, *last))

    def forward(self, x):
        seen = [x]
        for index in range(5):
            seen.append(getattr(self, f"conv{index + 1}")(torch.cat(seen, 1)))
        return seen[-1].mul(0.2) + x


class OldBlock(nn.Module):
    def __init__(self, features, growth):
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (OldDense(features, growth) for _ in range(3))

    def forward(self, x):
        return self.RDB3(self.RDB2(self.RDB1(x))).mul(0.2) + x


class Shortcut(nn.Module):
    def __init__(self, sub):
        super().__init__()
        self.sub = sub

    def forward(self, x):
        return x + self.sub(x)


class Sequence(nn.Module):
    """BasicSR's first."""

    def __init__(self, scale, features, growth, blocks):
        super().__init__()
        conv = lambda outputs=features: nn.Conv2d(features, outputs, 3, 1, 1)
        body = nn.Sequential(*(OldBlock(features, growth) for _ in range(blocks)), conv())
        ups = []
        for _ in range(int(math.log2(scale))):
            ups += [nn.Upsample(scale_factor=2, mode="nearest"), conv(), nn.LeakyReLU(0.2)]
        first = nn.Conv2d(3, features, 3, 1, 1)
        self.model = nn.Sequential(first, Shortcut(body), *ups, conv(), nn.LeakyReLU(0.2), conv(3))

    def forward(self, x):
        return self.model(x)


class SRVGGNetCompact(nn.Module):
    def __init__(self, scale, features, layers):
        super().__init__()
        self.scale = scale
        self.body = nn.ModuleList()
        for index in range(layers + 1):
            self.body.append(nn.Conv2d(features if index else 3, features, 3, 1, 1))
            self.body.append(nn.PReLU(num_parameters=features))
        self.body.append(nn.Conv2d(features, 3 * scale**2, 3, 1, 1))

    def forward(self, x):
        out = x
        for layer in self.body:
            out = layer(out)
        return F.pixel_shuffle(out, self.scale) + F.interpolate(x, scale_factor=self.scale, mode="nearest")


# The network, the scale, and what stands before its names in the file.
CASES = {
    "new_4x": (RRDBNet(4, 8, 4, 2), 4, "params_ema."),
    "new_2x": (RRDBNet(2, 8, 4, 1), 2, "params."),
    "new_1x": (RRDBNet(1, 6, 4, 1), 1, ""),
    "trunk_4x": (Trunk(8, 4, 2), 4, ""),
    "sequence_4x": (Sequence(4, 8, 4, 2), 4, ""),
    "sequence_2x": (Sequence(2, 8, 4, 1), 2, ""),
    "sequence_1x": (Sequence(1, 8, 4, 1), 1, ""),
    "compact_4x": (SRVGGNetCompact(4, 8, 3), 4, "params."),
    # more layers than a step has
    "compact_3x": (SRVGGNetCompact(3, 6, 17), 3, ""),
    "compact_2x": (SRVGGNetCompact(2, 8, 2), 2, ""),
}


def drawn(name, shape):
    # Slopes of a PReLU are no gains of a norm.
    value = weight(name, shape)
    return (value - 1) * 0.8 + 0.25 if len(shape) == 1 and name.endswith(".weight") else value


def draw(network, prefix):
    """Draws the network's weights by their names in the file; returns these and their shapes."""
    shapes = {}
    for name, value in network.state_dict().items():
        shapes[prefix + name] = list(value.shape)
        value.copy_(drawn(prefix + name, tuple(value.shape)))
    return shapes


def picture(height=HEIGHT, width=WIDTH):
    """[1, 3, H, W] in 0..1; the Rust side draws the same numbers."""
    return (field("picture", (1, 3, height, width)) + 1) / 2


def last(x):
    return x.permute(0, 2, 3, 1).contiguous()


class Graph:
    """Layers of ncnn, and the numbers behind them."""

    def __init__(self, half):
        self.layers, self.half, self.numbers, self.count = [("Input", "data", [], ["data"], "")], half, b"", 0

    def layer(self, kind, inputs, params):
        self.count += 1
        self.layers.append((kind, f"{kind}_{self.count}", list(inputs), [f"v{self.count}"], params))
        return f"v{self.count}"

    def conv(self, x, conv, activation=""):
        outputs, size = conv.weight.shape[0], conv.weight.numel()
        numbers = conv.weight.numpy()
        if self.half:
            half = numbers.astype("<f2").tobytes()
            self.numbers += struct.pack("<I", 0x01306B47) + half + b"\0" * (-len(half) % 4)
            conv.weight.copy_(torch.from_numpy(numbers.astype("<f2").astype("<f4")))
        else:
            self.numbers += struct.pack("<I", 0) + numbers.astype("<f4").tobytes()
        self.numbers += conv.bias.numpy().astype("<f4").tobytes()
        return self.layer("Convolution", [x], f"0={outputs} 1=3 4=1 5=1 6={size}{activation}")

    def write(self, output, folder, name):
        """With a `Split` behind every value that is used more than once, as the converter writes it."""
        layers = []
        for kind, own, inputs, outputs, params in self.layers:
            (value,) = outputs
            layers.append((kind, own, inputs, outputs, params))
            uses = sum(inputs.count(value) for _, _, inputs, _, _ in self.layers)
            if uses > 1:
                parts = [f"{value}_splitncnn_{index}" for index in range(uses)]
                layers.append(("Split", f"splitncnn_{len(layers)}", [value], parts, ""))
        free = {}
        for kind, _, _, outputs, _ in layers:
            if kind == "Split":
                free[outputs[0].split("_splitncnn_")[0]] = list(outputs)
        lines, values = [], set()
        for kind, own, inputs, outputs, params in layers:
            if kind != "Split":
                inputs = [free[value].pop() if value in free else value for value in inputs]
            outputs = ["output" if value == output else value for value in outputs]
            values.update(outputs)
            words = [f"{kind:<24} {own:<24}", str(len(inputs)), str(len(outputs)), *inputs, *outputs, params]
            lines.append(" ".join(words).rstrip())
        text = "\n".join(["7767517", f"{len(lines)} {len(values)}", *lines]) + "\n"
        (folder / f"{name}.param").write_text(text)
        (folder / f"{name}.bin").write_bytes(self.numbers)


def ncnn_rrdb(network, graph, plain):
    """The graph of an `RRDBNet`; `plain` is what the converter writes, and else it is written in other layers."""
    act = " 9=2 -23310=1,2.000000e-01"

    def activated(x, conv):
        if plain:
            return graph.conv(x, conv, act)
        return graph.layer("ReLU", [graph.conv(x, conv)], "0=2.000000e-01")

    def residual(y, x):
        if plain:
            return graph.layer("Eltwise", [y, x], "0=1 -23301=2,2.000000e-01,1.000000e+00")
        return graph.layer("BinaryOp", [x, graph.layer("BinaryOp", [y], "0=2 1=1 2=2.000000e-01")], "0=0")

    first = graph.conv("data", network.conv_first)
    x = first
    for block in network.body:
        inner = x
        for name in block.names:
            dense, seen = getattr(block, name), [inner]
            for index in range(4):
                joined = graph.layer("Concat", seen, "") if index else inner
                seen.append(activated(joined, getattr(dense, f"conv{index + 1}")))
            y = graph.conv(graph.layer("Concat", seen, "" if plain else "0=0"), dense.conv5)
            inner = residual(y, inner)
        x = residual(inner, x)
    x = graph.layer("BinaryOp", [first, graph.conv(x, network.conv_body)], "")
    for conv in (network.conv_up1, network.conv_up2):
        x = graph.layer("Interp", [x], "0=1 1=2.000000e+00 2=2.000000e+00")
        x = activated(x, conv)
    return graph.conv(activated(x, network.conv_hr), network.conv_last)


def ncnn_compact(network, graph, reduced):
    x = "data"
    for index in range(0, len(network.body) - 1, 2):
        slopes = network.body[index + 1].weight
        x = graph.conv(x, network.body[index])
        graph.numbers += slopes.numpy().astype("<f4").tobytes()
        x = graph.layer("PReLU", [x], f"0={len(slopes)}")
    x = graph.layer("PixelShuffle", [graph.conv(x, network.body[-1])], f"0={network.scale}")
    size = f"{network.scale:e}"
    base = graph.layer("Interp", ["data"], f"0=1 1={size} 2={size}")
    x = graph.layer("BinaryOp", [x, base], "")
    return graph.layer("Interp", [x], f"0=3 1={reduced:e} 2={reduced:e}") if reduced else x


def ncnn_files(expected):
    """Writes files of ncnn, and what their networks give."""
    folder = OUT / "ncnn"
    folder.mkdir()
    for name, half, plain in (("rrdb_f32", False, True), ("rrdb_f16", True, True), ("rrdb_loose", True, False)):
        network, graph = RRDBNet(4, 4, 2, 1), Graph(half)
        draw(network, name)
        graph.write(ncnn_rrdb(network, graph, plain), folder, name)
        expected[f"ncnn.{name}"] = last(network(picture()))
    for name, half, reduced in (("compact_f32", False, None), ("compact_f16", True, 0.5)):
        network, graph = SRVGGNetCompact(4, 5, 2), Graph(half)
        draw(network, name)
        graph.write(ncnn_compact(network, graph, reduced), folder, name)
        expected[f"ncnn.{name}"] = last(network(picture()))


def first_of(network, scale):
    """What the program makes of a picture before all else: the network once, and as often again as the size asks for, each
    time reduced to the size from which the last one reaches it; then Lanczos (docs/method.md section 2)."""

    def enlarge(image, width, height):
        ratio = max(width / image.shape[-1], height / image.shape[-2])
        passes, reach = 1, scale
        while scale > 1 and reach * 1.5 < ratio:
            passes, reach = passes + 1, reach * scale
        for index in range(passes):
            behind = scale ** (passes - 1 - index)
            size = (math.ceil(width / behind), math.ceil(height / behind))
            unit = getattr(network, "unit", 1)
            h, w = image.shape[-2:]
            whole = method.continued(image, (0, -h % unit), (0, -w % unit))
            image = network.double()(whole)[..., : h * scale, : w * scale].clamp(0, 1)
            if (image.shape[-1], image.shape[-2]) != size:
                image = lanczos(image, *size)
        return image

    lanczos = method.lanczos
    return enlarge


def jobs():
    """Whole jobs: the literal method of make_method_fixture.py whose canvas begins with what a network makes."""
    names = {"repainted": "new_2x", "alone": "compact_2x"}
    results = {}
    seed = torch.Generator().manual_seed(7)
    image = (method.picture(method.HEIGHT, method.WIDTH, seed).double() + 1) / 2
    for name, case in names.items():
        network, scale, prefix = CASES[case]
        draw(network, prefix)
        enlarge = first_of(network, scale)
        size = (3 * method.WIDTH, 3 * method.HEIGHT) if name == "repainted" else (103, 60)
        lanczos = method.lanczos
        if name == "alone":
            result = enlarge(image, *size)[0].permute(1, 2, 0).clamp(0, 1)
        else:
            of_size = lambda image, width, height: (enlarge if (width, height) == size else lanczos)(image, width, height)
            with mock.patch.object(method, "lanczos", of_size):
                case = method.replace(method.ALL, captions="")
                result, _ = method.Method().run(image, case)
                (OUT / "repainted.json").write_text(json.dumps(case.options()) + "\n")
        results[name] = (result.double() * 65535).round().to(torch.int32).to(torch.uint16)
    save_file({name: value.contiguous() for name, value in results.items()}, OUT / "jobs.safetensors")


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    expected, cases = {}, {}
    for name, (network, scale, prefix) in CASES.items():
        shapes = draw(network, prefix)
        expected[name] = last(network(picture()))
        assert expected[name].shape == (1, scale * HEIGHT, scale * WIDTH, 3)
        cases[name] = {"scale": scale, "shapes": shapes}
    x = field("leaky", (3, 5, 7))
    expected["leaky_relu"] = leaky(x)
    slopes = drawn("slopes.weight", (7,))
    expected["prelu"] = F.prelu(x.movedim(-1, 1), slopes).movedim(1, -1).contiguous()
    (OUT / "cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    ncnn_files(expected)
    save_file(expected, OUT / "expected.safetensors")
    jobs()


if __name__ == "__main__":
    main()
