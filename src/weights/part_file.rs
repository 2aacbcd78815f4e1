//! One part of a model, a UNet or a VAE, found in a weights file (safetensors or GGUF) by its tensors:
//! whose names they have, and the configuration that their shapes tell.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (prefixes, schedules); ComfyUI
//! `comfy/supported_models.py` (marker tensors, which SD 2 predicts v).

use std::collections::HashSet;
use std::path::Path;

use candle_core::{DType, Device};
use serde_json::Value;

use super::WeightsError;
use super::form::{Part, PartConfig};
use super::gguf;
use super::ldm::{self, Take};
use super::shapes::{self, Naming, Shapes};
use super::source::{Bytes, has_extension, is_pickled, is_safetensors};
use super::tensors::TensorMap;
use crate::backend::ParamSource as _;
use crate::model::denoiser::unet::UNetConfig;
use crate::model::vae::KlConfig;

/// Scales of latents (diffusers: `scaling_factor`).
const SD_LATENT_SCALE: f64 = 0.18215;
const SDXL_LATENT_SCALE: f64 = 0.13025;

/// Native sizes in latent pixels.
const SD_SIDE: usize = 64;
const SD2_V_SIDE: usize = 96;
const SDXL_SIDE: usize = 128;

/// A standard deviation of the bias of the last transformer's first norm above which an SD 2 model
/// predicts v (ComfyUI's rule for `output_blocks.11.1.transformer_blocks.0.norm1.bias`: nothing else
/// in the file tells).
const SD2_V_DEVIATION: f32 = 0.09;

/// One part: what it is, and its tensors by our names.
#[derive(Clone, Debug)]
pub(super) struct PartFile {
    pub config: PartConfig,
    pub tensors: TensorMap,
    /// what stands before the names of the part's tensors in the file
    prefix: &'static str,
    /// the stored names of all tensors that the configuration asks for
    pub(super) stored: HashSet<String>,
}

impl PartFile {
    pub fn new(
        config: PartConfig,
        all: &TensorMap,
        prefix: &'static str,
        names: Vec<(String, String, Take)>,
    ) -> Self {
        let stored = names.iter().map(|(_, stored, _)| stored.clone()).collect();
        Self { config, tensors: all.renamed(names), prefix, stored }
    }

    /// The tensors of this part in its file that its configuration does not ask for.
    pub fn unused<'a>(&self, all: &'a TensorMap) -> impl Iterator<Item = &'a str> {
        all.names().filter(|name| name.starts_with(self.prefix) && !self.stored.contains(*name))
    }
}

/// What a UNet predicts, and whether its schedule ends in pure noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prediction {
    pub velocity: bool,
    pub zero_snr: bool,
}

impl Prediction {
    /// Writes it into a scheduler's configuration.
    pub fn write(self, scheduler: &mut Value) {
        scheduler["prediction_type"] =
            if self.velocity { "v_prediction" } else { "epsilon" }.into();
        if self.zero_snr {
            // Only trailing spacing begins where the signal is gone (Lin et al. 2024).
            scheduler["rescale_betas_zero_snr"] = true.into();
            scheduler["timestep_spacing"] = "trailing".into();
        }
    }
}

/// Reads the header of a weights file.
///
/// # Errors
/// A file that cannot be read, that is damaged, or of a kind that is not known.
pub(super) fn open_tensors(path: &Path) -> Result<TensorMap, WeightsError> {
    let name = path.display().to_string();
    let bytes =
        Bytes::map(path).map_err(|source| WeightsError::Read { file: name.clone(), source })?;
    if gguf::is_gguf(&bytes) {
        return gguf::tensors(name, bytes);
    }
    // The name of a file that is damaged still says what it was meant to be.
    let known = is_safetensors(&bytes) || has_extension(path, &["safetensors", "sft"]);
    if !known && !is_pickled(&bytes) {
        return Err(WeightsError::Contents {
            file: name,
            reason: "not a weights file that is known (.safetensors, .gguf)".to_owned(),
        });
    }
    let mut tensors = TensorMap::default();
    tensors.add_safetensors(name, bytes)?;
    Ok(tensors)
}

/// The tensors of a part in a file: what stands before their names, and whose names they are.
#[derive(Clone, Copy, Debug)]
struct Found {
    prefix: &'static str,
    naming: Naming,
}

