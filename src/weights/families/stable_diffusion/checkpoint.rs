//! Whole Stable Diffusion checkpoints with ldm's names, which is how most fine-tunes are handed around: which
//! generation one is, and its text encoders and scheduler.
//!
//! Source: diffusers `loaders/single_file_utils.py` (prefixes, families, schedules).

use serde_json::{Value, json};

use super::{latent_scale, marked_prediction, unet};
use crate::backend::ParamSource as _;
use crate::weights::WeightsError;
use crate::weights::clip_vocabulary::TokenPadding;
use crate::weights::families::family::{Checkpoint, CheckpointEncoder, CheckpointTokenizer};
use crate::weights::families::{autoencoder_kl, clip};
use crate::weights::part::Part;
use crate::weights::part_file::{PartFile, Prediction, Shapes, part_config};
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// Width of SD 2's text encoder, which none in OpenAI's form has.
const SD2_WIDTH: usize = 1024;

/// Generations of the family that come as one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Sd1,
    Sd2,
    Sdxl,
}

/// Prefixes of CLIP's tensors. The last two are those of checkpoints that leave out what stands around the
/// encoder in transformers: early SD 1.x fine-tunes, and those saved with transformers 5.
const CLIP_PREFIXES: [&str; 4] = [
    "cond_stage_model.transformer.text_model.",
    "conditioner.embedders.0.transformer.text_model.",
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
];
const CLIP_TOKENS: &str = "embeddings.token_embedding.weight";

/// Prefix that stable-diffusion.cpp gave SDXL's second encoder before it left names as they are (its `model.cpp`
/// of 2024: `convert_open_clip_to_hf_clip`, `preprocess_tensor`).
const CONVERTED_OPEN_CLIP: &str = "cond_stage_model.1.transformer.text_model.";

/// Whole model in a file that has text encoders.
pub(super) fn open(file: &str, tensors: &TensorMap) -> Result<Option<Checkpoint>, WeightsError> {
    let Some((generation, encoders)) = text_encoders(file, tensors)? else { return Ok(None) };
    let pooled = (encoders.iter())
        .filter(|encoder| encoder.part == Part::TextEncoder(1))
        .find_map(|encoder| encoder.file.config.config["projection_dim"].as_u64())
        .and_then(|width| usize::try_from(width).ok());
    let (denoiser, prediction) = unet(file, tensors, pooled)?.unzip();
    let vae = autoencoder_kl::part(file, tensors, latent_scale(generation == Generation::Sdxl))?;
    let prediction = prediction.flatten().unwrap_or_default();
    let mut notes = Vec::new();
    if generation == Generation::Sd2 && marked_prediction(tensors).is_none() {
        let kind = if prediction.velocity { "v" } else { "the noise" };
        notes.push(format!(
            "{file}: nothing in the file says what this SD 2 model predicts; from its weights, {kind}"
        ));
    }
    let pipeline = match generation {
        Generation::Sdxl => "StableDiffusionXLPipeline",
        Generation::Sd1 | Generation::Sd2 => "StableDiffusionPipeline",
    };
    Ok(Some(Checkpoint {
        index: json!({"_class_name": pipeline}),
        scheduler: scheduler(generation, prediction),
        denoiser,
        vae,
        encoders,
        notes,
    }))
}

/// Schedule with which all generations were trained, and the sampler that diffusers gives each; for SD 1.x that
/// is PNDM, of which DDIM is the one-step form.
fn scheduler(generation: Generation, prediction: Prediction) -> Value {
    let class = match generation {
        Generation::Sdxl => "EulerDiscreteScheduler",
        Generation::Sd1 | Generation::Sd2 => "DDIMScheduler",
    };
    let mut scheduler = json!({
        "_class_name": class,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": false,
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    });
    prediction.write(&mut scheduler);
    scheduler
}

