//! A whole model in one file (safetensors or GGUF) with ldm's names, which is how most fine-tunes are
//! handed around. What a file is, its tensors say: neither its name nor the user is asked.
//!
//! Source: diffusers `loaders/single_file_utils.py` (prefixes, families, schedules).

use std::path::PathBuf;

use candle_core::DType;
use serde_json::{Value, json};

use super::clip_vocabulary::{self, Padding};
use super::form::{Form, Part, PartConfig, TokenizerBytes, unused_note};
use super::ldm::{self, Take};
use super::part_file::{
    PartFile, Prediction, describe, latent_scale, marked_prediction, open_tensors, part_config,
    unet, vae,
};
use super::shapes::{self, Shapes};
use super::tensors::TensorMap;
use super::{ModelSource, WeightsError};
use crate::backend::ParamSource as _;

/// The width of SD 2's text encoder, which none in OpenAI's form has.
const SD2_WIDTH: usize = 1024;

/// The families of models that come as one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Sd1,
    Sd2,
    Sdxl,
}

/// A text encoder with its padding.
#[derive(Debug)]
struct Encoder {
    part: Part,
    file: PartFile,
    padding: Padding,
}

/// A whole model in one file.
#[derive(Debug)]
pub(super) struct SingleFile {
    source: ModelSource,
    index: Value,
    unet: PartFile,
    vae: Option<PartFile>,
    encoders: Vec<Encoder>,
    scheduler: Value,
    notes: Vec<String>,
}

/// The last two as checkpoints have it that leave out what stands around the encoder in transformers:
/// early SD 1.x fine-tunes, and those saved with transformers 5.
const CLIP_PREFIXES: [&str; 4] = [
    "cond_stage_model.transformer.text_model.",
    "conditioner.embedders.0.transformer.text_model.",
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
];
const CLIP_TOKENS: &str = "embeddings.token_embedding.weight";

/// Where stable-diffusion.cpp put SDXL's second encoder before it left names as they are (its
/// `model.cpp` of 2024: `convert_open_clip_to_hf_clip`, `preprocess_tensor`).
const CONVERTED_OPEN_CLIP: &str = "cond_stage_model.1.transformer.text_model.";

impl SingleFile {
    /// Recognises the model and its family from the header of the file.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no whole model of a supported family.
    pub(super) fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let tensors = open_tensors(&path)?;
        let file = path.display().to_string();
        let Some((family, encoders)) = text_encoders(&file, &tensors)? else {
            return Err(WeightsError::Contents { file, reason: describe(&tensors).to_owned() });
        };
        let pooled = (encoders.iter())
            .filter(|encoder| encoder.part == Part::TextEncoder2)
            .find_map(|encoder| encoder.file.config.config["projection_dim"].as_u64())
            .and_then(|width| usize::try_from(width).ok());
        let (unet, prediction) = unet(&file, &tensors, pooled)?;
        let vae = vae(&file, &tensors, latent_scale(family == Family::Sdxl))?;
        let prediction = prediction.unwrap_or_default();
        let mut notes = Vec::new();
        if family == Family::Sd2 && marked_prediction(&tensors).is_none() {
            let kind = if prediction.velocity { "v" } else { "the noise" };
            notes.push(format!(
                "{file}: nothing in the file says what this SD 2 model predicts; from its weights, {kind}"
            ));
        }
        let parts: Vec<&PartFile> =
            [&unet].into_iter().chain(&vae).chain(encoders.iter().map(|one| &one.file)).collect();
        let unused =
            tensors.names().filter(|name| !parts.iter().any(|part| part.stored.contains(*name)));
        notes.extend(unused_note(&file, unused));
        let pipeline = match family {
            Family::Sdxl => "StableDiffusionXLPipeline",
            Family::Sd1 | Family::Sd2 => "StableDiffusionPipeline",
        };
        Ok(Self {
            source: ModelSource::Path(path),
            index: json!({"_class_name": pipeline}),
            unet,
            vae,
            encoders,
            scheduler: scheduler(family, prediction),
            notes,
        })
    }

    fn part(&self, part: Part) -> Result<&PartFile, WeightsError> {
        let file = match part {
            Part::Unet => Some(&self.unet),
            Part::Vae => self.vae.as_ref(),
            encoder => self.encoder(encoder).map(|encoder| &encoder.file),
        };
        file.ok_or_else(|| WeightsError::MissingPart {
            model: self.source.to_string(),
            part: part.title(),
            file: format!("the file has none: {part}"),
        })
    }

    fn encoder(&self, part: Part) -> Option<&Encoder> {
        self.encoders.iter().find(|encoder| encoder.part == part)
    }
}

impl Form for SingleFile {
    fn source(&self) -> &ModelSource {
        &self.source
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        Ok(self.encoders.iter().map(|encoder| encoder.part).collect())
    }

    fn index(&self) -> &Value {
        &self.index
    }

    fn scheduler(&self) -> Result<Value, WeightsError> {
        Ok(self.scheduler.clone())
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        Ok(self.part(part)?.config.clone())
    }

