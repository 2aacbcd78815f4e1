//! Stable Diffusion 1.x, 2.x and SDXL: one UNet in three sizes, with CLIP's text encoders before it and an
//! `AutoencoderKL` behind.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (prefixes, schedules); ComfyUI
//! `comfy/supported_models.py` (marker tensors, which SD 2 predicts v).

mod checkpoint;
mod control;
mod unet_names;
mod unet_shapes;

use candle_core::{DType, Device};
use serde_json::Value;

use super::family::{Checkpoint, Family, LoraNames};
use crate::backend::ParamSource as _;
use crate::model::{denoiser::unet::UNetConfig, text::TextArrangement};
use crate::weights::WeightsError;
use crate::weights::part::{Part, PartConfig};
use crate::weights::part_file::{
    LatentScale, Naming, PartFile, PartPlace, Prediction, Shapes, find, part_config,
};
use crate::weights::tensors::{Take, TensorMap, TensorName};
pub(in crate::weights) use control::{control, find_control};

/// The family.
#[derive(Debug)]
pub(super) struct StableDiffusion;

/// Class of the denoiser.
const CLASS: &str = "UNet2DConditionModel";
/// Folder of the denoiser.
const FOLDER: &str = "unet";

/// Scales of latents.
const SD_LATENT_SCALE: f64 = 0.18215;
const SDXL_LATENT_SCALE: f64 = 0.13025;

/// Native sizes in latent pixels.
const SD_SIDE: usize = 64;
const SD2_V_SIDE: usize = 96;
const SDXL_SIDE: usize = 128;

/// Standard deviation of the bias of the last transformer's first norm above which an SD 2 model predicts v
/// (ComfyUI's rule for `output_blocks.11.1.transformer_blocks.0.norm1.bias`: nothing else in the file tells).
const SD2_V_DEVIATION: f32 = 0.09;

/// Names in LoRA files (kohya-ss/sd-scripts `networks/lora.py`, `networks/oft.py`; LyCORIS `wrapper.py`; diffusers'
/// folders; ComfyUI `comfy/lora.py`; whole checkpoints).
const LORA: LoraNames = LoraNames {
    prefixes: &[
        ("lora_unet_", Part::Denoiser),
        ("lora_te_", Part::TextEncoder(0)),
        ("lora_te1_", Part::TextEncoder(0)),
        ("lora_te2_", Part::TextEncoder(1)),
        ("oft_unet_", Part::Denoiser),
        ("lycoris_", Part::Denoiser),
        ("unet.", Part::Denoiser),
        ("text_encoder.", Part::TextEncoder(0)),
        ("text_encoder_2.", Part::TextEncoder(1)),
        ("diffusion_model.", Part::Denoiser),
        // As a whole checkpoint names its UNet.
        ("model.diffusion_model.", Part::Denoiser),
        ("cond_stage_model.transformer.", Part::TextEncoder(0)),
        ("cond_stage_model.model.", Part::TextEncoder(0)),
        ("conditioner.embedders.0.transformer.", Part::TextEncoder(0)),
        ("conditioner.embedders.1.model.", Part::TextEncoder(1)),
        ("text_encoders.clip_l.transformer.", Part::TextEncoder(0)),
        ("text_encoders.clip_g.transformer.", Part::TextEncoder(1)),
    ],
    text_readers: &["attn2_to_k", "attn2_to_v"],
};

impl Family for StableDiffusion {
    fn classes(&self) -> &'static [&'static str] {
        &[CLASS]
    }

    fn denoiser_folder(&self) -> &'static str {
        FOLDER
    }

    fn denoiser_title(&self) -> &'static str {
        "the UNet"
    }

    fn denoiser_names(&self, config: &PartConfig) -> Result<Vec<TensorName>, WeightsError> {
        let resolved = UNetConfig::from_value(&config.config).map_err(|error| {
            WeightsError::Config { file: config.file.clone(), reason: error.to_string() }
        })?;
        let names = unet_names::names(&resolved).into_iter();
        Ok(names.map(|(ours, theirs)| (ours, theirs, Take::Whole)).collect())
    }

    fn control_names(&self, config: &PartConfig) -> Option<Vec<String>> {
        control::control_names(config)
    }

    fn text_arrangement(&self, _: &Value, _: &Value) -> TextArrangement {
        TextArrangement::Clip
    }

    fn defaults(&self, _: &Value, _: &Value) -> Value {
        Value::Null
    }

    fn latent_scale(&self, denoiser: &Value) -> LatentScale {
        let is_sdxl = denoiser.get("addition_embed_type").is_some_and(|kind| kind == "text_time");
        latent_scale(is_sdxl)
    }

    fn has_denoiser(&self, tensors: &TensorMap) -> bool {
        find_unet(tensors).is_some()
    }

    fn denoiser(
        &self,
        file: &str,
        tensors: &TensorMap,
        pooled: Option<usize>,
    ) -> Result<Option<(PartFile, Option<Prediction>)>, WeightsError> {
        unet(file, tensors, pooled)
    }

    fn checkpoint(
        &self,
        file: &str,
        tensors: &TensorMap,
    ) -> Result<Option<Checkpoint>, WeightsError> {
        checkpoint::open(file, tensors)
    }

    /// Layers that act on one vector for the whole picture, so that no error of theirs averages out over
    /// pixels: the MLPs of timestep and added conditions and their projections into residual blocks. And the
    /// projections into and out of the transformers, 1 % of SDXL's weights through which everything goes:
    /// with them in q4_k, a small UNet of random weights errs by 7.8 %, without them by 3.6 %.
    fn is_sensitive(&self, name: &str) -> bool {
        const STARTS: [&str; 2] = ["time_embedding.", "add_embedding."];
        const PIECES: [&str; 3] = [".time_emb_proj.", ".proj_in.", ".proj_out."];
        STARTS.iter().any(|start| name.starts_with(start))
            || PIECES.iter().any(|piece| name.contains(piece))
    }

    fn lora(&self) -> LoraNames {
        LORA
    }

    fn generation(&self, text_width: usize) -> Option<&'static str> {
        match text_width {
            768 => Some("Stable Diffusion 1.x"),
            1024 => Some("Stable Diffusion 2.x"),
            2048 => Some("SDXL"),
            _ => None,
        }
    }
}

