//! The interface to a model whatever the form in which users have it: parts with a configuration, tensors by
//! diffusers' (transformers') names, tokenizers, and a scheduler. Each form is a file of its own, and nothing
//! behind this trait knows which one it is.

use std::fmt::Debug;

use candle_core::DType;
use serde_json::Value;

use super::families::Family;
use super::part::{Part, PartConfig, TokenizerBytes};
use super::{ModelSource, WeightsError, tensors::TensorMap};

/// A model in one of its forms. Opening one reads headers and configurations, never tensors.
pub(super) trait ModelForm: Debug + Send + Sync {
    /// Place of the model.
    fn source(&self) -> &ModelSource;

    /// Family of its denoiser.
    fn family(&self) -> &'static dyn Family;

    /// Text encoders that the model has, in the order of their conditioning; at least one.
    ///
    /// # Errors
    /// A description that names none.
    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError>;

    /// Contents of `model_index.json`, or what they would be.
    fn index(&self) -> &Value;

    /// Contents of `scheduler/scheduler_config.json`, or what they would be.
    ///
    /// # Errors
    /// A file that is missing or not JSON.
    fn scheduler(&self) -> Result<Value, WeightsError>;

    /// Configuration of a part.
    ///
    /// # Errors
    /// A part that is missing, or a file that cannot be read.
    fn config(&self, part: Part) -> Result<PartConfig, WeightsError>;

    /// Tensors of a part; `dtype` is the precision wanted, where files offer a choice.
    ///
    /// # Errors
    /// A part that is missing, or a file that cannot be read.
    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError>;

    /// Tokenizer of a text encoder.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError>;

    /// Finds everything that loading a part will read, a text encoder's tokenizer included, without
    /// reading tensors.
    ///
    /// # Errors
    /// The first file that is missing.
    fn check_part(&self, part: Part) -> Result<(), WeightsError>;

    /// All parts: denoiser, VAE, and the text encoders in the order of their conditioning.
    ///
    /// # Errors
    /// As [`text_encoders`](Self::text_encoders).
    fn parts(&self) -> Result<Vec<Part>, WeightsError> {
        Ok([Part::Denoiser, Part::Vae].into_iter().chain(self.text_encoders()?).collect())
    }

    /// Finds everything that loading the model will read.
    ///
    /// # Errors
    /// The first file that is missing.
    fn check(&self) -> Result<(), WeightsError> {
        self.scheduler()?;
        self.parts()?.into_iter().try_for_each(|part| self.check_part(part))
    }

    /// Lines about what users may want to know of the model: tensors that nothing uses, and what had to be
    /// guessed.
    fn notes(&self) -> Vec<String>;
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

/// `true` if a tensor is one that many files have beside the weights and no inference needs: index buffers, parts
/// of CLIP for pictures, copies and tables for training, markers.
fn is_harmless(name: &str) -> bool {
    const ENDS: [&str; 5] = [
        "position_ids",
        "logit_scale",
        "text_projection",
        "text_projection.weight",
        "num_batches_tracked",
    ];
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