    fn tensors(&self, part: Part, _dtype: DType) -> Result<TensorMap, WeightsError> {
        Ok(self.part(part)?.tensors.clone())
    }

    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        self.part(encoder)?;
        let padding = self.encoder(encoder).map_or(Padding::EndOfText, |encoder| encoder.padding);
        Ok(clip_vocabulary::tokenizer(padding))
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        self.part(part).map(|_| ())
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// The schedule that all families were trained with, and the sampler that diffusers gives each; for
/// SD 1.x that is PNDM, of which DDIM is the one-step form.
fn scheduler(family: Family, prediction: Prediction) -> Value {
    let class = match family {
        Family::Sdxl => "EulerDiscreteScheduler",
        Family::Sd1 | Family::Sd2 => "DDIMScheduler",
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

/// The text encoders in a file, if it has any, and the family that has them so.
fn text_encoders(
    file: &str,
    tensors: &TensorMap,
) -> Result<Option<(Family, Vec<Encoder>)>, WeightsError> {
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
            Ok(Some((Family::Sdxl, encoders)))
        }
        Some(prefix) if prefix.starts_with("conditioner.") => {
            let second = "conditioner.embedders.1.model.";
            if !open_clip(second) {
                return Err(fail(format!("tensor `{second}token_embedding.weight` is missing")));
            }
            let encoders = vec![
                clip_encoder(file, tensors, prefix)?,
                open_clip_encoder(file, tensors, second, Part::TextEncoder2)?,
            ];
            Ok(Some((Family::Sdxl, encoders)))
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
            Ok(Some((Family::Sd1, vec![clip_encoder(file, tensors, prefix)?])))
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
            let encoder = open_clip_encoder(file, tensors, prefix, Part::TextEncoder)?;
            Ok(Some((Family::Sd2, vec![encoder])))
        }
    }
}

fn clip_encoder(
    file: &str,
    tensors: &TensorMap,
    prefix: &'static str,
) -> Result<Encoder, WeightsError> {
    let config = shapes::clip(&Shapes { tensors, prefix })
        .map_err(|reason| WeightsError::Contents { file: file.to_owned(), reason })?;
    let names = clip_names(&config, prefix);
    let config = part_config("CLIPTextModel", config, file, Part::TextEncoder);
    Ok(Encoder {
        part: Part::TextEncoder,
        file: PartFile::new(config, tensors, prefix, names),
        padding: Padding::EndOfText,
    })
}

/// SDXL's second encoder, or the only one of SD 2: that is used without its last layer, which
/// diffusers leaves away, and without the projection.
fn open_clip_encoder(
    file: &str,
    tensors: &TensorMap,
    prefix: &'static str,
    part: Part,
) -> Result<Encoder, WeightsError> {
    let projected = part == Part::TextEncoder2;
    let config = shapes::open_clip(&Shapes { tensors, prefix }, usize::from(!projected))
        .map_err(|reason| WeightsError::Contents { file: file.to_owned(), reason })?;
    let names = ldm::open_clip_names(layers(&config))
        .into_iter()
        .filter(|(name, ..)| projected || name != "text_projection.weight")
        .map(|(name, stored, take)| (name, format!("{prefix}{stored}"), take))
        .collect();
    let class = if projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    let left_out = ldm::open_clip_names(layers(&config) + 1);
    let config = part_config(class, config, file, part);
    let mut file = PartFile::new(config, tensors, prefix, names);
    if !projected {
        file.stored.extend(left_out.into_iter().map(|(_, stored, _)| format!("{prefix}{stored}")));
    }
    Ok(Encoder { part, file, padding: Padding::Zero })
}

/// SDXL's second encoder as stable-diffusion.cpp before its `--convert-name` renamed it: like
/// transformers, but for the projection.
fn converted_open_clip(file: &str, tensors: &TensorMap) -> Result<Encoder, WeightsError> {
    let prefix = CONVERTED_OPEN_CLIP;
    let shapes = Shapes { tensors, prefix };
    let config = shapes::converted_open_clip(&shapes)
        .map_err(|reason| WeightsError::Contents { file: file.to_owned(), reason })?;
    let mut names = clip_names(&config, prefix);
    let projection = format!("{prefix}text_projection");
    names.push(("text_projection.weight".to_owned(), projection, Take::Transposed));
    let config = part_config("CLIPTextModelWithProjection", config, file, Part::TextEncoder2);
    Ok(Encoder {
        part: Part::TextEncoder2,
        file: PartFile::new(config, tensors, prefix, names),
        padding: Padding::Zero,
    })
}

/// The tensors of an encoder that has transformers' names behind `prefix`, which stands for
/// `text_model.`.
fn clip_names(config: &Value, prefix: &str) -> Vec<(String, String, Take)> {
    let stored =
        |name: &str| format!("{prefix}{}", name.strip_prefix("text_model.").unwrap_or(name));
    ldm::clip_names(layers(config))
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