fn latent_scale(is_sdxl: bool) -> LatentScale {
    let factor = if is_sdxl { SDXL_LATENT_SCALE } else { SD_LATENT_SCALE };
    LatentScale { factor, shift: None }
}

fn find_unet(tensors: &TensorMap) -> Option<PartPlace> {
    let prefixes = ["model.diffusion_model.", "diffusion_model.", "unet.", ""];
    // A ControlNet has a UNet's encoder, but not its decoder.
    let last = ("output_blocks.0.0.in_layers.2.weight", "up_blocks.0.resnets.0.conv1.weight");
    find(tensors, &prefixes, last.0, last.1)
}

/// Target of the prediction as marked in the file, by tensors or by Stability AI's metadata.
fn marked_prediction(tensors: &TensorMap) -> Option<Prediction> {
    let zero_snr = tensors.contains("ztsnr");
    if tensors.contains("v_pred") {
        return Some(Prediction { velocity: true, zero_snr });
    }
    match tensors.metadata("modelspec.prediction_type") {
        Some("v" | "v_prediction") => Some(Prediction { velocity: true, zero_snr }),
        Some("epsilon") => Some(Prediction { velocity: false, zero_snr }),
        _ => None,
    }
}

fn unet(
    file: &str,
    tensors: &TensorMap,
    pooled: Option<usize>,
) -> Result<Option<(PartFile, Option<Prediction>)>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(PartPlace { prefix, naming }) = find_unet(tensors) else { return Ok(None) };
    if tensors.contains("edm_mean") || tensors.contains("edm_vpred.sigma_max") {
        return Err(fail(
            "a model with an EDM schedule (Playground 2.5, CosXL): not supported".to_owned(),
        ));
    }
    let shapes = Shapes { tensors, prefix };
    let mut config = unet_shapes::config(&shapes, naming, pooled).map_err(&fail)?;
    let conv_out = if naming == Naming::Ldm { "out.2.weight" } else { "conv_out.weight" };
    config["out_channels"] = shapes.size(conv_out, 0).map_err(&fail)?.into();
    let sdxl = !config["addition_embed_type"].is_null();
    let sd2 = !sdxl && config["use_linear_projection"] == true;
    // Attention scores of SD 2.1 overflow f16.
    config["upcast_attention"] = sd2.into();
    let resolved = UNetConfig::from_value(&config).map_err(|error| fail(error.to_string()))?;
    let names = unet_names::names(&resolved)
        .into_iter()
        .map(|(ours, theirs)| {
            let stored = if naming == Naming::Ldm { &theirs } else { &ours };
            let stored = format!("{prefix}{stored}");
            (ours, stored, Take::Whole)
        })
        .collect();
    let config = part_config(CLASS, config, file, FOLDER);
    let mut part = PartFile::new(config, tensors, prefix, names);

    let mut prediction = marked_prediction(tensors);
    if sd2 && prediction.is_none() {
        let velocity = deviation_of_last_norm(&resolved, &part.tensors)? > SD2_V_DEVIATION;
        prediction = Some(Prediction { velocity, zero_snr: false });
    }
    let side = match prediction {
        _ if sdxl => SDXL_SIDE,
        Some(Prediction { velocity: true, .. }) if sd2 => SD2_V_SIDE,
        _ => SD_SIDE,
    };
    part.config.config["sample_size"] = side.into();
    Ok(Some((part, prediction)))
}

/// Standard deviation of the first norm's bias in the last transformer; 0 where there is none.
fn deviation_of_last_norm(config: &UNetConfig, tensors: &TensorMap) -> Result<f32, WeightsError> {
    let Some(level) = config.up.last().filter(|level| !level.transformers.is_empty()) else {
        return Ok(0.0);
    };
    let transformer = format!("up_blocks.{}.attentions.{}", config.up.len() - 1, level.resnets - 1);
    let bias = tensors.get(
        &format!("{transformer}.transformer_blocks.0.norm1.bias"),
        &level.channels.into(),
        DType::F32,
        &Device::Cpu,
    )?;
    let mean = bias.mean_all()?;
    Ok(bias.broadcast_sub(&mean)?.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?)
}
