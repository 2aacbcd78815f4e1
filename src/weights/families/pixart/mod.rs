//! PixArt-α and PixArt-Σ: one transformer, which reads T5's text states by cross-attention, with an `AutoencoderKL`
//! behind it: Stable Diffusion's for α, SDXL's for Σ.
//!
//! Sources: diffusers `pipelines/pixart_alpha/{pipeline_pixart_alpha,pipeline_pixart_sigma}.py`; ComfyUI
//! `comfy/model_detection.py` (which tensors tell the family).

mod names;
mod shapes;

use serde_json::{Value, json};

use super::family::{Checkpoint, Family, LoraNames};
use crate::model::{
    denoiser::pixart::{PixArtClass, PixArtConfig},
    text::TextArrangement,
};
use crate::weights::WeightsError;
use crate::weights::part::{Part, PartConfig};
use crate::weights::part_file::{
    LatentScale, Naming, PartFile, PartPlace, Prediction, Shapes, find, part_config,
};
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// The family.
#[derive(Debug)]
pub(super) struct PixArt;

/// Class of the denoiser.
const CLASS: &str = "PixArtTransformer2DModel";
/// Class that configurations before diffusers 0.29 name.
const OLD_CLASS: &str = "Transformer2DModel";
/// Folder of the denoiser.
const FOLDER: &str = "transformer";

/// Scales of latents: α has Stable Diffusion's autoencoder, Σ SDXL's.
const ALPHA_LATENT_SCALE: f64 = 0.18215;
const SIGMA_LATENT_SCALE: f64 = 0.13025;

/// Tokens of a text at most, the end token included (`max_sequence_length` of the pipelines).
const ALPHA_TOKENS: usize = 120;
const SIGMA_TOKENS: usize = 300;

/// Names in LoRA files (peft and diffusers' folders; OneTrainer and kohya-ss/sd-scripts).
const LORA: LoraNames = LoraNames {
    prefixes: &[
        ("lora_transformer_", Part::Denoiser),
        ("lora_unet_", Part::Denoiser),
        ("lycoris_", Part::Denoiser),
        ("lora_te_", Part::TextEncoder(0)),
        ("transformer.", Part::Denoiser),
        ("text_encoder.", Part::TextEncoder(0)),
        ("diffusion_model.", Part::Denoiser),
        ("model.diffusion_model.", Part::Denoiser),
    ],
    text_readers: &["caption_projection_linear_1", "y_embedder_y_proj_fc1"],
};

impl Family for PixArt {
    fn classes(&self) -> &'static [&'static str] {
        &[CLASS, OLD_CLASS]
    }

    fn denoiser_folder(&self) -> &'static str {
        FOLDER
    }

    fn denoiser_title(&self) -> &'static str {
        "the transformer"
    }

    fn denoiser_names(&self, config: &PartConfig) -> Result<Vec<TensorName>, WeightsError> {
        let class = if config.class == OLD_CLASS {
            PixArtClass::Transformer2D
        } else {
            PixArtClass::PixArt
        };
        let resolved = PixArtConfig::from_value(class, &config.config).map_err(|error| {
            WeightsError::Config { file: config.file.clone(), reason: error.to_string() }
        })?;
        Ok(names::names(&resolved))
    }

    /// The pipelines have the same text encoder, and differ in the length of its texts.
    fn text_arrangement(&self, index: &Value, denoiser: &Value) -> TextArrangement {
        let pipeline = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        let is_sigma = if pipeline.contains("Sigma") {
            true
        } else {
            !pipeline.contains("Alpha") && is_sigma(denoiser)
        };
        TextArrangement::T5 { tokens: if is_sigma { SIGMA_TOKENS } else { ALPHA_TOKENS } }
    }

    /// Those of the pipelines; the sampler is the scheduler's, DPM-Solver++ 2M.
    fn defaults(&self, _: &Value, _: &Value) -> Value {
        json!({"steps": 20, "guidance": 4.5})
    }

    fn latent_scale(&self, denoiser: &Value) -> LatentScale {
        let factor = if is_sigma(denoiser) { SIGMA_LATENT_SCALE } else { ALPHA_LATENT_SCALE };
        LatentScale { factor, shift: None }
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
        let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
        let Some(PartPlace { prefix, naming }) = find_transformer(tensors) else { return Ok(None) };
        let config = shapes::config(&Shapes { tensors, prefix }, naming).map_err(&fail)?;
        let resolved = PixArtConfig::from_value(PixArtClass::PixArt, &config)
            .map_err(|error| fail(error.to_string()))?;
        let names = names::names(&resolved)
            .into_iter()
            .map(|(ours, theirs, take)| match naming {
                Naming::Ldm => (ours, format!("{prefix}{theirs}"), take),
                Naming::Diffusers => (ours.clone(), format!("{prefix}{ours}"), Take::Whole),
            })
            .collect();
        let config = part_config(CLASS, config, file, FOLDER);
        let mut part = PartFile::new(config, tensors, prefix, names);
        part.stored.extend(names::LEFT_OUT.map(|name| format!("{prefix}{name}")));
        // Every published model predicts the noise, and what its scheduler says counts.
        Ok(Some((part, None)))
    }

    /// No file holds the transformer together with T5.
    fn checkpoint(&self, _: &str, _: &TensorMap) -> Result<Option<Checkpoint>, WeightsError> {
        Ok(None)
    }

    /// Layers that act on one vector for the whole picture, of which all blocks have their scales, shifts and gates;
    /// the first and the last layer; and the projection of the text.
    fn is_sensitive(&self, name: &str) -> bool {
        const STARTS: [&str; 4] =
            ["adaln_single.", "caption_projection.", "pos_embed.", "proj_out."];
        STARTS.iter().any(|start| name.starts_with(start)) || name.ends_with("scale_shift_table")
    }

    fn lora(&self) -> LoraNames {
        LORA
    }

    fn generation(&self, text_width: usize) -> Option<&'static str> {
        (text_width == 4096).then_some("PixArt")
    }
}

/// `true` for the configuration of a PixArt-Σ, as far as it tells: those of α were written before the field that says
/// that a model has no size micro-conditioning.
fn is_sigma(denoiser: &Value) -> bool {
    denoiser.get("use_additional_conditions").and_then(Value::as_bool) == Some(false)
}

fn find_transformer(tensors: &TensorMap) -> Option<PartPlace> {
    let prefixes = ["model.diffusion_model.", "diffusion_model.", "transformer.", "model.", ""];
    // Other families have modules of these names, but patches of another kind.
    let place = find(tensors, &prefixes, "t_block.1.weight", "adaln_single.linear.weight")?;
    let patch = match place.naming {
        Naming::Ldm => "x_embedder.proj.weight",
        Naming::Diffusers => "pos_embed.proj.weight",
    };
    let shape = tensors.shape(&format!("{}{patch}", place.prefix))?;
    (shape.len() == 4).then_some(place)
}
