"""Makes tests/fixtures/control_method: the whole method with ControlNets, written in PyTorch and diffusers as in
make_method_fixture.py, in f64, on the same tiny model.

    python tests/make_fixtures/make_control_method_fixture.py   (needs opencv-python-headless besides)

The ControlNets' weights are drawn by the formula of make_unet_fixtures.py, so that only their configurations and shapes
are written. Blurs and edges are OpenCV's, of the whole resized picture; the program makes them region by region.

Written: `NAME.json` (a ControlNet's configuration and the shapes of its tensors), `own.png` (8 bits), `cases.json` (each
case's options, the ControlNets' among them), `expected.safetensors` (each case's picture, [H, W, 3] in 0..1), and
`filters.safetensors` (a picture, its edges and its blur by OpenCV).
"""

import json
from dataclasses import dataclass, field as default, replace

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from PIL import Image
from safetensors.torch import save_file

import make_method_fixture as base
from make_img2img_fixture import picture
from make_method_fixture import ALL, FIXTURES, NEGATIVE, RUN, Case, Method, continued, lanczos
from make_unet_fixtures import weight

AREA = FIXTURES / "control_method"
OWN_SIZE = (24, 31)


@dataclass
class Control:
    """One `--control`, with its kind and its own picture."""

    name: str
    scale: float
    start: float = 0.0
    end: float = 1.0
    kind: str = "tile"
    own: bool = False

    def works(self, i):
        # The pipelines' own rule.
        return not (i / RUN < self.start or (i + 1) / RUN > self.end)


@dataclass
class ControlCase(Case):
    controls: list = default(default_factory=list)

    def options(self):
        options = super().options()
        for control in self.controls:
            options += ["--control", f"{control.name}:{control.scale}:{control.start}-{control.end}"]
            options += ["--control-kind", control.kind]
        return options + (["--control-image", "own.png"] if self.controls[0].own else [])


def case(*controls, **fields):
    return replace(ControlCase(**vars(ALL)), controls=list(controls), **fields)


SMALL = dict(size=(64, 44), captions="")
CASES = {
    "tile": case(Control("plain", 0.5), size=(80, 56)),
    # both halves of each pair have it, in the middle steps alone
    "guided": case(Control("plain", 0.4, 0.25, 0.75), guidance=2.0, negative=NEGATIVE, **SMALL),
    # two of different classes, and a canvas that a region is larger than
    "two": case(
        Control("union", 0.4), Control("plain", 0.3, 0.0, 0.5),
        size=(98, 30), gsp=0.6, captions="", sampler="euler-a",
    ),
    "own": case(Control("plain", 0.5, own=True), **SMALL),
    "blur": case(Control("plain", 0.5, kind="blur"), **SMALL),
    "canny": case(Control("union", 0.5, kind="canny"), sampler="dpmpp-2m", **SMALL),
}
PLACES = {"tile": 6, "blur": 6, "canny": 3}


def blurred(image, side):
    """cv2.GaussianBlur with a standard deviation of 9/512 of a region's side, cut at three of them."""
    sigma = 9 / 512 * side
    size = 2 * int(np.ceil(3 * sigma)) + 1
    return cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)


def edges(image):
    """cv2.Canny of the picture in 8 bits, its three channels at once."""
    levels = np.rint(image.astype(np.float32) * 255).astype(np.uint8)
    return np.repeat(cv2.Canny(levels, 100, 200)[..., None] / 255.0, 3, axis=-1)


