"""Makes tests/fixtures/flux2_klein/model, a tiny FLUX.2 klein: the files of its folder but for the weights, which both sides
draw from one formula (`weight` of make_unet_fixtures.py, and `drawn` here), and the names that the original code gives the
transformer's tensors; and tests/fixtures/flux2_klein/method: whole jobs with it by the method of docs/method.md, written in
PyTorch and diffusers, in f64. Run make_z_image_fixtures.py and make_flux2_klein_fixtures.py first: the tokenizer and the text
encoder are those scripts'.

    python tests/make_fixtures/make_flux2_method_fixture.py

It is make_z_image_method_fixture.py for blocks of two streams and of one, on packed latents, literal in the same way: the
regional attention prior keeps the softmax maps over the text's tokens, the structure prior is autograd through equations 4 and 5
with ε held constant, steps are diffusers' own at the pipeline's sigmas and shift, every region is a call by itself, the VAE sees
the picture whole.

Written in model/: also `shapes.json` (tensors of every part) and `original.json` (each tensor of the original code with those of
diffusers that it is made of, row behind row; of `final_layer.adaLN_modulation.1` the halves are exchanged), which diffusers' own
converter brings back. In method/: `in.png`, `captions.json`, `cases.json`, a picture of 16 bits for each case; and
`words.json` (width, height, steps, guidance) with a picture of what the pipeline itself makes of a prompt.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from flow_method import FlowMethod
from make_flux2_klein_fixtures import OUT, SCHEDULER, text_encoder, tokenizer
from make_img2img_fixture import noise_field
from make_method_fixture import Case, NEGATIVE, PROMPT, STEPS, continued, input_picture, write_json, write_picture
from make_rap_fixtures import sample as crop
from make_unet_fixtures import field, weight
from make_vae_fixtures import scaled, unscaled

MODEL, AREA = OUT / "model", OUT / "method"
# Native size in latent pixels; the configuration has none.
SIDE, FACTOR, CHANNELS = 12, 4, 16
INDEX = {
    "_class_name": "Flux2KleinPipeline",
    "is_distilled": True,
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "Qwen2TokenizerFast"],
    "cupscale": {"native_size": SIDE * FACTOR},
}


def drawn(name, shape):
    """A weight; variances are above 0."""
    return 1 + 0.5 * field(name, shape) if name.endswith("running_var") else weight(name, shape)


def build():
    models = {
        "transformer": Flux2Transformer2DModel(
            in_channels=CHANNELS, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=48, timestep_guidance_channels=24, mlp_ratio=2.0, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        "vae": AutoencoderKLFlux2(
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[8, 12], layers_per_block=1, latent_channels=CHANNELS // 4, norm_num_groups=4,
        ),
    }
    shapes = {}
    for part, model in models.items():
        shapes[part] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        shapes[part].pop("bn.num_batches_tracked", None)
        weights = {name: drawn(name, shape) for name, shape in shapes[part].items()}
        model.load_state_dict(weights, strict=False)
        model.eval()
    models["text_encoder"], config, shapes["text_encoder"] = text_encoder()
    return models, shapes, config


def save(models, shapes, text_config):
    write_json(MODEL / "model_index.json", INDEX)
    (MODEL / "shapes.json").write_text(json.dumps(shapes) + "\n")
    for name in ("transformer", "vae"):
        models[name].save_config(MODEL / name)
    FlowMatchEulerDiscreteScheduler(**SCHEDULER).save_config(MODEL / "scheduler")
    for path in MODEL.glob("*/*config.json"):
        config = json.loads(path.read_text())
        # The list of defaults is a set: its order changes from run to run.
        config.pop("_use_default_values", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    (MODEL / "text_encoder").mkdir()
    write_json(MODEL / "text_encoder" / "config.json", text_config)


# Names of the original code by those of diffusers, the first that fits; a pattern's rest stays.
ORIGINAL = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
DOUBLE = {
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.to_q.weight": "img_attn.qkv.weight",
    "attn.to_k.weight": "img_attn.qkv.weight",
    "attn.to_v.weight": "img_attn.qkv.weight",
    "attn.add_q_proj.weight": "txt_attn.qkv.weight",
    "attn.add_k_proj.weight": "txt_attn.qkv.weight",
    "attn.add_v_proj.weight": "txt_attn.qkv.weight",
    "attn.to_out.0.weight": "img_attn.proj.weight",
    "attn.to_add_out.weight": "txt_attn.proj.weight",
    "ff.linear_in.weight": "img_mlp.0.weight",
    "ff.linear_out.weight": "img_mlp.2.weight",
    "ff_context.linear_in.weight": "txt_mlp.0.weight",
    "ff_context.linear_out.weight": "txt_mlp.2.weight",
}
SINGLE = {
    "attn.to_qkv_mlp_proj.weight": "linear1.weight",
    "attn.to_out.weight": "linear2.weight",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
}


def save_original(transformer):
    state = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    parts = {}
    for name in state:
        blocks, _, rest = name.partition(".")
        if blocks in ("transformer_blocks", "single_transformer_blocks"):
            index, _, rest = rest.partition(".")
            kind, names = ("double", DOUBLE) if blocks == "transformer_blocks" else ("single", SINGLE)
            theirs = f"{kind}_blocks.{index}.{names[rest]}"
        else:
            module, _, end = name.rpartition(".")
            theirs = f"{ORIGINAL[module]}.{end}"
        parts.setdefault(theirs, []).append(name)
    for names in parts.values():
        names.sort(key=lambda name: ["to_q", "to_k", "to_v", "add_q", "add_k", "add_v"].index(
            name.split("attn.")[1][:5].rstrip(".")) if len(names) > 1 else 0)
    original = {theirs: torch.cat([state[name] for name in names]) for theirs, names in parts.items()}
    for theirs, names in parts.items():
        if names == ["norm_out.linear.weight"]:
            original[theirs] = torch.cat(original[theirs].chunk(2)[::-1])
    back = convert_flux2_transformer_checkpoint_to_diffusers(dict(original))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    (MODEL / "original.json").write_text(json.dumps(parts) + "\n")


class LiteralPrior:
    """The attention of one block, of two streams or of one, with its maps: recorded in one pass, blended in another."""

    def __init__(self, weight=0.0):
        self.weight = weight
        self.maps = None  # [1, heads * text, h, w]
        self.values = None  # [heads, text, d]
        self.size = None  # height and width; none without a prior
        self.rects = None

    def mixed(self, heads, q, k, v, rotation):
        """Attention of [1, N, heads, d], the text's tokens before the picture's."""
        cos, sin = (table[None, :, None, :].double() for table in rotation)

        def turned(x):
            real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
            return (x * cos + torch.stack([-imaginary, real], -1).flatten(3) * sin).transpose(1, 2)

        q, k, v = turned(q), turned(k), v.transpose(1, 2)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = weights @ v
        if self.size is not None:
            height, width = self.size
            text = q.shape[2] - height * width
            of_text, text_values = weights[:, :, text:, :text], v[:, :, :text]
            if self.rects is None:
                self.values = text_values[0]
                self.maps = of_text[0].transpose(1, 2).reshape(1, -1, height, width)
            else:
                own = of_text @ text_values
                (rect,) = self.rects
                cropped = crop(self.maps, rect, height, width).reshape(heads, text, -1)
                mixed = mixed.clone()
                mixed[:, :, text:] += self.weight * (cropped.transpose(1, 2) @ self.values - own)
        return mixed.transpose(1, 2).flatten(2)

    def __call__(self, attn, hidden_states, *args, **kwargs):
        if hasattr(attn, "to_qkv_mlp_proj"):
            return self.single(attn, hidden_states, *args, **kwargs)
        return self.double(attn, hidden_states, *args, **kwargs)

    def double(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1))

        q = attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))), attn.norm_q(heads(attn.to_q(hidden_states)))
        k = attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))), attn.norm_k(heads(attn.to_k(hidden_states)))
        v = heads(attn.add_v_proj(encoder_hidden_states)), heads(attn.to_v(hidden_states))
        mixed = self.mixed(attn.heads, *(torch.cat(both, 1) for both in (q, k, v)), image_rotary_emb)
        text = encoder_hidden_states.shape[1]
        return attn.to_out[0](mixed[:, text:]), attn.to_add_out(mixed[:, :text])

    def single(self, attn, hidden_states, attention_mask=None, image_rotary_emb=None):
        qkv, dense = attn.to_qkv_mlp_proj(hidden_states).split(
            [3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor], -1
        )
        q, k, v = (x.unflatten(-1, (attn.heads, -1)) for x in qkv.chunk(3, -1))
        mixed = self.mixed(attn.heads, attn.norm_q(q), attn.norm_k(k), v, image_rotary_emb)
        return attn.to_out(torch.cat([mixed, attn.mlp_act_fn(dense)], -1))


ALL = Case()
CASES = {
    "all": ALL,
    "guided": replace(ALL, guidance=3.5, negative=NEGATIVE, size=(80, 56), captions=""),
    # an empty negative prompt is encoded; 8 latent rows where a region has 12
    "strip": replace(ALL, size=(98, 30), gsp=0.6, captions="", guidance=2.0, rap=0.8),
    "no_attention": replace(ALL, rap=0.0, rsp=0.5, size=(80, 56)),
}
# The captions of a case by another size have a name of their own.
CASES["no_attention"] = replace(CASES["no_attention"], captions="captions_small.json")

# Pictures from words by diffusers' own pipeline: width and height, steps, guidance.
WORDS = {"native": (48, 48, 4, 1.0), "wide": (64, 40, 5, 1.0), "guided": (40, 56, 4, 2.5)}


@torch.no_grad()
def from_words(models):
    """Pictures [H, W, 3], from the program's own noise."""
    pipe = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER), tokenizer=tokenizer(), is_distilled=False, **models
    )
    pipe.set_progress_bar_config(disable=True)
    pictures = {}
    for name, (width, height, steps, guidance) in WORDS.items():
        latents = noise_field(7, CHANNELS, height // FACTOR, width // FACTOR)
        pixels = pipe(
            prompt=PROMPT, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance,
            latents=latents, output_type="pt",
        ).images
        pictures[name] = pixels[0].permute(1, 2, 0).contiguous()
    return pictures


class Method(FlowMethod):
    # The low-resolution pass has even sides, as canvases have; the transformer itself sees each latent pixel as a token.
    region, factor, patch = SIDE, FACTOR, 2

    def __init__(self, models):
        self.vae, self.transformer = (models[name].double() for name in ("vae", "transformer"))
        self.scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
        self.text = Flux2KleinPipeline(
            scheduler=None, vae=None, transformer=None, text_encoder=models["text_encoder"].double(),
            tokenizer=tokenizer(),
        )
        self.blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]

    def condition(self, text):
        return self.text.encode_prompt([text], device="cpu")[0]

    def blended(self, own, prompt, share):
        return share * own + (1 - share) * prompt

    def predict(self, z, t, condition):
        time = torch.full((1,), float(t) / 1000, dtype=torch.float64)
        (output,) = self.transformer(
            hidden_states=Flux2KleinPipeline._pack_latents(z), timestep=time, encoder_hidden_states=condition,
            txt_ids=Flux2KleinPipeline._prepare_text_ids(condition), img_ids=Flux2KleinPipeline._prepare_latent_ids(z),
            guidance=None, return_dict=False,
        )
        return output.transpose(1, 2).reshape(z.shape)

    def set_timesteps(self):
        sigmas = np.linspace(1.0, 1 / STEPS, STEPS)
        self.scheduler.set_timesteps(sigmas=sigmas, mu=compute_empirical_mu(SIDE * SIDE, STEPS))

    def priors(self, weight):
        return [LiteralPrior(weight) for _ in self.blocks]

    def set_priors(self, priors, size, rects):
        for block, prior in zip(self.blocks, priors):
            prior.size, prior.rects = size, rects
            block.attn.set_processor(prior)

    def without_priors(self):
        for block in self.blocks:
            block.attn.set_processor(LiteralPrior())

    def encode(self, image, height, width):
        image = continued(image, (0, height * FACTOR - image.shape[-2]), (0, width * FACTOR - image.shape[-1]))
        return scaled(self.vae, self.vae.encode(2 * image - 1).latent_dist.mode())

    def decode(self, z):
        return self.vae.decode(unscaled(self.vae, z)).sample


def write_expected(name, pixels):
    """[H, W, 3] in 0..1, in 16 bits: rounded by less than a tenth of what the tests allow."""
    assert pixels.isfinite().all()
    inside = ((pixels > 0) & (pixels < 1)).double().mean().item()
    print(name, inside)
    assert inside > 0.2, (name, inside)
    write_picture(AREA / f"{name}.png", pixels.permute(2, 0, 1)[None].double())


def main():
    torch.set_num_threads(1)
    for folder in (MODEL, AREA):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    models, shapes, text_config = build()
    save(models, shapes, text_config)
    save_original(models["transformer"])
    image = input_picture()
    write_picture(AREA / "in.png", image)
    # In f32, as the pipeline is; all that follows is f64.
    for name, pixels in from_words(models).items():
        write_expected(f"words_{name}", pixels)
    write_json(AREA / "words.json", {name: list(case) for name, case in WORDS.items()})
    whole, cases = Method(models), {}
    for name, case in CASES.items():
        pixels, texts = whole.run(image, case)
        write_expected(name, pixels)
        cases[name] = {"options": case.options()}
        if texts:
            write_json(AREA / case.captions, texts)
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
