//! Stable Diffusion 3 and 3.5 (medium, large, large-turbo): a transformer of joint attention, two text encoders of CLIP and
//! T5, which may be absent, and an `AutoencoderKL` of 16 channels whose latents are shifted.
//!
//! Sources: diffusers `loaders/single_file_utils.py`, and the configurations of the family's models in diffusers; ComfyUI
//! `comfy/model_detection.py` (marker tensors).

mod checkpoint;
mod names;
mod shapes;

use serde_json::{Value, json};

use super::family::{Checkpoint, Family, LoraNames};
use crate::backend::ParamSource as _;
use crate::model::{denoiser::sd3::Sd3Config, text::TextArrangement};
use crate::weights::WeightsError;
use crate::weights::part::{Part, PartConfig};
use crate::weights::part_file::{
    LatentScale, Naming, PartFile, PartPlace, Prediction, Shapes, find, part_config,
};
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// The family.
#[derive(Debug)]
pub(super) struct StableDiffusion3;

/// Class of the denoiser.
const CLASS: &str = "SD3Transformer2DModel";
/// Folder of the denoiser.
const FOLDER: &str = "transformer";

/// Scale of the latents of every model.
const LATENTS: LatentScale = LatentScale { factor: 1.5305, shift: Some(0.0609) };

/// Tokens of T5 in diffusers' pipelines (`max_sequence_length`).
const T5_TOKENS: usize = 256;

/// Width from which a model is a large one.
const LARGE_WIDTH: usize = 2432;

/// Names in LoRA files (peft as diffusers saves it; kohya-ss/sd-scripts `networks/lora_sd3.py`; OneTrainer).
const LORA: LoraNames = LoraNames {
    prefixes: &[
        ("lora_transformer_", Part::Denoiser),
        ("lora_unet_", Part::Denoiser),
        ("lora_te1_", Part::TextEncoder(0)),
        ("lora_te2_", Part::TextEncoder(1)),
        ("lora_te3_", Part::TextEncoder(2)),
        ("transformer.", Part::Denoiser),
        ("text_encoder.", Part::TextEncoder(0)),
        ("text_encoder_2.", Part::TextEncoder(1)),
        ("text_encoder_3.", Part::TextEncoder(2)),
        ("diffusion_model.", Part::Denoiser),
        ("model.diffusion_model.", Part::Denoiser),
    ],
    text_readers: &["context_embedder"],
};

impl Family for StableDiffusion3 {
    fn classes(&self) -> &'static [&'static str] {
        &[CLASS]
    }

    fn denoiser_folder(&self) -> &'static str {
        FOLDER
    }

    fn denoiser_title(&self) -> &'static str {
        "the transformer"
    }

    fn denoiser_names(&self, config: &PartConfig) -> Result<Vec<TensorName>, WeightsError> {
        let resolved = Sd3Config::from_value(&config.config).map_err(|error| {
            WeightsError::Config { file: config.file.clone(), reason: error.to_string() }
        })?;
        Ok(names::names(&resolved))
    }

    fn text_arrangement(&self, _: &Value, denoiser: &Value) -> TextArrangement {
        // A configuration that is refused is refused elsewhere.
        let width = Sd3Config::from_value(denoiser).map_or(0, |config| config.context_width);
        TextArrangement::Joint { tokens: T5_TOKENS, width }
    }

    fn defaults(&self, denoiser: &Value) -> Value {
        defaults(denoiser)
    }

    fn latent_scale(&self, _: &Value) -> LatentScale {
        LATENTS
    }

    fn has_denoiser(&self, tensors: &TensorMap) -> bool {
        find_transformer(tensors).is_some()
    }

    fn denoiser(
        &self,
        file: &str,
        tensors: &TensorMap,
        _: Option<usize>,
    ) -> Result<Option<(PartFile, Option<Prediction>)>, WeightsError> {
        Ok(transformer(file, tensors)?.map(|part| (part, None)))
    }

    fn checkpoint(
        &self,
        file: &str,
        tensors: &TensorMap,
    ) -> Result<Option<Checkpoint>, WeightsError> {
        checkpoint::open(file, tensors)
    }

    /// What makes the one vector of timestep and pooled text, and what everything goes through: the embedding of the
    /// text's tokens, and the output with its modulation. The modulations of the blocks are a third of the weights; they
    /// are rounded like the rest.
    fn is_sensitive(&self, name: &str) -> bool {
        const STARTS: [&str; 5] =
            ["pos_embed.", "time_text_embed.", "context_embedder.", "norm_out.", "proj_out."];
        STARTS.iter().any(|start| name.starts_with(start))
    }

    fn lora(&self) -> LoraNames {
        LORA
    }

    fn generation(&self, text_width: usize) -> Option<&'static str> {
        (text_width == 4096).then_some("Stable Diffusion 3")
    }
}

/// Sampling that the makers recommend for a model with this denoiser (the model cards; diffusers' pipeline for
/// Stable Diffusion 3).
fn defaults(denoiser: &Value) -> Value {
    let config = Sd3Config::from_value(denoiser).ok();
    let is_35 = config.as_ref().is_some_and(|config| config.qk_norm);
    let is_large = config.is_some_and(|config| config.width() >= LARGE_WIDTH);
    let (steps, guidance) = match (is_35, is_large) {
        (false, _) => (28, 7.0),
        (true, false) => (40, 4.5),
        (true, true) => (28, 3.5),
    };
    json!({ "steps": steps, "guidance": guidance })
}

fn find_transformer(tensors: &TensorMap) -> Option<PartPlace> {
    let prefixes = ["model.diffusion_model.", "diffusion_model.", "transformer.", ""];
    let place = find(
        tensors,
        &prefixes,
        "joint_blocks.0.context_block.attn.qkv.weight",
        "transformer_blocks.0.attn.add_k_proj.weight",
    )?;
    // FLUX names its blocks alike, and has no table of positions.
    let table = match place.naming {
        Naming::Ldm => "pos_embed",
        Naming::Diffusers => "pos_embed.pos_embed",
    };
    tensors.contains(&format!("{}{table}", place.prefix)).then_some(place)
}

/// Transformer in a file of any contents, if there is one.
fn transformer(file: &str, tensors: &TensorMap) -> Result<Option<PartFile>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(PartPlace { prefix, naming }) = find_transformer(tensors) else { return Ok(None) };
    let config = shapes::config(&Shapes { tensors, prefix }, naming).map_err(&fail)?;
    let resolved = Sd3Config::from_value(&config).map_err(|error| fail(error.to_string()))?;
    let names = names::names(&resolved)
        .into_iter()
        .map(|(ours, theirs, take)| match naming {
            Naming::Ldm => (ours, format!("{prefix}{theirs}"), take),
            Naming::Diffusers => (ours.clone(), format!("{prefix}{ours}"), Take::Whole),
        })
        .collect();
    let config = part_config(CLASS, config, file, FOLDER);
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}
