"""Makes tests/fixtures/adapters: LoHa, LoKr, DoRA, OFT, BOFT, GLoRA, IA3 and differences, with random matrices, and
what LyCORIS and peft make of them.

    python tests/make_fixtures/make_adapter_fixtures.py       (needs lycoris-lora and peft besides
                                                               models/train/requirements.txt)

The base is tests/fixtures/img2img/model. Files in LyCORIS' form (kohya's names, `alpha`), each of linear layers, 1x1 and
3x3 convolutions, with and without cores:

    loha, lokr          the second with whole factors and pairs; one module of the first with `scalar`
    dora                on LoRA, LoHa and LoKr, lengths of rows and of inputs
    oft, boft           with constraint and rescaling
    other               a difference with bias, norms, IA3 of rows and of inputs, GLoRA
    sgm                 names of the code that trained SDXL and its text encoder (OpenCLIP)

and folders that peft's save_pretrained wrote: peft_loha, peft_lokr, peft_dora, peft_oft (exact), peft_series
(Cayley-Neumann), peft_shared; `pipeline` is a DoRA written by diffusers' save_lora_weights.

`cases.json` says which files with which scales. `expected_CASE` has the weights that change, in f32, as `PART/NAME`.
LyCORIS computes its own files with its own multiplier where 0 is the weight as it was, which DoRA and rescaling are not:
there the reference at scale s is W + s (W' - W) of LyCORIS' W' at 1 (see src/weights/lora/changes.rs). `pipeline` is to
equal `peft_dora`.
"""

import json
import shutil

import torch
from diffusers import StableDiffusionXLPipeline
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from make_lora_fixtures import FIXTURES, ldm_name, load, text_name
from make_text_fixtures import write_json

AREA = FIXTURES / "adapters"
BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
MID = "mid_block.attentions.0.transformer_blocks.0"
TO_Q, TO_K = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k"
OUT = f"{MID}.attn1.to_out.0"
CONV, DOWN = "down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv"
ONE = "down_blocks.1.resnets.0.conv_shortcut"
TEXT = "encoder.layers.0.mlp.fc1"
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}

generator = torch.Generator().manual_seed(18)


def randn(*shape):
    return torch.randn(shape, generator=generator)


class Adapter:
    """One module of LyCORIS over one layer, with random parameters."""

    def __init__(self, kind, name, part="unet", **options):
        self.kind, self.name, self.part, self.options = kind, name, part, options
        self.state = None

    def module(self, layer):
        module = self.kind("adapter", layer, 1.0, **self.options)
        if self.state is None:
            for name, parameter in module.named_parameters():
                if name == "dora_scale":
                    parameter.data *= 1 + 0.3 * randn(*parameter.shape)
                elif name == "rescale":
                    parameter.data += 0.2 * randn(*parameter.shape)
                elif name == "scalar":
                    parameter.data.fill_(0.7)
                else:
                    size = 0.4 if parameter.dim() > 1 else 0.1
                    parameter.data = size * randn(*parameter.shape)
            self.state = {name: p.data.clone() for name, p in module.named_parameters()}
        for name, parameter in module.named_parameters():
            parameter.data = self.state[name].clone()
        return module

    def tensors(self, layer, key):
        """As LyCORIS saves them."""
        module = self.module(layer)
        if isinstance(module, FullModule):
            # Its state_dict takes the layer off, which it expects to have been added by apply_to.
            return {f"{key}.diff": module.weight.data.clone(), f"{key}.diff_b": module.bias.data.clone()}
        return {f"{key}.{name}": x.detach().clone().contiguous() for name, x in module.state_dict().items()}

    def change(self, layer, scale):
        """Weight and bias of the layer after the change, by the module's own forward pass."""
        module = self.module(layer)
        if isinstance(module, (FullModule, NormModule)):
            weight, bias = module.make_weight(scale)
            return weight, bias
        stretches = getattr(module, "wd", False) or getattr(module, "rescaled", False)
        module.multiplier = 1.0 if stretches else scale
        # The layer's operation gives what it is called with: the difference of the weights.
        module.op = lambda x, weight, bias=None, **options: weight
        module.org_forward = lambda x: 0
        change = module(torch.zeros(1))
        return layer.weight + (scale * change if stretches else change), None


def layer_of(pipeline, adapter):
    return getattr(pipeline, adapter.part).get_submodule(adapter.name)


def key_of(adapter):
    name = adapter.name if adapter.part == "unet" else text_name(adapter.name)
    return f"{PREFIXES[adapter.part]}_{name.replace('.', '_')}"