class Controlled(Method):
    def __init__(self, own):
        super().__init__()
        self.own, self.networks = own, {}
        shared = dict(
            conditioning_embedding_out_channels=[4, 6, 8],
            addition_embed_type="text_time",
        )
        names = (
            "in_channels", "block_out_channels", "down_block_types", "layers_per_block", "transformer_layers_per_block",
            "attention_head_dim", "cross_attention_dim", "norm_num_groups", "use_linear_projection",
            "addition_time_embed_dim", "projection_class_embeddings_input_dim",
        )
        shared |= {name: self.unet.config[name] for name in names}
        width = self.unet.config.block_out_channels[0]
        union = dict(num_control_type=8, num_trans_channel=width, num_trans_head=2, num_proj_channel=width)
        for name, kind, more in (("plain", ControlNetModel, {}), ("union", ControlNetUnionModel, union)):
            network = kind(**shared, **more)
            shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
            network.load_state_dict({key: weight(f"{name}.{key}", shape) for key, shape in shapes.items()})
            self.networks[name] = network.double().eval()
            description = dict(config=json.loads(network.to_json_string()), shapes=shapes)
            (AREA / f"{name}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")

    def run(self, image, case):
        self.controls = case.controls
        return super().run(image, case)

    def seen(self, control, whole, place, size):
        """[1, 3, f·h, f·w] of what a ControlNet sees of the part of `size` at `place`."""
        height, width = whole.shape[-2:]
        if control.own:
            whole = lanczos(self.own, width, height)
        elif control.kind != "tile":
            rows = whole[0].permute(1, 2, 0).numpy()
            made = edges(rows) if control.kind == "canny" else blurred(rows, self.region * self.factor)
            whole = torch.from_numpy(made).permute(2, 0, 1).unsqueeze(0).double()
        (top, left), (tall, wide), f = place, size, self.factor
        whole = continued(whole, (0, max((top + tall) * f - height, 0)), (0, max((left + wide) * f - width, 0)))
        return whole[..., top * f : (top + tall) * f, left * f : (left + wide) * f]

    def predict(self, z, low, t, condition, view):
        i, whole, place = view
        conditions = self.conditions(condition)
        sample = torch.cat([z, low], dim=1)
        downs = mid = None
        for control in self.controls:
            if not control.works(i):
                continue
            network = self.networks[control.name]
            seen = self.seen(control, whole, place, z.shape[-2:])
            arguments = dict(conditions, conditioning_scale=control.scale, return_dict=False)
            if isinstance(network, ControlNetUnionModel):
                index = PLACES[control.kind]
                types = torch.zeros(1, network.config.num_control_type, dtype=torch.float64)
                types[0, index] = 1.0
                arguments |= dict(controlnet_cond=[seen], control_type=types, control_type_idx=[index])
            else:
                arguments["controlnet_cond"] = seen
            own_downs, own_mid = network(sample, t, **arguments)
            if downs is None:
                downs, mid = own_downs, own_mid
            else:
                downs, mid = [a + b for a, b in zip(downs, own_downs)], mid + own_mid
        return self.unet(
            sample, t, **conditions, down_block_additional_residuals=downs, mid_block_additional_residual=mid
        ).sample


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    samples = ((picture(base.HEIGHT, base.WIDTH, torch.Generator().manual_seed(7)).double() + 1) / 2 * 65535).round()
    image = samples / 65535
    own = (picture(*OWN_SIZE, torch.Generator().manual_seed(11)).double() + 1) / 2
    levels = (own * 255).round()
    Image.fromarray(levels[0].permute(1, 2, 0).numpy().astype(np.uint8)).save(AREA / "own.png", optimize=True)

    method, expected, cases = Controlled(levels / 255), {}, {}
    for name, one in CASES.items():
        expected[name], texts = method.run(image, one)
        assert expected[name].isfinite().all()
        without, _ = method.run(image, replace(one, controls=[]))
        inside = ((expected[name] > 0) & (expected[name] < 1)).double().mean().item()
        change = (expected[name] - without).abs().max().item()
        print(name, "inside", round(inside, 3), "largest change", round(change, 3))
        assert inside > 0.2 and change > 0.05, name
        cases[name] = {"options": one.options(), "force_zeros": one.force_zeros}
        if texts:
            base.write_json(AREA / one.captions, texts)
    save_file(expected, AREA / "expected.safetensors")
    base.write_json(AREA / "cases.json", cases)

    # A picture of its own, of which every edge lies in the middle between two thresholds.
    whole = lanczos(own, 41, 33)[0].permute(1, 2, 0).numpy()
    levels = np.ascontiguousarray(np.rint(whole.astype(np.float32) * 255).astype(np.uint8))
    found = edges(levels / 255)
    share = found.mean()
    assert 0.02 < share < 0.5, share
    filters = {
        "levels": torch.from_numpy(levels),
        "edges": torch.from_numpy((found[..., 0] > 0).astype(np.uint8)),
        "blurred_48": torch.from_numpy(blurred(levels.astype(np.float32) / 255, 48)),
        "blurred_256": torch.from_numpy(blurred(levels.astype(np.float32) / 255, 256)),
    }
    save_file(filters, AREA / "filters.safetensors")
    print("edges", share)


if __name__ == "__main__":
    main()
