"""Makes tests/fixtures/pixart_job: whole jobs with a tiny random PixArt and T5, by the literal method of
make_method_fixture.py in f64: several regions, every prior, guidance, DPM-Solver++ 2M with and without Karras sigmas.

    pip install sentencepiece protobuf
    python tests/make_fixtures/make_pixart_job_fixture.py

Text conditions are those of diffusers' PixArtAlphaPipeline, whose states of padding are masked; here they are zeros as
well, because a semantic weight between 0 and 1 blends the states of texts of different lengths, of which the longer
length counts (docs/method.md section 8).

The model's folder holds what is its own: VAE and tokenizer are those of tests/fixtures/img2img/model and
tests/fixtures/t5/json. Written beside it: `cases.json` (options, and changes of the scheduler's configuration) and
`expected.safetensors` (each case's picture, [H, W, 3] in 0..1); the input is that of tests/fixtures/method.
"""

import shutil
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from make_method_fixture import ALL, FIXTURES, NEGATIVE, PROMPT, RUN, STEPS, Case, Method, Walk, input_picture, write_json
from make_t5_fixtures import save_encoder
from make_vae_fixtures import randomize

AREA = FIXTURES / "pixart_job"
SHARED = FIXTURES / "img2img" / "model"
TRANSFORMER = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=8,
    num_layers=4,
    cross_attention_dim=24,
    sample_size=12,
    patch_size=2,
    caption_channels=16,
    use_additional_conditions=True,
)
# As PixArt-alpha/PixArt-XL-2-1024-MS has it, but for less noise (0.02 there), with which a random model leaves little unclamped.
SCHEDULER = dict(
    beta_start=0.0001,
    beta_end=0.006,
    beta_schedule="linear",
    num_train_timesteps=1000,
    prediction_type="epsilon",
    algorithm_type="dpmsolver++",
    solver_type="midpoint",
    solver_order=2,
    timestep_spacing="linspace",
    lower_order_final=True,
)
INDEX = {
    "_class_name": "PixArtAlphaPipeline",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


@dataclass
class PixArtCase(Case):
    """A job with PixArt; the scheduler's configuration may be another."""

    scheduler: tuple = ()

    def options(self):
        # Without the option the model's guidance would be the family's.
        options = super().options()
        return options if self.guidance else options + ["--guidance", "1"]


ALL = PixArtCase(**vars(ALL))
CASES = {
    "all": ALL,
    "semantics_half": replace(ALL, rsp=0.5, seed=3),
    "guided": replace(ALL, guidance=4.5, negative=NEGATIVE),
    # the encoded empty text
    "guided_empty": replace(ALL, guidance=2.0, rap=0.8, size=(80, 56), captions=""),
    "karras": replace(ALL, size=(80, 56), captions="", scheduler=(("use_karras_sigmas", True),)),
    # 8 latent rows where a region has 12
    "strip": replace(ALL, size=(98, 30), gsp=0.6, captions=""),
    "euler": replace(ALL, sampler="euler", spacing="trailing", size=(80, 56), captions=""),
}


def build():
    folder = AREA / "model"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(**TRANSFORMER)
    randomize(transformer, torch.Generator().manual_seed(70))
    # Predictions of the size of noise, so that the picture is not all clamped.
    with torch.no_grad():
        for parameter in transformer.proj_out.parameters():
            parameter.mul_(0.25)
    transformer.half().eval().save_pretrained(folder / "transformer")
    config = T5Config(
        vocab_size=1000, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    encoder = T5EncoderModel(config)
    save_encoder(folder / "text_encoder", encoder, 71)
    DPMSolverMultistepScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", INDEX)


class PixArtMethod(Method):
    def __init__(self):
        folder = AREA / "model"

        def load(kind, part):
            return kind.from_pretrained(folder / part, torch_dtype=torch.float32).double().eval()

        self.vae = AutoencoderTiny.from_pretrained(SHARED / "vae", torch_dtype=torch.float32).double().eval()
        self.unet = load(PixArtTransformer2DModel, "transformer")
        self.scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
        self.betas = {key: self.scheduler.config[key] for key in ("beta_start", "beta_end", "beta_schedule")}
        self.text = PixArtAlphaPipeline(
            vae=self.vae,
            transformer=self.unet,
            scheduler=self.scheduler,
            text_encoder=load(T5EncoderModel, "text_encoder"),
            tokenizer=T5Tokenizer.from_pretrained(FIXTURES / "t5" / "json"),
        )
        self.factor = 2 ** (len(self.vae.config.encoder_block_out_channels) - 1)
        self.region = self.unet.config.sample_size
        self.stride = self.unet.config.patch_size

    def walk(self, case):
        return SigmaWalk(case, self)

    def condition(self, text):
        context, mask, _, _ = self.text.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
        mask = mask.double()
        return context * mask.unsqueeze(-1), mask

    def negative(self, text):
        _, _, context, mask = self.text.encode_prompt(PROMPT, device="cpu", negative_prompt=text)
        mask = mask.double()
        return context * mask.unsqueeze(-1), mask

    def predict(self, z, low, t, condition):
        context, mask = condition
        side = float(self.region * self.factor)
        output = self.unet(
            z,
            encoder_hidden_states=context,
            encoder_attention_mask=(mask > 0).double(),
            timestep=t.reshape(1),
            added_cond_kwargs={
                "resolution": torch.tensor([[side, side]], dtype=torch.float64),
                "aspect_ratio": torch.tensor([[1.0]], dtype=torch.float64),
            },
        ).sample
        return output.chunk(2, dim=1)[0]


class SigmaWalk(Walk):
    """With levels that the scheduler's sigmas say, which may lie between timesteps."""

    def __init__(self, case, method):
        method.scheduler = DPMSolverMultistepScheduler.from_config(
            {**DPMSolverMultistepScheduler.load_config(AREA / "model" / "scheduler"), **dict(case.scheduler)}
        )
        super().__init__(case, method)

    def abar(self, i):
        if isinstance(self.scheduler, DPMSolverMultistepScheduler):
            return 1 / (1 + self.scheduler.sigmas[STEPS - RUN + i].double() ** 2)
        return super().abar(i)


def main():
    torch.set_num_threads(1)
    AREA.mkdir(parents=True, exist_ok=True)
    build()
    image, method, expected, cases = input_picture(), PixArtMethod(), {}, {}
    for name, case in CASES.items():
        expected[name], _ = method.run(image, case)
        assert expected[name].isfinite().all()
        cases[name] = {"options": case.options(), "scheduler": dict(case.scheduler)}
        inside = ((expected[name] > 0) & (expected[name] < 1)).double().mean().item()
        print(name, "inside", round(inside, 3))
        assert inside > 0.2, (name, inside)
    for name, reference in expected.items():
        if name != "all" and reference.shape == expected["all"].shape:
            assert (reference - expected["all"]).abs().max() > 0.05, name
    save_file(expected, AREA / "expected.safetensors")
    write_json(AREA / "cases.json", cases)


if __name__ == "__main__":
    main()
