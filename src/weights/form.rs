//! What every form in which users have a model has in common: parts with a configuration, tensors
//! by diffusers' (transformers') names, tokenizers, and a scheduler. Each form is a file of its own;
//! nothing behind this trait knows which one it is.

use std::fmt::{self, Debug};

use candle_core::DType;
use serde_json::Value;

use super::{ModelSource, WeightsError, tensors::TensorMap};

/// A part of a model that has weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Unet,
    Vae,
    TextEncoder,
    /// SDXL's second one, with the projection
    TextEncoder2,
}

impl Part {
    /// Every part, the text encoders in the order of their conditioning.
    pub const ALL: [Self; 4] = [Self::Unet, Self::Vae, Self::TextEncoder, Self::TextEncoder2];

    /// Its folder in diffusers layout, and its key in `model_index.json`.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }

    /// The folder of a text encoder's tokenizer.
    #[must_use]
    pub fn tokenizer_folder(self) -> &'static str {
        if self == Self::TextEncoder2 { "tokenizer_2" } else { "tokenizer" }
    }

    /// What it is called in a message.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Unet => "the UNet",
            Self::Vae => "the VAE",
            Self::TextEncoder | Self::TextEncoder2 => "the text encoder",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// The configuration of one part.
#[derive(Clone, Debug)]
pub(super) struct PartConfig {
    /// the class of diffusers or transformers, `UNet2DConditionModel` for example
    pub class: String,
    /// what `config.json` says, or would say
    pub config: Value,
    /// where that is written or what it was worked out from, for messages
    pub file: String,
}

/// The files of one tokenizer, by transformers' names; each may be absent.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenizerBytes {
    pub vocab_json: Option<Vec<u8>>,
    pub merges_txt: Option<Vec<u8>>,
    pub tokenizer_json: Option<Vec<u8>>,
    pub tokenizer_config_json: Option<Vec<u8>>,
    pub special_tokens_map_json: Option<Vec<u8>>,
    /// where they are, for messages
    pub place: String,
}

/// A model in one of its forms. Opening one reads headers and configurations, never tensors.
pub(super) trait Form: Debug + Send + Sync {
    /// Where the model is.
    fn source(&self) -> &ModelSource;

    /// The text encoders that the model has, in the order of their conditioning; at least one.
    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError>;

    /// What `model_index.json` says (or would say).
    fn index(&self) -> &Value;

    /// What `scheduler/scheduler_config.json` says (or would say).
    fn scheduler(&self) -> Result<Value, WeightsError>;

    /// A part's configuration.
    fn config(&self, part: Part) -> Result<PartConfig, WeightsError>;

    /// A part's tensors; `dtype` is the precision wanted, where files offer a choice.
    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError>;

    /// The tokenizer of a text encoder.
    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError>;

    /// Finds everything that loading a part will read, a text encoder's tokenizer included, without
    /// reading tensors.
    fn check_part(&self, part: Part) -> Result<(), WeightsError>;

    /// The same for the whole model.
    fn check(&self) -> Result<(), WeightsError> {
        self.scheduler()?;
        for part in [Part::Unet, Part::Vae].into_iter().chain(self.text_encoders()?) {
            self.check_part(part)?;
        }
        Ok(())
    }

    /// What users may want to know of the model, one line each: tensors that nothing uses, and what
    /// had to be guessed.
    fn notes(&self) -> Vec<String>;
}

/// The class that a `model_index.json` names for a part, if it names one.
pub(super) fn class_in(index: &Value, part: Part) -> Option<&str> {
    index.get(part.folder())?.get(1)?.as_str()
}

/// The text encoders that a `model_index.json` names, in the order of their conditioning.
pub(super) fn text_encoders_in(index: &Value) -> Vec<Part> {
    let both = [Part::TextEncoder, Part::TextEncoder2];
    both.into_iter().filter(|&part| class_in(index, part).is_some()).collect()
}

/// One line about tensors of a file that nothing asks for, if any of them could mean something.
pub(super) fn unused_note<'a>(file: &str, unused: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut unused: Vec<_> = unused.filter(|name| !is_harmless(name)).collect();
    unused.sort_unstable();
    match unused[..] {
        [] => None,
        [name] => Some(format!("{file}: tensor `{name}` is not used")),
        [first, ..] => {
            Some(format!("{file}: {} tensors are not used, `{first}` the first", unused.len()))
        }
    }
}

/// Tensors beside the weights that many files have and no inference needs: index buffers, parts of
/// CLIP for pictures, copies and tables for training, markers.
fn is_harmless(name: &str) -> bool {
    const ENDS: [&str; 4] =
        ["position_ids", "logit_scale", "text_projection", "text_projection.weight"];
    const STARTS: [&str; 5] =
        ["model_ema.", "loss.", "first_stage_model.loss.", "denoiser.", "embedding_manager."];
    const SCHEDULE: [&str; 18] = [
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "betas",
        "global_step",
        "log_one_minus_alphas_cumprod",
        "logvar",
        "lvlb_weights",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "posterior_variance",
        "scale_factor",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "v_pred",
        "ztsnr",
    ];
    ENDS.iter().any(|end| name.ends_with(end))
        || STARTS.iter().any(|start| name.starts_with(start))
        || SCHEDULE.contains(&name)
}
