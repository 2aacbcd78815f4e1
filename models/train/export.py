"""Writes `models/mini` in diffusers layout, f16 safetensors, from the checkpoints (or at random, for tests)."""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import build
import vae as vae_module


# What sharpen.py trained for: one step, at timestep 249 of a trailing schedule of four.
RECOMMENDED = {"cupscale": {"steps": 4, "denoise_steps": 1, "overlap": 0.25, "first_share": 0.5, "sharpen": 1, "grain": 1.25, "fidelity": 1, "texture": 1}}


def write_config(model, path, name=None, drop=()):
    """A config.json without this machine's paths and library noise."""
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    kept = {k: v for k, v in config.items() if k not in drop and not k.startswith("_")}
    kept["_class_name" if name else "architectures"] = name or [type(model).__name__]
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, default=list) + "\n")


def half(state, prefix=""):
    """Contiguous f16 copies; refuses what f16 cannot hold."""
    out = {}
    for key, value in state.items():
        if "position_ids" in key:
            continue
        value = value.detach().float().to(torch.float16).contiguous()
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} does not fit f16")
        out[key if key.startswith(prefix) else prefix + key] = value
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--random", action="store_true", help="untrained weights of the same architecture")
    parser.add_argument("--unet", default="unet.pt", help="UNet checkpoint in WORK")
    parser.add_argument("--vae", help="VAE checkpoint in WORK (default: the latest phase that is there)")
    parser.add_argument("--sharpened", nargs="+", help="checkpoint of sharpen.py in WORK: UNet, decoder and text encoders; of two "
                        "of one line of training the average")
    parser.add_argument("--second-share", type=float, default=0.25, help="of the second checkpoint in the average")
    parser.add_argument("--blend", type=pathlib.Path, help="average the VAE with that of this exported model")
    parser.add_argument("--blend-share", type=float, default=0.6, help="of that model in the average")
    parser.add_argument("--weights", choices=["ema", "last"], default="ema",
                        help="of the UNet: the moving average or the last ones")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="holds tokenizer/ and tokenizer_2/ already")
    args = parser.parse_args()
    torch.manual_seed(0)
    out = args.out
    vocab = len(CLIPTokenizer.from_pretrained(out / "tokenizer"))
    vae, unet = vae_module.build(), build.unet()
    one, two = build.text_encoders(vocab)
    scaling = 1.25
    recommended = {}
    if not args.random and not args.sharpened:
        candidates = [args.vae] if args.vae else ["vae_decoder.pt", "vae_joint.pt"]
        path = next(args.work / n for n in candidates if (args.work / n).exists())
        state = torch.load(path, map_location="cpu", weights_only=False)
        weights = state["ema"]
        if args.blend:
            # Two decoders of one line of training: their average keeps the detail of the later and loses its mesh.
            other = load_file(args.blend / "vae" / "diffusion_pytorch_model.safetensors")
            weights = {k: v.lerp(other[k].float(), args.blend_share) for k, v in weights.items()}
        vae.load_state_dict(weights)
        state = torch.load(args.work / args.unet, map_location="cpu", weights_only=False)
        whole = state["ema_all" if args.weights == "ema" else "model"]
        for module, prefix in ((unet, "unet."), (one, "text.one."), (two, "text.two.")):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)})
        scaling = state["scaling_factor"]
    elif args.sharpened:
        states = [torch.load(args.work / name, map_location="cpu", weights_only=False) for name in args.sharpened]
        state = states[-1]
        first = torch.load(args.work / "vae_joint.pt", map_location="cpu", weights_only=False)["ema"]
        kind = "ema" if args.weights == "ema" else "model"
        parts = {k: v.lerp(state[kind][k], args.second_share) if len(states) > 1 else v for k, v in states[0][kind].items()}
        take = lambda source, prefix: {  # noqa: E731
            k.removeprefix(prefix): v for k, v in source.items() if k.startswith(prefix)}
        vae.encoder.load_state_dict(take(first, "encoder."))
        vae.decoder.load_state_dict(take(parts, "decoder."))
        unet.load_state_dict(build.deepen(take(parts, "unet.")))
        one.load_state_dict(take(state["text"], "one."))
        two.load_state_dict(take(state["text"], "two."))
        scaling, recommended = state["args"]["scaling"], RECOMMENDED
    vae.register_to_config(scaling_factor=scaling)
    names = {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderTiny"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    for part in names:
        (out / part).mkdir(parents=True, exist_ok=True)
    (out / "model_index.json").write_text(json.dumps(
        {"_class_name": "StableDiffusionXLInstructPix2PixPipeline", "force_zeros_for_empty_prompt": False, **names,
         **recommended}, indent=2) + "\n")
    scheduler = build.scheduler()
    write_config(scheduler, out / "scheduler" / "scheduler_config.json", "DDIMScheduler")
    write_config(vae, out / "vae" / "config.json", "AutoencoderTiny", drop=("block_out_channels",))
    write_config(unet, out / "unet" / "config.json", "UNet2DConditionModel")
    text_noise = ("transformers_version", "_attn_implementation_autoset")
    write_config(one, out / "text_encoder" / "config.json", drop=text_noise)
    write_config(two, out / "text_encoder_2" / "config.json", drop=text_noise)
    meta = {"format": "pt"}
    save_file(half(vae.state_dict()), out / "vae" / "diffusion_pytorch_model.safetensors", meta)
    save_file(half(unet.state_dict()), out / "unet" / "diffusion_pytorch_model.safetensors", meta)
    # Newer transformers keep CLIPTextModel's weights without the prefix; published models all have it.
    save_file(half(one.state_dict(), "text_model."), out / "text_encoder" / "model.safetensors", meta)
    two_state = {k if k.startswith(("text_model.", "text_projection.")) else "text_model." + k: v
                 for k, v in two.state_dict().items()}
    save_file(half(two_state), out / "text_encoder_2" / "model.safetensors", meta)
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