def files():
    """Adapters of every file in LyCORIS' form."""
    options = {"lora_dim": 2, "alpha": 3.0}
    one = {"lora_dim": 1, "alpha": 1.5}
    return {
        "loha": [
            Adapter(LohaModule, TO_Q, **options),
            Adapter(LohaModule, OUT, use_scalar=True, **options),
            Adapter(LohaModule, CONV, use_tucker=True, **options),
            Adapter(LohaModule, DOWN, **options),
            Adapter(LohaModule, ONE, **options),
            Adapter(LohaModule, TEXT, part="text_encoder", **options),
        ],
        "lokr": [
            Adapter(LokrModule, TO_Q, **one),
            Adapter(LokrModule, TO_K, lora_dim=16, alpha=4.0),
            Adapter(LokrModule, OUT, decompose_both=True, **one),
            Adapter(LokrModule, CONV, use_tucker=True, factor=2, **options),
            Adapter(LokrModule, DOWN, factor=2, **one),
            Adapter(LokrModule, ONE, **one),
            Adapter(LokrModule, f"text_model.{TEXT}", part="text_encoder_2", use_scalar=True, **one),
        ],
        "dora": [
            Adapter(LoConModule, TO_Q, weight_decompose=True, **options),
            Adapter(LoConModule, TO_K, weight_decompose=True, wd_on_out=False, **options),
            Adapter(LoConModule, CONV, weight_decompose=True, use_tucker=True, **options),
            Adapter(LoConModule, DOWN, weight_decompose=True, wd_on_out=False, **options),
            Adapter(LohaModule, OUT, weight_decompose=True, wd_on_out=False, **options),
            Adapter(LokrModule, ONE, weight_decompose=True, **one),
        ],
        "oft": [
            Adapter(DiagOFTModule, TO_Q, lora_dim=4),
            Adapter(DiagOFTModule, OUT, lora_dim=4, constraint=0.02),
            Adapter(DiagOFTModule, CONV, lora_dim=2),
        ],
        "rescaled": [
            Adapter(DiagOFTModule, TO_Q, lora_dim=4, rescaled=True),
            Adapter(ButterflyOFTModule, CONV, lora_dim=4, rescaled=True),
        ],
        "boft": [
            Adapter(ButterflyOFTModule, TO_Q, lora_dim=4),
            Adapter(ButterflyOFTModule, OUT, lora_dim=4, constraint=0.02),
            Adapter(ButterflyOFTModule, CONV, lora_dim=4),
        ],
        "other": [
            Adapter(FullModule, CONV),
            Adapter(NormModule, "down_blocks.0.resnets.0.norm1"),
            Adapter(NormModule, f"{MID}.norm2"),
            Adapter(IA3Module, TO_Q),
            Adapter(IA3Module, TO_K, train_on_input=True),
            Adapter(IA3Module, ONE),
            Adapter(IA3Module, DOWN, train_on_input=True),
            Adapter(GLoRAModule, OUT, **options),
            Adapter(GLoRAModule, "up_blocks.1.resnets.1.conv2", **options),
        ],
    }


def by_lycoris(base):
    """Writes the files, the merged weights and the cases."""
    written = files()
    for file, adapters in written.items():
        tensors = {}
        for adapter in adapters:
            tensors |= adapter.tensors(layer_of(base, adapter), key_of(adapter))
        if file == "loha":
            # As older versions wrote what is learned beside the matrices.
            module = adapters[1].state
            key = key_of(adapters[1])
            tensors |= {f"{key}.hada_w1_a": module["hada_w1_a"], f"{key}.scalar": module["scalar"]}
        save_file(tensors, AREA / f"{file}.safetensors")
    cases = {
        "loha": [("loha", 1.0)],
        "lokr": [("lokr", 0.7)],
        "dora": [("dora", 1.0)],
        "oft": [("oft", 0.3)],
        "boft": [("boft", 1.0)],
        "boft_less": [("boft", 0.6)],
        "rescaled": [("rescaled", 1.0)],
        "other": [("other", 0.8)],
        "two": [("dora", 1.0), ("oft", 0.7), ("loha", 0.5)],
        "two_turned": [("oft", 0.7), ("dora", 1.0)],
    }
    for case, used in cases.items():
        pipeline = load()
        changed = {}
        for file, scale in used:
            for adapter in written[file]:
                layer = layer_of(pipeline, adapter)
                weight, bias = adapter.change(layer, scale)
                layer.weight.data = weight.detach().clone()
                changed[f"{adapter.part}/{adapter.name}.weight"] = layer.weight
                if bias is not None:
                    layer.bias.data = bias.detach().clone()
                    changed[f"{adapter.part}/{adapter.name}.bias"] = layer.bias
        if case.startswith("two"):
            changed = {name: x for name, x in changed.items() if TO_Q in name or OUT in name}
        kept = {name: x.detach().contiguous() for name, x in changed.items()}
        save_file(kept, AREA / f"expected_{case}.safetensors")
    return cases


