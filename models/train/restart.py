"""Makes first checkpoints from an exported model, to train a published model further where no checkpoint is left.

Writes WORK/vae_joint.pt (encoder and decoder) and WORK/published_unet.pt (UNet and text encoders). The weights come back
rounded to f16, and the optimizers start anew.
"""
import argparse
import pathlib

import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

import build
import unet as unet_module
import vae as vae_module
from common import save_checkpoint


def renamed(stored, module):
    """`stored` under the names that this version of transformers gives the module's weights."""
    wanted, out = module.state_dict(), {}
    for name, value in stored.items():
        out[name if name in wanted else name.removeprefix("text_model.")] = value.float()
    return wanted | out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="exported model in diffusers layout")
    args = parser.parse_args()
    weights = "diffusion_pytorch_model.safetensors"
    vae = vae_module.build()
    vae.load_state_dict({k: v.float() for k, v in load_file(args.model / "vae" / weights).items()})
    net = unet_module.Net(len(CLIPTokenizer.from_pretrained(args.model / "tokenizer")))
    net.unet.load_state_dict(build.deepen({k: v.float() for k, v in load_file(args.model / "unet" / weights).items()}))
    for module, folder in ((net.text.one, "text_encoder"), (net.text.two, "text_encoder_2")):
        module.load_state_dict(renamed(load_file(args.model / folder / "model.safetensors"), module))
    save_checkpoint(args.work / "vae_joint.pt", ema=vae.state_dict(), model=vae.state_dict())
    save_checkpoint(args.work / "published_unet.pt", model=net.state_dict())


if __name__ == "__main__":
    main()
