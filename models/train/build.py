"""The architecture of `models/mini`: UNet, two text encoders, scheduler. (The VAE is built in vae.py.)

SDXL's family at a hundredth of its size. Choices that are not SDXL's: latents have 16 channels at f = 4, so that
fine detail survives the VAE; the UNet sees the low-resolution latent beside the noisy one (32 input channels);
8 normalisation groups, because groups of two channels would normalise away the local contrast that the
detail must follow.
"""
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

LATENT_CHANNELS = 16
FACTOR = 4
NATIVE = 64
# Edges run straight where many layers see them at the latent's own resolution: most of the depth is there.
DEPTH = 4
TRAILING = (999, 874, 749, 624, 499, 374, 249, 124)


def scheduler():
    """SDXL's schedule as DDIM with trailing spacing.

    After the last step abar is 1, not SDXL's abar_0: a residue of noise of 3 % would be seen as grain, because this VAE
    has room for fine detail.
    """
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", prediction_type="epsilon")


def text_encoders(vocab):
    """The two text encoders; the end token has the highest id, so argmax pooling finds it."""
    common = dict(vocab_size=vocab, max_position_embeddings=77, num_hidden_layers=2, num_attention_heads=4,
                  bos_token_id=vocab - 2, eos_token_id=vocab - 1)
    one = CLIPTextModel(CLIPTextConfig(hidden_size=64, intermediate_size=256, projection_dim=64, pad_token_id=vocab - 1,
                                       hidden_act="quick_gelu", **common))
    two = CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=128, intermediate_size=512, projection_dim=128,
                                                     pad_token_id=0, hidden_act="gelu", **common))
    return one, two


def unet(depth=DEPTH):
    """The UNet with `depth` residual blocks on the way down at the first level, and one more on the way up; started as a linear guess: a residual network around eps = (z_t - sqrt(a) zL) / sqrt(1 - a)."""
    model = UNet2DConditionModel(
        sample_size=NATIVE, in_channels=2 * LATENT_CHANNELS, out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 160), layers_per_block=[depth, 1, 1], transformer_layers_per_block=[1, 1, 1],
        attention_head_dim=[2, 4, 5], cross_attention_dim=192, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + 128, norm_num_groups=8)
    c = LATENT_CHANNELS
    with torch.no_grad():
        for name, module in model.named_modules():
            kind = type(module).__name__
            if kind == "ResnetBlock2D":
                module.conv2.weight.mul_(0.1)
            elif kind == "Attention":
                module.to_out[0].weight.mul_(0.1)
            elif kind == "FeedForward":
                module.net[-1].weight.mul_(0.1)
        # silu(x) - silu(-x) = x: pairs of opposite channels carry both latents through to the output.
        eye = torch.eye(2 * c)
        model.conv_in.weight.mul_(0.1)
        model.conv_in.weight[:, :, 1, 1] += torch.cat([eye[:c], -eye[:c], eye[c:], -eye[c:]])
        last = model.up_blocks[-1].resnets[-1].conv_shortcut
        last.weight.mul_(0.1)
        last.weight[:, 64:, 0, 0] += torch.eye(64)
        near, noise = 0.55 ** 0.5, 0.45 ** 0.5
        eye = torch.eye(c)
        model.conv_out.weight.mul_(0.1)
        model.conv_out.weight[:, :, 1, 1] += torch.cat(
            [eye / noise, -eye / noise, -eye * near / noise, eye * near / noise], 1)
    return model


@torch.no_grad()
def deepen(state):
    """The weights of `unet()` that compute what these compute, of a UNet with fewer residual blocks at the first level."""
    model = unet()
    deep, last = model.state_dict(), len(model.up_blocks) - 1
    had = 1 + max(int(key.split(".")[3]) for key in state if key.startswith("down_blocks.0.resnets."))
    # The last block on the way up takes the skip connection of the first convolution, the others those of the blocks.
    ups = {**{i: i for i in range(had)}, DEPTH: had}
    for key in deep:
        where, _, rest = key.partition(".resnets.")
        number, _, name = rest.partition(".")
        if where == "down_blocks.0" and name and int(number) >= had:
            if name.startswith("conv2."):
                deep[key].zero_()
        elif where == f"up_blocks.{last}" and name:
            if int(number) in ups:
                deep[key] = state[f"{where}.resnets.{ups[int(number)]}.{name}"]
            elif name.startswith(("conv2.", "conv_shortcut.")):
                deep[key].zero_()
                if name == "conv_shortcut.weight":
                    width = deep[key].shape[0]
                    deep[key][:, :width, 0, 0] = torch.eye(width)
        else:
            deep[key] = state[key]
    return deep