fn find(
    tensors: &TensorMap,
    prefixes: &[&'static str],
    ldm_name: &str,
    diffusers_name: &str,
) -> Option<Found> {
    prefixes.iter().find_map(|prefix| {
        let naming = if tensors.contains(&format!("{prefix}{ldm_name}")) {
            Naming::Ldm
        } else if tensors.contains(&format!("{prefix}{diffusers_name}")) {
            Naming::Diffusers
        } else {
            return None;
        };
        Some(Found { prefix, naming })
    })
}

fn find_unet(tensors: &TensorMap) -> Option<Found> {
    let prefixes = ["model.diffusion_model.", "diffusion_model.", "unet.", ""];
    // A ControlNet has a UNet's way down, but not its way up.
    let last = ("output_blocks.0.0.in_layers.2.weight", "up_blocks.0.resnets.0.conv1.weight");
    find(tensors, &prefixes, last.0, last.1)
}

fn find_vae(tensors: &TensorMap) -> Option<Found> {
    let prefixes = ["first_stage_model.", "vae.", ""];
    let middle = ("decoder.mid.block_1.conv1.weight", "decoder.mid_block.resnets.0.conv1.weight");
    find(tensors, &prefixes, middle.0, middle.1)
}

/// Whether the schedule is marked in the file, by tensors or by Stability AI's metadata.
pub(super) fn marked_prediction(tensors: &TensorMap) -> Option<Prediction> {
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

/// The UNet in a file of any contents, and what it predicts, if that can be told.
///
/// `pooled` is the width of the pooled text embedding of the model that it is for.
///
/// # Errors
/// No UNet, or one of an architecture that is not supported.
pub(super) fn unet(
    file: &str,
    tensors: &TensorMap,
    pooled: Option<usize>,
) -> Result<(PartFile, Option<Prediction>), WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(Found { prefix, naming }) = find_unet(tensors) else {
        return Err(fail(format!("no UNet in it: {}", describe(tensors))));
    };
    if tensors.contains("edm_mean") || tensors.contains("edm_vpred.sigma_max") {
        return Err(fail(
            "a model with an EDM schedule (Playground 2.5, CosXL): not supported".to_owned(),
        ));
    }
    let mut config = shapes::unet(&Shapes { tensors, prefix }, naming, pooled).map_err(&fail)?;
    let sdxl = !config["addition_embed_type"].is_null();
    let sd2 = !sdxl && config["use_linear_projection"] == true;
    // Attention scores of SD 2.1 overflow f16.
    config["upcast_attention"] = sd2.into();
    let resolved =
        UNetConfig::from_json(&config.to_string()).map_err(|error| fail(error.to_string()))?;
    let names = ldm::unet_names(&resolved)
        .into_iter()
        .map(|(ours, theirs)| {
            let stored = if naming == Naming::Ldm { &theirs } else { &ours };
            let stored = format!("{prefix}{stored}");
            (ours, stored, Take::Whole)
        })
        .collect();
    let config = part_config("UNet2DConditionModel", config, file, Part::Unet);
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
    Ok((part, prediction))
}

/// A VAE out of a file of any contents, if it has one; `scaling_factor` is that of the model that it
/// is for.
///
/// # Errors
/// A VAE of an architecture that is not supported.
pub(super) fn vae(
    file: &str,
    tensors: &TensorMap,
    scaling_factor: f64,
) -> Result<Option<PartFile>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(Found { prefix, naming }) = find_vae(tensors) else { return Ok(None) };
    let config = shapes::vae(&Shapes { tensors, prefix }, naming, scaling_factor).map_err(&fail)?;
    let resolved = KlConfig::from_json(&config).map_err(|error| fail(error.to_string()))?;
    let names = ldm::vae_names(&resolved)
        .into_iter()
        .map(|(ours, theirs)| {
            let stored = match naming {
                Naming::Ldm => format!("{prefix}{theirs}"),
                Naming::Diffusers => stored_vae_name(tensors, &format!("{prefix}{ours}")),
            };
            (ours, stored, Take::Whole)
        })
        .collect();
    let config = part_config("AutoencoderKL", config, file, Part::Vae);
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

/// The name of a VAE's tensor in a file of diffusers' names: the one of diffusers before 0.12 for
/// the attention, if the file has that.
fn stored_vae_name(tensors: &TensorMap, name: &str) -> String {
    if !tensors.contains(name) {
        let old = old_vae_name(name);
        if tensors.contains(&old) {
            return old;
        }
    }
    name.to_owned()
}

/// What diffusers before 0.12 called a tensor of a VAE's attention.
pub(super) fn old_vae_name(name: &str) -> String {
    name.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn.")
}

pub(super) fn part_config(class: &str, config: Value, file: &str, part: Part) -> PartConfig {
    PartConfig { class: class.to_owned(), config, file: format!("{file}: {part}") }
}

/// The standard deviation of the first norm's bias in the last transformer of a UNet; 0 where there is
/// none.
fn deviation_of_last_norm(config: &UNetConfig, tensors: &TensorMap) -> Result<f32, WeightsError> {
    let Some(level) = config.up.last().filter(|level| level.transformer.is_some()) else {
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

/// The scale of the latents of SDXL, or of the models before it.
pub(super) fn latent_scale(sdxl: bool) -> f64 {
    if sdxl { SDXL_LATENT_SCALE } else { SD_LATENT_SCALE }
}

/// What a file that is not what is wanted is instead, for messages.
pub(super) fn describe(tensors: &TensorMap) -> &'static str {
    let any = |part: &str| tensors.names().any(|name| name.contains(part));
    if any("lora_") || any(".lora.") || any("hada_w") || any("lokr_w") {
        "a LoRA, not a model; use it on top of a model (--lora)"
    } else if any("control_model.") || any("controlnet_cond_embedding.") {
        "a ControlNet, not a model: not supported"
    } else if find_unet(tensors).is_some() {
        "a UNet without text encoders; use it as the UNet of a whole model (--unet)"
    } else if find_vae(tensors).is_some() {
        "a VAE alone; use it as the VAE of a whole model (--vae)"
    } else if any("encoder.layers.0.weight") && any("decoder.layers.0.weight") {
        "an AutoencoderTiny alone; give its folder with config.json as the VAE of a whole model (--vae)"
    } else if any("double_blocks.") || any("joint_blocks.") || any("transformer_blocks.") {
        "a diffusion transformer, not a model of the Stable Diffusion family with a UNet: not supported"
    } else if any("text_model.") || any("resblocks.") {
        "a text encoder alone, not a model"
    } else {
        "no model of the Stable Diffusion family: it has no UNet"
    }
}