def sgm(base):
    """Names of the code that trained SDXL, and of OpenCLIP, which keeps queries, keys and values in one matrix."""
    adapters = [
        Adapter(LokrModule, TO_Q, lora_dim=1, alpha=1.5),
        Adapter(LohaModule, CONV, lora_dim=2, alpha=3.0),
        Adapter(LoConModule, TO_K, lora_dim=2, alpha=3.0, weight_decompose=True),
    ]
    tensors, expected = {}, {}
    for adapter in adapters:
        layer = layer_of(base, adapter)
        tensors |= adapter.tensors(layer, f"lora_unet_{ldm_name(adapter.name).replace('.', '_')}")
        expected[f"unet/{adapter.name}.weight"] = adapter.change(layer, 1.0)[0]
    text = base.text_encoder_2
    at = next(name for name, _ in text.named_modules() if name.endswith("layers.1"))
    layer = text.get_submodule(at)
    attention = [getattr(layer.self_attn, f"{name}_proj") for name in "qkv"]
    together = torch.nn.Linear(attention[0].in_features, 3 * attention[0].out_features)
    together.weight.data = torch.cat([one.weight.data for one in attention])
    resblock = "lora_te2_transformer_resblocks_1"
    for key, target, names in [
        ("attn_in_proj", together, [f"self_attn.{name}_proj" for name in "qkv"]),
        ("mlp_c_fc", layer.mlp.fc1, ["mlp.fc1"]),
        ("attn_out_proj", layer.self_attn.out_proj, ["self_attn.out_proj"]),
    ]:
        adapter = Adapter(LohaModule, key, lora_dim=2, alpha=3.0)
        tensors |= adapter.tensors(target, f"{resblock}_{key}")
        weight = adapter.change(target, 1.0)[0]
        for name, part in zip(names, weight.chunk(len(names)), strict=True):
            expected[f"text_encoder_2/{at}.{name}.weight"] = part
    save_file(tensors, AREA / "sgm.safetensors")
    kept = {name: x.detach().contiguous().clone() for name, x in expected.items()}
    save_file(kept, AREA / "expected_sgm.safetensors")
    return {"sgm": [("sgm", 1.0)]}


def by_peft():
    linear = [TO_Q, TO_K]
    both = [*linear, CONV, ONE]
    configs = {
        "loha": LoHaConfig(r=2, alpha=3, target_modules=both, use_effective_conv2d=True, init_weights=False),
        "lokr": LoKrConfig(
            r=1,
            alpha=3,
            target_modules=both,
            rank_pattern={"attn2.to_k": 16},
            alpha_pattern={"attn1.to_q": 2},
            decompose_both=True,
            use_effective_conv2d=True,
            init_weights=False,
        ),
        "dora": LoraConfig(r=2, lora_alpha=3, target_modules=both, use_dora=True, init_lora_weights=False),
        "oft": OFTConfig(oft_block_size=4, target_modules=both, init_weights=False, use_cayley_neumann=False),
        "series": OFTConfig(oft_block_size=4, target_modules=both, init_weights=False, num_cayley_neumann_terms=6),
        "shared": OFTConfig(oft_block_size=4, target_modules=linear, init_weights=False, block_share=True),
    }
    cases = {}
    for name, config in configs.items():
        torch.manual_seed(len(name))
        pipeline = load()
        before = {key: x.detach().clone() for key, x in pipeline.unet.named_parameters()}
        model = get_peft_model(pipeline.unet, config)
        if name == "dora":
            for key, parameter in model.named_parameters():
                if "magnitude" in key:
                    parameter.data *= 1 + 0.3 * randn(*parameter.shape)
            write_pipeline(model)
        folder = AREA / f"peft_{name}"
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        # A set, in the order of its hashes.
        saved = json.loads((folder / "adapter_config.json").read_text())
        write_json(folder / "adapter_config.json", saved | {"target_modules": sorted(saved["target_modules"])})
        merged = dict(model.merge_and_unload().named_parameters())
        changed = {key: x for key, x in merged.items() if not torch.equal(x, before[key])}
        assert changed, name
        kept = {f"unet/{key}": x.detach().contiguous() for key, x in changed.items()}
        cases[f"peft_{name}"] = [(f"peft_{name}/adapter_model", 1.0)]
        save_file(kept, AREA / f"expected_peft_{name}.safetensors")
    return cases


def write_pipeline(model):
    """The same DoRA as diffusers writes it."""
    layers = get_peft_model_state_dict(model)
    layers = {key.removeprefix("base_model.model."): x for key, x in layers.items()}
    metadata = model.peft_config["default"].to_dict()
    metadata |= {"base_model_name_or_path": None, "target_modules": sorted(metadata["target_modules"])}
    folder = AREA / "pipeline"
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata
    )
    (folder / "pytorch_lora_weights.safetensors").rename(AREA / "pipeline.safetensors")
    folder.rmdir()


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    shutil.rmtree(AREA, ignore_errors=True)
    AREA.mkdir(parents=True)
    base = load()
    cases = by_lycoris(base)
    cases |= sgm(base)
    cases |= by_peft()
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
