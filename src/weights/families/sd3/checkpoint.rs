//! Whole models of Stable Diffusion 3 in one file, with the names of Stability AI's code: the transformer and the
//! autoencoder, and beside them the text encoders that the file has.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (`text_encoders.…`); ComfyUI `comfy/sd.py`, `comfy/sd1_clip.py` (a
//! projection of CLIP-L that a file leaves out is the identity).

use serde_json::{Value, json};

use super::{defaults, transformer};
use crate::backend::ParamSource as _;
use crate::weights::WeightsError;
use crate::weights::clip_vocabulary::TokenPadding;
use crate::weights::families::family::{Checkpoint, CheckpointEncoder, CheckpointTokenizer};
use crate::weights::families::{autoencoder_kl, clip, t5};
use crate::weights::part::Part;
use crate::weights::part_file::{PartFile, Shapes, part_config};
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// Prefixes of the two encoders of CLIP.
const CLIP_L: &str = "text_encoders.clip_l.transformer.";
const CLIP_G: &str = "text_encoders.clip_g.transformer.";
const TOKENS: &str = "text_model.embeddings.token_embedding.weight";
const PROJECTION: &str = "text_projection.weight";

/// Widest encoder whose projection may be left out; CLIP-L's is 768.
const WIDEST: usize = 4096;

/// Whole model in a file that has the encoders of CLIP; T5's may be absent.
pub(super) fn open(file: &str, tensors: &TensorMap) -> Result<Option<Checkpoint>, WeightsError> {
    let has = |prefix: &str| tensors.contains(&format!("{prefix}{TOKENS}"));
    if !has(CLIP_L) && !has(CLIP_G) {
        return Ok(None);
    }
    let Some(denoiser) = transformer(file, tensors)? else { return Ok(None) };
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    if let Some(prefix) = [CLIP_L, CLIP_G].into_iter().find(|prefix| !has(prefix)) {
        return Err(fail(format!("tensor `{prefix}{TOKENS}` is missing")));
    }
    let mut encoders = vec![
        clip_encoder(tensors, file, CLIP_L, 0).map_err(fail)?,
        clip_encoder(tensors, file, CLIP_G, 1).map_err(fail)?,
    ];
    if let Some(file) = t5::part(file, tensors)? {
        let part = Part::TextEncoder(2);
        encoders.push(CheckpointEncoder { part, file, tokenizer: CheckpointTokenizer::T5 });
    }
    let notes = if encoders.len() < 3 {
        vec![format!("{file}: without T5, which reads long descriptions and writing")]
    } else {
        Vec::new()
    };
    Ok(Some(Checkpoint {
        index: json!({
            "_class_name": "StableDiffusion3Pipeline",
            "cupscale": defaults(&denoiser.config.config),
        }),
        scheduler: scheduler(),
        vae: autoencoder_kl::part(file, tensors, super::LATENTS)?,
        denoiser: Some(denoiser),
        encoders,
        notes,
    }))
}

/// Schedule of every model of the family (diffusers' `scheduler_config.json`).
fn scheduler() -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 3.0,
    })
}

/// The encoder of CLIP below a prefix, with transformers' names.
fn clip_encoder(
    tensors: &TensorMap,
    file: &str,
    prefix: &'static str,
    index: usize,
) -> Result<CheckpointEncoder, String> {
    let is_open = index == 1;
    let shapes = Shapes { tensors, prefix: &format!("{prefix}text_model.") };
    let mut config = clip::config(&shapes)?;
    let hidden = shapes.size("embeddings.token_embedding.weight", 1)?;
    let has_projection = tensors.contains(&format!("{prefix}{PROJECTION}"));
    if has_projection {
        config["projection_dim"] = Shapes { tensors, prefix }.size(PROJECTION, 0)?.into();
    } else if is_open || hidden > WIDEST {
        return Err(format!("tensor `{prefix}{PROJECTION}` is missing"));
    }
    if is_open {
        config["hidden_act"] = "gelu".into();
    }
    let layers = config["num_hidden_layers"].as_u64().unwrap_or(0) as usize;
    let own = clip::names(layers).into_iter().chain([PROJECTION.to_owned()]);
    let names: Vec<TensorName> =
        own.map(|name| (name.clone(), format!("{prefix}{name}"), Take::Whole)).collect();
    let part = Part::TextEncoder(index);
    let folder = if is_open { "text_encoder_2" } else { "text_encoder" };
    let config = part_config("CLIPTextModelWithProjection", config, file, folder);
    let mut file = PartFile::new(config, tensors, prefix, names);
    if !has_projection {
        file.tensors.add_identity(PROJECTION, hidden);
    }
    let padding = if is_open { TokenPadding::Zero } else { TokenPadding::EndOfText };
    Ok(CheckpointEncoder { part, file, tokenizer: CheckpointTokenizer::Clip(padding) })
}
