//! Options for the diffusion model and changes to it.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, builder::TypedValueParser as _};
use cupscale::weights::{ModelChoice, QuantType};

use crate::cli::values::{self, EmbeddingArg, LoraArg};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A model that `models list` shows, a folder in diffusers layout, a .safetensors or .gguf file
    /// [default: the embedded model, mini]
    #[arg(short = 'n', long, value_name = "NAME|PATH")]
    pub model: Option<OsString>,
    /// What makes the picture that is repainted: lanczos, or an ESRGAN or Real-ESRGAN model (a name, a .safetensors file,
    /// or a .param with its .bin); with --denoise-steps 0 its picture is the output [default: the model's own network, which mini
    /// has, or lanczos]
    #[arg(long, value_name = "lanczos|NAME|FILE")]
    pub first: Option<OsString>,
    /// Another VAE for the model: a name, a folder or a file
    #[arg(long, value_name = "NAME|PATH")]
    pub vae: Option<OsString>,
    /// Another UNet or transformer for the model: a folder or a file
    #[arg(long, visible_alias = "transformer", value_name = "PATH")]
    pub unet: Option<PathBuf>,
    /// Another T5 (PixArt, SD 3) or Qwen3 (Z-Image, FLUX.2-klein) text encoder for the model, or one where it has none: a folder or a
    /// file (its vocabulary in it, or tokenizer.json or spiece.model beside it)
    #[arg(long, value_name = "PATH")]
    pub text_encoder: Option<PathBuf>,
    /// Round the model's weights to this type as they are read: less memory, a little less exact
    #[arg(long, value_name = "q8_0|q6_k|q5_k|q4_k|f16")]
    pub quantize: Option<QuantType>,
    /// LoRA to merge into the model's weights (safetensors), with its scale [default scale: 1] and weights of
    /// blocks with commas between them (17 or 26 for Stable Diffusion 1.5, 12 or 20 for SDXL); may be given several
    /// times
    #[arg(long, value_name = "NAME|FILE[:SCALE[:BLOCKS]]",
          value_parser = clap::builder::OsStringValueParser::new().try_map(values::lora))]
    pub lora: Vec<LoraArg>,
    /// Embedding (textual inversion, safetensors) that prompts may name, by its file's name or as `<NAME>`; or a folder of them;
    /// may be given several times
    #[arg(long, value_name = "[NAME=]FILE",
          value_parser = clap::builder::OsStringValueParser::new().try_map(values::embedding))]
    pub embedding: Vec<EmbeddingArg>,
}

impl ModelArgs {
    /// The model of the options, without ControlNets and what a prompt names.
    pub fn choice(&self) -> ModelChoice {
        ModelChoice {
            model: self.model.clone(),
            denoiser: self.unet.clone(),
            text_encoder: self.text_encoder.clone(),
            vae: self.vae.clone(),
            loras: self.lora.iter().cloned().map(Into::into).collect(),
            embeddings: self.embedding.iter().cloned().map(Into::into).collect(),
            controls: Vec::new(),
            quantize: self.quantize,
        }
    }
}

#[cfg(feature = "serve")]
impl ModelArgs {
    /// Another model, of which nothing is changed but the types of its weights; the first enlarger stays.
    pub fn of_other(&self, model: Option<OsString>) -> Self {
        Self {
            model,
            first: self.first.clone(),
            vae: None,
            unet: None,
            text_encoder: None,
            quantize: self.quantize,
            lora: Vec::new(),
            embedding: Vec::new(),
        }
    }
}