/// Text encoders in a file, if it has any, and the generation that has them so.
fn text_encoders(
    file: &str,
    tensors: &TensorMap,
) -> Result<Option<(Generation, Vec<CheckpointEncoder>)>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let clip = CLIP_PREFIXES
        .into_iter()
        .find(|prefix| tensors.contains(&format!("{prefix}{CLIP_TOKENS}")));
    let open_clip = |prefix: &str| tensors.contains(&format!("{prefix}token_embedding.weight"));
    let converted = format!("{CONVERTED_OPEN_CLIP}{CLIP_TOKENS}");
    match clip {
        Some(prefix) if prefix == CLIP_PREFIXES[0] && tensors.contains(&converted) => {
            let encoders =
                vec![clip_encoder(file, tensors, prefix)?, converted_open_clip(file, tensors)?];
            Ok(Some((Generation::Sdxl, encoders)))
        }
        Some(prefix) if prefix.starts_with("conditioner.") => {
            let second = "conditioner.embedders.1.model.";
            if !open_clip(second) {
                return Err(fail(format!("tensor `{second}token_embedding.weight` is missing")));
            }
            let encoders = vec![
                clip_encoder(file, tensors, prefix)?,
                open_clip_encoder(file, tensors, second, Part::TextEncoder(1))?,
            ];
            Ok(Some((Generation::Sdxl, encoders)))
        }
        Some(prefix) => {
            let embedding = format!("{prefix}{CLIP_TOKENS}");
            if tensors.shape(&embedding).and_then(<[usize]>::last) == Some(&SD2_WIDTH) {
                return Err(fail(
                    "SD 2 with its text encoder renamed by an older stable-diffusion.cpp: not \
                     supported; convert it again with a newer one"
                        .to_owned(),
                ));
            }
            Ok(Some((Generation::Sd1, vec![clip_encoder(file, tensors, prefix)?])))
        }
        None => {
            // The second is how sgm would save SD 2, and how the SDXL refiner is saved.
            let prefixes = ["cond_stage_model.model.", "conditioner.embedders.0.model."];
            let Some(prefix) = prefixes.into_iter().find(|prefix| open_clip(prefix)) else {
                return Ok(None);
            };
            if tensors.contains("model.diffusion_model.label_emb.0.0.weight") {
                return Err(fail(
                    "an SDXL refiner or unCLIP model: not supported; use a base model".to_owned(),
                ));
            }
            let encoder = open_clip_encoder(file, tensors, prefix, Part::TextEncoder(0))?;
            Ok(Some((Generation::Sd2, vec![encoder])))
        }
    }
}

fn clip_encoder(
    file: &str,
    tensors: &TensorMap,
    prefix: &'static str,
) -> Result<CheckpointEncoder, WeightsError> {
    let config = clip::config(&Shapes { tensors, prefix })
        .map_err(|reason| WeightsError::Contents { file: file.to_owned(), reason })?;
    let names = clip_names(&config, prefix);
    let config = part_config("CLIPTextModel", config, file, "text_encoder");
    Ok(CheckpointEncoder {
        part: Part::TextEncoder(0),
        file: PartFile::new(config, tensors, prefix, names),
        tokenizer: CheckpointTokenizer::Clip(TokenPadding::EndOfText),
    })
}

/// SDXL's second encoder, or the only one of SD 2: that is used without its last layer, which
/// diffusers leaves away, and without the projection.
fn open_clip_encoder(
    file: &str,
    tensors: &TensorMap,
    prefix: &'static str,
    part: Part,
) -> Result<CheckpointEncoder, WeightsError> {
    let projected = part == Part::TextEncoder(1);
    let config = clip::open_clip_config(&Shapes { tensors, prefix }, usize::from(!projected))
        .map_err(|reason| WeightsError::Contents { file: file.to_owned(), reason })?;
    let names = clip::open_clip_names(layers(&config))
        .into_iter()
        .filter(|(name, ..)| projected || name != "text_projection.weight")
        .map(|(name, stored, take)| (name, format!("{prefix}{stored}"), take))
        .collect();
    let class = if projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    let left_out = clip::open_clip_names(layers(&config) + 1);
    let config =
        part_config(class, config, file, if projected { "text_encoder_2" } else { "text_encoder" });
    let mut file = PartFile::new(config, tensors, prefix, names);
    if !projected {
        file.stored.extend(left_out.into_iter().map(|(_, stored, _)| format!("{prefix}{stored}")));
    }
    Ok(CheckpointEncoder { part, file, tokenizer: CheckpointTokenizer::Clip(TokenPadding::Zero) })
}

/// SDXL's second encoder as stable-diffusion.cpp before its `--convert-name` renamed it: like
/// transformers, but for the projection.
fn converted_open_clip(file: &str, tensors: &TensorMap) -> Result<CheckpointEncoder, WeightsError> {
    let prefix = CONVERTED_OPEN_CLIP;
    let shapes = Shapes { tensors, prefix };
    let config = clip::converted_open_clip_config(&shapes)
        .map_err(|reason| WeightsError::Contents { file: file.to_owned(), reason })?;
    let mut names = clip_names(&config, prefix);
    let projection = format!("{prefix}text_projection");
    names.push(("text_projection.weight".to_owned(), projection, Take::Transposed));
    let config = part_config("CLIPTextModelWithProjection", config, file, "text_encoder_2");
    Ok(CheckpointEncoder {
        part: Part::TextEncoder(1),
        file: PartFile::new(config, tensors, prefix, names),
        tokenizer: CheckpointTokenizer::Clip(TokenPadding::Zero),
    })
}

/// Names of the tensors of an encoder with transformers' names behind `prefix`, which stands for
/// `text_model.`.
fn clip_names(config: &Value, prefix: &str) -> Vec<TensorName> {
    let stored =
        |name: &str| format!("{prefix}{}", name.strip_prefix("text_model.").unwrap_or(name));
    clip::names(layers(config))
        .into_iter()
        .map(|name| {
            let stored = stored(&name);
            (name, stored, Take::Whole)
        })
        .collect()
}

fn layers(config: &Value) -> usize {
    config["num_hidden_layers"]
        .as_u64()
        .and_then(|layers| usize::try_from(layers).ok())
        .unwrap_or(0)
}
