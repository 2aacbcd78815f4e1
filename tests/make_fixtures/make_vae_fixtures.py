"""Makes tests/fixtures/vae and tests/fixtures/weights: small autoencoders with random weights, and
what diffusers computes with them.

    python tests/make_fixtures/make_vae_fixtures.py

Each folder under tests/fixtures/vae holds `config.json`, `weights.safetensors` and
`expected.safetensors` (`image`, `latent` = its encoding, `z`, `decoded` = the decoding of `z`); all
activations channels-last, latents as the diffusion model has them: multiplied by the scaling factor, or packed and
normalized as the pipeline does it. tests/fixtures/weights holds the
same kind of model as diffusers itself saves it in shards and with variants.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny, Flux2KleinPipeline
from safetensors.torch import save_file

# The middle attention's linear layers, as named before diffusers 0.12.
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


def randomize(model, generator):
    """Weights that keep activations near unit size, and no parameter at a neutral value."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * (1.5 / fan_in) ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.1 * noise)
        if hasattr(model, "bn"):
            model.bn.running_mean.copy_(0.5 * torch.randn(model.bn.running_mean.shape, generator=generator))
            model.bn.running_var.copy_(0.01 + torch.rand(model.bn.running_var.shape, generator=generator))


def scaled(vae, latent):
    """Latents of the diffusion model."""
    if isinstance(vae, AutoencoderKLFlux2):
        mean, deviation = moments(vae)
        return (Flux2KleinPipeline._patchify_latents(latent) - mean) / deviation
    return (latent - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def unscaled(vae, z):
    """Latents of the autoencoder."""
    if isinstance(vae, AutoencoderKLFlux2):
        mean, deviation = moments(vae)
        return Flux2KleinPipeline._unpatchify_latents(z * deviation + mean)
    return z / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)


def moments(vae):
    """Mean and deviation of packed latents, as `Flux2KleinPipeline.__call__` has them."""
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    return mean, torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)


def last(x):
    return x.permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def expect(vae, shape, generator):
    """Results of the model for a random picture and a random latent."""
    batch, height, width = shape
    image = torch.rand((batch, 3, height, width), generator=generator) * 2 - 1
    encoded = vae.encode(image)
    latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    latent = scaled(vae, latent)
    z = torch.randn(latent.shape, generator=generator)
    decoded = vae.decode(unscaled(vae, z)).sample
    tensors = {"image": image, "latent": latent, "z": z, "decoded": decoded}
    return {name: last(tensor) for name, tensor in tensors.items()}


def write_config(vae, folder):
    folder.mkdir(parents=True)
    config = {"_class_name": type(vae).__name__, **vae.config}
    # The list of defaults is a set: its order changes from run to run.
    config = {key: value for key, value in config.items() if key != "_use_default_values"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write(name, vae, shape, seed, half=False, old_names=False):
    generator = torch.Generator().manual_seed(seed)
    randomize(vae, generator)
    if half:
        vae.half().float()
    folder = FIXTURES / "vae" / name
    write_config(vae, folder)
    weights = {}
    for key, tensor in vae.state_dict().items():
        if old_names:
            for new, old in OLD_NAMES.items():
                key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        weights[key] = tensor.half() if half else tensor.clone()
    save_file(weights, folder / "weights.safetensors")
    save_file(expect(vae.eval(), shape, generator), folder / "expected.safetensors")


def write_as_saved(name, seed, dtype=torch.float32, **save):
    """A model folder with a VAE alone, saved by diffusers."""
    generator = torch.Generator().manual_seed(seed)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ).eval()
    randomize(vae, generator)
    vae.to(dtype)
    folder = FIXTURES / "weights" / name
    vae.save_pretrained(folder / "vae", **save)
    index = {"_class_name": "StableDiffusionXLPipeline", "vae": ["diffusers", "AutoencoderTiny"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    # The model is computed with in f32, from the stored precision.
    save_file(expect(vae.float(), (1, 6, 4), generator), folder / "expected.safetensors")


def main():
    torch.set_num_threads(1)
    for area in ("vae", "weights"):
        shutil.rmtree(FIXTURES / area, ignore_errors=True)
    write(
        "kl",
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            scaling_factor=0.13025,
        ),
        (2, 12, 20),
        seed=1,
    )
    write(
        "kl_old_names_f16",
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 8, 8),
            layers_per_block=2,
            norm_num_groups=2,
            latent_channels=6,
            scaling_factor=0.5,
            shift_factor=0.3,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        (1, 28, 16),
        seed=2,
        half=True,
        old_names=True,
    )
    write(
        "kl_no_attention",
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            block_out_channels=(4,),
            norm_num_groups=4,
            mid_block_add_attention=False,
        ),
        (1, 5, 7),
        seed=3,
    )
    write(
        "kl_packed",
        AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            decoder_block_out_channels=(4, 6),
            latent_channels=3,
            batch_norm_eps=1e-3,
        ),
        (2, 12, 20),
        seed=9,
    )
    write(
        "tiny_asymmetric",
        AutoencoderTiny(
            encoder_block_out_channels=(6, 6, 6),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 2, 0),
            num_decoder_blocks=(2, 1),
            upsampling_scaling_factor=4,
            latent_channels=6,
            scaling_factor=0.7,
        ),
        (2, 20, 32),
        seed=4,
    )
    write(
        "tiny_f16",
        AutoencoderTiny(
            encoder_block_out_channels=(6,) * 4,
            decoder_block_out_channels=(6,) * 4,
        ),
        (1, 24, 40),
        seed=5,
        half=True,
    )
    write_as_saved("sharded", seed=6, max_shard_size="2KB")
    write_as_saved("sharded_fp16", seed=7, dtype=torch.float16, max_shard_size="1KB", variant="fp16")
    write_as_saved("variant_bf16", seed=8, dtype=torch.bfloat16, variant="bf16")


if __name__ == "__main__":
    main()
