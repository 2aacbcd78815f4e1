"""Makes tests/fixtures/sd3: what diffusers' SD3Transformer2DModel computes, for tests/parity/sd3.rs.

Weights and inputs are not stored: both sides draw them from the same counter-based formula (`field` of
make_unet_fixtures.py), so a fixture is a config, the shapes of its tensors, and the outputs.

Each case has the Regional Attention Prior of joint attention too (docs/method.md section 5b), LITERALLY: in the
low-resolution pass the softmax maps of every image token over the text tokens are formed per head, with the
text's values; for each region they are cropped, resized and applied to these values, and that is averaged with the
region's own text part. The Rust side keeps no map.

    python tests/make_fixtures/make_sd3_fixtures.py
"""

import json
import pathlib

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file

from make_rap_fixtures import sample as crop
from make_unet_fixtures import field, weight as matrix_or_vector

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "sd3"
RAP_WEIGHT = 0.4
# top, left, height, width relative to the picture
RECTS = [[0.0, 0.0, 0.5, 0.6], [0.3, 0.4, 0.55, 0.6], [0.45, 0.2, 0.2, 0.15]]


def weight(name, shape):
    # A table of positions is no matrix.
    return field(name, shape) if name == "pos_embed.pos_embed" else matrix_or_vector(name, shape)


CASES = {
    # The form of Stable Diffusion 3 medium.
    "sd3": dict(
        config=dict(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=20, caption_projection_dim=32, pooled_projection_dim=12,
            pos_embed_max_size=13,
        ),
        batch=2, size=(12, 18), tokens=7, timestep=937.5,
    ),
    # 3.5 large: queries and keys are normalized. Patches of three, heads that are not a power of two.
    "large": dict(
        config=dict(
            sample_size=12, patch_size=3, in_channels=6, out_channels=6, num_layers=2, attention_head_dim=12,
            num_attention_heads=3, joint_attention_dim=16, caption_projection_dim=36, pooled_projection_dim=10,
            pos_embed_max_size=8, qk_norm="rms_norm",
        ),
        batch=3, size=(24, 15), tokens=11, timestep=250.0,
    ),
    # 3.5 medium: the first blocks have an attention of the picture alone as well.
    "medium": dict(
        config=dict(
            sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=4, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=20,
            pos_embed_max_size=24, dual_attention_layers=[0, 1], qk_norm="rms_norm",
        ),
        batch=2, size=(22, 14), tokens=9, timestep=1000.0,
    ),
}


class LiteralPrior:
    """The joint attention of one block with its maps: recorded in one pass, blended in another."""

    def __init__(self, weight):
        self.weight = weight
        self.maps = None  # [1, heads * text, h, w]
        self.values = None  # [heads, text, d]
        self.size = None  # height and width in patches
        self.rects = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def normed(norm, x):
            return x if norm is None else norm(x)

        q = normed(attn.norm_q, heads(attn.to_q(hidden_states)))
        k = normed(attn.norm_k, heads(attn.to_k(hidden_states)))
        v = heads(attn.to_v(hidden_states))
        tokens = q.shape[2]
        if encoder_hidden_states is not None:
            q = torch.cat([q, normed(attn.norm_added_q, heads(attn.add_q_proj(encoder_hidden_states)))], dim=2)
            k = torch.cat([k, normed(attn.norm_added_k, heads(attn.add_k_proj(encoder_hidden_states)))], dim=2)
            v = torch.cat([v, heads(attn.add_v_proj(encoder_hidden_states))], dim=2)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = weights @ v
        if encoder_hidden_states is None:
            return attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        height, width = self.size
        of_text, text_values = weights[:, :, :tokens, tokens:], v[:, :, tokens:]
        count = text_values.shape[2]
        if self.rects is None:
            self.values = text_values[0]
            maps = of_text[0].transpose(1, 2).reshape(1, attn.heads * count, height, width)
            self.maps = maps
        else:
            own = of_text @ text_values
            regions = []
            for rect in self.rects:
                cropped = crop(self.maps, rect, height, width).reshape(attn.heads, self.values.shape[1], -1)
                regions.append(cropped.transpose(1, 2) @ self.values)
            prior = torch.stack(regions)
            of_picture = weights[:, :, :tokens, :tokens] @ v[:, :, :tokens]
            mixed[:, :, :tokens] = of_picture + (1 - self.weight) * own + self.weight * prior
        mixed = mixed.transpose(1, 2).flatten(2)
        picture, text = mixed[:, :tokens], mixed[:, tokens:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[0](picture), text


def literal(model, low, regions, timestep):
    """The regions' outputs with the literal prior of the low-resolution pass."""
    patch = model.config.patch_size
    priors = [LiteralPrior(RAP_WEIGHT) for _ in model.transformer_blocks]
    plain = LiteralPrior(RAP_WEIGHT)
    plain.size = (0, 0)
    for block, prior in zip(model.transformer_blocks, priors):
        block.attn.set_processor(prior)
        if block.attn2 is not None:
            block.attn2.set_processor(plain)
    for inputs, rects in [(low, None), (regions, RECTS)]:
        height, width = inputs["sample"].shape[-2:]
        for prior in priors:
            prior.size, prior.rects = (height // patch, width // patch), rects
        with torch.no_grad():
            output = model(
                inputs["sample"], encoder_hidden_states=inputs["context"], pooled_projections=inputs["pooled"],
                timestep=torch.full((inputs["sample"].shape[0],), timestep, dtype=torch.float64),
            ).sample
    return output


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for case, spec in CASES.items():
        config = spec["config"]
        model = SD3Transformer2DModel(**config).eval()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()})
        height, width = spec["size"]
        channels = config["in_channels"]

        def inputs(prefix, batch, height, width):
            return {
                name: (f"{prefix}{name}", shape)
                for name, shape in dict(
                    sample=[batch, channels, height, width],
                    context=[batch, spec["tokens"], config["joint_attention_dim"]],
                    pooled=[batch, config["pooled_projection_dim"]],
                ).items()
            }

        side = config["sample_size"]
        all_inputs = {
            "plain": inputs("", spec["batch"], height, width),
            "low": inputs("low.", 1, height, width),
            "regions": inputs("regions.", len(RECTS), side, side),
        }
        drawn = {
            kind: {name: field(*place) for name, place in named.items()} for kind, named in all_inputs.items()
        }
        plain = drawn["plain"]
        with torch.no_grad():
            output = model(
                plain["sample"], encoder_hidden_states=plain["context"], pooled_projections=plain["pooled"],
                timestep=torch.full((spec["batch"],), spec["timestep"]),
            ).sample
        model = model.double()
        wide = {kind: {name: x.double() for name, x in named.items()} for kind, named in drawn.items()}
        blended = literal(model, wide["low"], wide["regions"], spec["timestep"])
        tensors = dict(output=output.permute(0, 2, 3, 1), blended=blended.permute(0, 2, 3, 1))
        tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, OUT / f"{case}.safetensors")
        description = dict(
            config=config, shapes=shapes, timestep=spec["timestep"], inputs=all_inputs, rects=RECTS, weight=RAP_WEIGHT
        )
        (OUT / f"{case}.json").write_text(json.dumps(description) + "\n")
        print(case, float(output.abs().max()), float(blended.abs().max()))


if __name__ == "__main__":
    main()
