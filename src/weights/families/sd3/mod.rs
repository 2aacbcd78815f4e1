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
        ("lycoris_", Part::Denoiser),
        ("lora_te1_", Part::TextEncoder(0)),
        ("lora_te2_", Part::TextEncoder(1)),
        ("lora_te3_", Part::TextEncoder(2)),
        ("transformer.", Part::Denoiser),
        ("text_encoder.", Part::TextEncoder(0)),
        ("text_encoder_2.", Part::TextEncoder(1)),
        ("text_encoder_3.", Part::TextEncoder(2)),
        ("diffusion_model.", Part::Denoiser),
        ("model.diffusion_model.", Part::Denoiser),
        ("text_encoders.clip_l.transformer.", Part::TextEncoder(0)),
        ("text_encoders.clip_g.transformer.", Part::TextEncoder(1)),
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

    fn defaults(&self, _: &Value, denoiser: &Value) -> Value {
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
    /// text's tokens, and the output with its modulation. The modulations of the blocks are a third of the weights, and
    /// rounded like the rest: with them in four bits (q4_0) a small transformer of random weights errs by 6.4 %, without
    /// by 5.5 %.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The tensors from which the configuration of a transformer of this width, with these blocks, follows.
    fn shapes(width: usize, layers: usize, dual: usize, qk_norm: bool, side: usize) -> TensorMap {
        let name = |name: &str| format!("model.diffusion_model.{name}");
        let mut shapes = vec![
            (name("pos_embed"), vec![1, side * side, width]),
            (name("x_embedder.proj.weight"), vec![width, 16, 2, 2]),
            (name("context_embedder.weight"), vec![width, 4096]),
            (name("y_embedder.mlp.0.weight"), vec![width, 2048]),
            (name("final_layer.linear.weight"), vec![64, width]),
        ];
        for layer in 0..layers {
            let block = format!("joint_blocks.{layer}");
            let picture = format!("{block}.x_block");
            let qkv = vec![3 * width, width];
            shapes.push((name(&format!("{block}.context_block.attn.qkv.weight")), qkv.clone()));
            let modulation = format!("{picture}.adaLN_modulation.1.weight");
            shapes.push((name(&modulation), vec![6 * width, width]));
            if qk_norm {
                shapes.push((name(&format!("{picture}.attn.ln_q.weight")), vec![64]));
            }
            if layer < dual {
                shapes.push((name(&format!("{picture}.attn2.qkv.weight")), qkv));
            }
        }
        TensorMap::of_shapes(shapes)
    }

    #[test]
    fn the_shapes_of_every_model_say_its_configuration_and_what_its_makers_recommend() {
        for (tensors, heads, guidance) in [
            (shapes(1536, 24, 0, false, 192), 24, 7.0),
            (shapes(1536, 24, 13, true, 384), 24, 4.5),
            (shapes(2432, 38, 0, true, 192), 38, 3.5),
        ] {
            let part = transformer("x", &tensors).unwrap().unwrap();
            let config = Sd3Config::from_value(&part.config.config).unwrap();
            assert_eq!((config.heads, config.head_width, config.layers), (heads, 64, heads));
            assert_eq!(
                (config.sample_size, config.in_channels, config.out_channels),
                (128, 16, 16)
            );
            assert_eq!((config.context_width, config.pooled_width), (4096, 2048));
            assert_eq!(defaults(&part.config.config)["guidance"], guidance);
            assert!(StableDiffusion3.has_denoiser(&tensors));
        }
    }

    #[test]
    fn an_autoencoder_without_quant_convolutions_has_the_familys_scale_and_shift() {
        let conv = |name: &str, out: usize, input: usize| {
            (format!("first_stage_model.{name}.weight"), vec![out, input, 3, 3])
        };
        let mut shapes = vec![
            conv("encoder.conv_in", 128, 3),
            conv("decoder.conv_in", 512, 16),
            conv("decoder.conv_out", 3, 128),
            conv("decoder.mid.block_1.conv1", 512, 512),
        ];
        for (level, width) in [128, 256, 512, 512].into_iter().enumerate() {
            for block in 0..2 {
                shapes.push(conv(
                    &format!("encoder.down.{level}.block.{block}.conv1"),
                    width,
                    width,
                ));
            }
        }
        let tensors = TensorMap::of_shapes(shapes);
        let part = super::super::autoencoder_kl::part("x", &tensors, LATENTS).unwrap().unwrap();
        let config = part.config.config;
        assert_eq!(
            (&config["scaling_factor"], &config["shift_factor"]),
            (&json!(1.5305), &json!(0.0609))
        );
        assert_eq!(
            (&config["use_quant_conv"], &config["latent_channels"]),
            (&json!(false), &json!(16))
        );
    }

    #[test]
    fn a_flux_transformer_is_none_of_the_family() {
        let flux = [("transformer_blocks.0.attn.add_k_proj.weight".to_owned(), vec![3072, 3072])];
        assert!(!StableDiffusion3.has_denoiser(&TensorMap::of_shapes(flux.into())));
    }
}
