"""Makes tests/fixtures/flux2_klein: the conditions that diffusers' Flux2KleinPipeline has of transformers' Qwen3, and the
timesteps that it hands its scheduler's sigmas and shift for. Run make_z_image_fixtures.py first: the tokenizer is that
script's.

    python tests/make_fixtures/make_flux2_klein_fixtures.py

Written: `texts.json` (prompts, tokens of a sequence, ids, the encoder's configuration and the shapes of its tensors, which
both sides draw from one formula, `weight` of make_unet_fixtures.py), `texts.safetensors` (`encode_prompt` of each), and
`schedule.json` (the scheduler's configuration; timesteps by the number of tokens and of steps).
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from make_unet_fixtures import weight
from make_z_image_fixtures import PROMPTS

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "flux2_klein"
# Tokens of the pipeline's prompts: of the last one the end is cut off.
SEQUENCE = 64
# One layer more than those whose states the pipeline takes, as any encoder of it has.
ENCODER = dict(
    vocab_size=700, hidden_size=16, intermediate_size=24, num_hidden_layers=28, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_parameters=dict(rope_type="default", rope_theta=1e6),
    tie_word_embeddings=True, max_position_embeddings=512,
)
# That of FLUX.2-klein-4B.
SCHEDULER = dict(
    num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
    base_image_seq_len=256, max_image_seq_len=4096, time_shift_type="exponential",
)
TOKENS = [64, 1024, 4096, 4300, 4301, 16384]
STEPS = [1, 2, 4, 10, 50]


def text_encoder():
    """The encoder, its configuration as it is written, and the shapes of its tensors."""
    config = Qwen3Config(**ENCODER)
    model = Qwen3ForCausalLM(config).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items() if name != "lm_head.weight"}
    model.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()}, strict=False)
    written = json.loads(config.to_json_string(use_diff=False))
    kept = (*ENCODER, "hidden_act", "attention_bias", "use_sliding_window", "rms_norm_eps")
    written = {key: written[key] for key in kept}
    return model, dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", **written), shapes


def tokenizer():
    return Qwen2Tokenizer.from_pretrained(FIXTURES / "z_image" / "tokenizer")


def write_texts():
    model, config, shapes = text_encoder()
    pipe = Flux2KleinPipeline(scheduler=None, vae=None, text_encoder=model, tokenizer=tokenizer(), transformer=None)
    asked = []
    model.register_forward_pre_hook(lambda _, args, kwargs: asked.append(kwargs["input_ids"]), with_kwargs=True)
    with torch.no_grad():
        states, _ = pipe.encode_prompt(list(PROMPTS), device="cpu", max_sequence_length=SEQUENCE)
    (ids,) = asked
    assert states.shape == (len(PROMPTS), SEQUENCE, 3 * ENCODER["hidden_size"])
    save_file({str(row): one.contiguous() for row, one in enumerate(states)}, OUT / "texts.safetensors")
    description = dict(prompts=PROMPTS, sequence=SEQUENCE, ids=ids.tolist(), config=config, shapes=shapes)
    (OUT / "texts.json").write_text(json.dumps(description) + "\n")
    print([float(one.abs().max()) for one in states])


def write_schedule():
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    table = {}
    for tokens in TOKENS:
        for n in STEPS:
            # As in `Flux2KleinPipeline.__call__`.
            sigmas = np.linspace(1.0, 1 / n, n)
            scheduler.set_timesteps(sigmas=sigmas, mu=compute_empirical_mu(tokens, n))
            table.setdefault(tokens, {})[n] = [float(t) for t in scheduler.timesteps]
    config = dict(_class_name="FlowMatchEulerDiscreteScheduler", **SCHEDULER)
    (OUT / "schedule.json").write_text(json.dumps(dict(config=config, timesteps=table)) + "\n")


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    write_texts()
    write_schedule()


if __name__ == "__main__":
    main()
