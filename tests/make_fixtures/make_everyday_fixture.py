"""Makes tests/fixtures/everyday: what people who enlarge with diffusion ask for at once, a ControlNet, a weighted prompt of two
chunks and a mask, over the whole method with every prior, in PyTorch and diffusers, on the same tiny model.

    python tests/make_fixtures/make_everyday_fixture.py   (needs what make_control_method_fixture.py and make_prompt_fixtures.py need)

Nothing is new here: the ControlNets are those of make_control_method_fixture.py, the prompts are read as in make_prompt_fixtures.py,
and masks and priors are those of make_method_fixture.py.

Written: `cases.json` (each case's options) and `expected.safetensors` (each case's picture, [H, W, 3] in 0..1).
"""

from dataclasses import replace

import torch
from make_control_method_fixture import OWN_SIZE, Control, Controlled, ControlCase
from make_img2img_fixture import picture
from make_method_fixture import ALL, CAPTIONS, FIXTURES, input_picture
from make_prompt_fixtures import AGAINST, JOB, Weighted
from make_text_fixtures import write_json
from safetensors.torch import save_file

AREA = FIXTURES / "everyday"


def case(*controls, **fields):
    return replace(ControlCase(**vars(ALL)), controls=list(controls), mask=True, **fields)


CASES = {
    # as Hyper-SDXL runs: no guidance, no fresh noise, timesteps counted from the end
    "few_steps": case(Control("plain", 0.5), spacing="trailing", eta=0.0, mask_feather=4),
    # as people run SDXL: ancestral noise, guidance, a negative prompt, two ControlNets
    "guided": case(
        Control("union", 0.4), Control("plain", 0.3, 0.0, 0.5),
        sampler="euler-a", guidance=2.0, negative=AGAINST, invert_mask=True,
    ),
}


class Everyday(Weighted, Controlled):
    """The method with a weighted prompt and with ControlNets."""


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    own = (picture(*OWN_SIZE, torch.Generator().manual_seed(11)).double() + 1) / 2
    method, expected, cases = Everyday((own * 255).round() / 255), {}, {}
    image = input_picture()
    for name, one in CASES.items():
        expected[name], texts = method.run(image, one)
        assert [region["caption"] for region in texts["regions"]] == CAPTIONS
        # Each of the three counts.
        for less in (replace(one, controls=[]), replace(one, mask=False), replace(one, rsp=0.0)):
            without, _ = method.run(image, less)
            change = (expected[name] - without).abs().max().item()
            print(name, "largest change", round(change, 3))
            assert change > 0.01
        options = one.options()
        options[options.index("--prompt") + 1] = JOB
        cases[name] = {"options": options + ["--prompt-syntax", "weighted"]}
    save_file(expected, AREA / "expected.safetensors")
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
