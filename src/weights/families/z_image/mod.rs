//! Z-Image and Z-Image-Turbo: a transformer of one stream of tokens, a Qwen3 whose states are the text, and FLUX's
//! `AutoencoderKL` of 16 channels, whose latents are shifted.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (`convert_z_image_transformer_checkpoint_to_diffusers`) and the
//! configurations of the family's models there; ComfyUI `comfy/supported_models.py` (`ZImage`: prefixes).

mod names;
mod shapes;

use serde_json::{Value, json};

use super::family::{Checkpoint, CheckpointEncoder, CheckpointTokenizer, Family, LoraNames};
use super::{autoencoder_kl, qwen3};
use crate::backend::ParamSource as _;
use crate::model::{denoiser::z_image::ZImageConfig, text::TextArrangement};
use crate::weights::WeightsError;
use crate::weights::part::{Part, PartConfig};
use crate::weights::part_file::{
    LatentScale, Naming, PartFile, PartPlace, Prediction, Shapes, find, part_config,
};
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// The family.
#[derive(Debug)]
pub(super) struct ZImage;

/// Class of the denoiser.
const CLASS: &str = "ZImageTransformer2DModel";
/// Folder of the denoiser.
const FOLDER: &str = "transformer";

/// Scale of the latents of every model.
const LATENTS: LatentScale = LatentScale { factor: 0.3611, shift: Some(0.1159) };

/// Tokens of a text in diffusers' pipelines (`max_sequence_length`).
const TEXT_TOKENS: usize = 512;

/// Width of the text's tokens in every model: Qwen3-4B's.
const TEXT_WIDTH: usize = 2560;

/// Names in LoRA files (peft as diffusers saves it; ComfyUI; kohya-ss/musubi-tuner `networks/lora_zimage.py`).
const LORA: LoraNames = LoraNames {
    prefixes: &[
        ("lora_unet_", Part::Denoiser),
        ("lycoris_", Part::Denoiser),
        ("lora_transformer_", Part::Denoiser),
        ("transformer.", Part::Denoiser),
        ("diffusion_model.", Part::Denoiser),
        ("model.diffusion_model.", Part::Denoiser),
    ],
    text_readers: &["cap_embedder_1"],
};

impl Family for ZImage {
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
        let resolved = ZImageConfig::from_value(&config.config).map_err(|error| {
            WeightsError::Config { file: config.file.clone(), reason: error.to_string() }
        })?;
        Ok(names::names(&resolved))
    }

    fn text_arrangement(&self, _: &Value, _: &Value) -> TextArrangement {
        TextArrangement::Chat { tokens: TEXT_TOKENS }
    }

    /// Those of the turbo model: it is the one that was made for a few steps, and nothing in a file tells it from the base
    /// model, which takes 28 to 50 steps with guidance.
    fn defaults(&self, _: &Value, _: &Value) -> Value {
        defaults()
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

    /// Whole model as ComfyUI saves one; its tokenizer lies beside it.
    fn checkpoint(
        &self,
        file: &str,
        tensors: &TensorMap,
    ) -> Result<Option<Checkpoint>, WeightsError> {
        let Some(encoder) = qwen3::part(file, tensors)? else { return Ok(None) };
        let Some(denoiser) = transformer(file, tensors)? else { return Ok(None) };
        Ok(Some(Checkpoint {
            index: json!({
                "_class_name": "ZImagePipeline",
                "text_encoder": ["transformers", encoder.config.class],
            }),
            scheduler: json!({
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "num_train_timesteps": 1000,
                "shift": 3.0,
            }),
            vae: autoencoder_kl::part(file, tensors, LATENTS)?,
            denoiser: Some(denoiser),
            encoders: vec![CheckpointEncoder {
                part: Part::TextEncoder(0),
                file: encoder,
                tokenizer: CheckpointTokenizer::Qwen,
            }],
            notes: Vec::new(),
        }))
    }

    /// What makes the one vector of the timestep and what follows from it, what everything goes through (the first and the
    /// last layer, the text's embedding), and the tokens that fill up all others.
    fn is_sensitive(&self, name: &str) -> bool {
        const STARTS: [&str; 6] = [
            "all_x_embedder.",
            "all_final_layer.",
            "t_embedder.",
            "cap_embedder.",
            "cap_pad_token",
            "x_pad_token",
        ];
        STARTS.iter().any(|start| name.starts_with(start)) || name.contains("adaLN_modulation.")
    }

    fn lora(&self) -> LoraNames {
        LORA
    }

    fn generation(&self, text_width: usize) -> Option<&'static str> {
        (text_width == TEXT_WIDTH).then_some("Z-Image")
    }
}

/// Sampling that the makers recommend for Z-Image-Turbo (its model card): nine sigmas of which the last is 0, no guidance.
fn defaults() -> Value {
    json!({ "steps": 8, "guidance": 0.0 })
}

fn find_transformer(tensors: &TensorMap) -> Option<PartPlace> {
    let prefixes = ["model.diffusion_model.", "diffusion_model.", "transformer.", ""];
    let diffusers = "all_x_embedder.2-1.weight";
    let place = find(tensors, &prefixes, "x_embedder.weight", diffusers)?;
    // Lumina 2 names its blocks alike, and masks what it fills texts up with.
    tensors.contains(&format!("{}cap_pad_token", place.prefix)).then_some(place)
}

/// Transformer in a file of any contents, if there is one.
fn transformer(file: &str, tensors: &TensorMap) -> Result<Option<PartFile>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(PartPlace { prefix, naming }) = find_transformer(tensors) else { return Ok(None) };
    let config = shapes::config(&Shapes { tensors, prefix }, naming).map_err(&fail)?;
    let resolved = ZImageConfig::from_value(&config).map_err(|error| fail(error.to_string()))?;
    let names = names::names(&resolved)
        .into_iter()
        .map(|(ours, theirs, take)| match naming {
            Naming::Ldm => (ours, format!("{prefix}{theirs}"), take),
            Naming::Diffusers => (ours.clone(), format!("{prefix}{ours}"), Take::Whole),
        })
        .collect();
    let mut part = PartFile::new(part_config(CLASS, config, file, FOLDER), tensors, prefix, names);
    // A norm that the original code has and does not use.
    part.stored.insert(format!("{prefix}norm_final.weight"));
    Ok(Some(part))
}
