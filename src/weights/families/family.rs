//! The interface to a family of models, and the words that families share with forms.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Debug;

use serde_json::Value;

use super::{autoencoder_kl, clip, qwen3, t5};
use crate::model::text::{TextArrangement, clip::ClipTextConfig, qwen3::Qwen3Config, t5::T5Config};
use crate::model::vae::KlConfig;
use crate::weights::WeightsError;
use crate::weights::clip_vocabulary::TokenPadding;
use crate::weights::part::{Part, PartConfig, with_class};
use crate::weights::part_file::{LatentScale, PartFile, Prediction};
use crate::weights::tensors::{TensorMap, TensorName};

/// Text encoders of a model at most.
const TEXT_ENCODERS: usize = 4;

/// One family of models.
pub(in crate::weights) trait Family: Debug + Send + Sync {
    /// Classes of its denoisers in diffusers.
    fn classes(&self) -> &'static [&'static str];

    /// Folder of its denoiser in diffusers layout, which is also its key in `model_index.json`.
    fn denoiser_folder(&self) -> &'static str;

    /// Name of its denoiser in messages, with the article.
    fn denoiser_title(&self) -> &'static str;

    /// Names of all tensors that a denoiser's configuration asks for: ours (diffusers') with the training
    /// code's, which may keep several of ours in one.
    ///
    /// # Errors
    /// A configuration that is not supported.
    fn denoiser_names(&self, config: &PartConfig) -> Result<Vec<TensorName>, WeightsError>;

    /// Names (diffusers') of all tensors that the configuration of a control of this family asks for; `None` for one that
    /// will be refused, as all are where the family has none.
    fn control_names(&self, _config: &PartConfig) -> Option<Vec<String>> {
        None
    }

    /// How the states of the text encoders of a model become the context of its denoiser, by its `model_index.json` and
    /// the denoiser's `config.json`.
    fn text_arrangement(&self, index: &Value, denoiser: &Value) -> TextArrangement;

    /// Sampling that the makers recommend for a model, by its `model_index.json` and the denoiser's `config.json`: what a model's
    /// `model_index.json` may have under `cupscale`. Null where they leave it open.
    fn defaults(&self, index: &Value, denoiser: &Value) -> Value;

    /// Scale of the latents of a model with this denoiser.
    fn latent_scale(&self, denoiser: &Value) -> LatentScale;

    /// `true` if a file holds a denoiser of this family, by names of tensors alone.
    fn has_denoiser(&self, tensors: &TensorMap) -> bool;

    /// Denoiser in a file of any contents, if there is one of this family, and the target of its prediction where
    /// that can be told. `pooled` is the width of the pooled text embedding of the model that it is for.
    ///
    /// # Errors
    /// An architecture that is not supported.
    fn denoiser(
        &self,
        file: &str,
        tensors: &TensorMap,
        pooled: Option<usize>,
    ) -> Result<Option<(PartFile, Option<Prediction>)>, WeightsError>;

    /// Whole model in one file, if it has the text encoders of this family.
    ///
    /// # Errors
    /// A model of this family that is not supported.
    fn checkpoint(
        &self,
        file: &str,
        tensors: &TensorMap,
    ) -> Result<Option<Checkpoint>, WeightsError>;

    /// `true` if a weight of the denoiser stays in 16 bits whatever the model is quantized to.
    fn is_sensitive(&self, name: &str) -> bool;

    /// Names in LoRA files for this family.
    fn lora(&self) -> LoraNames;

    /// Name of the generation of the family whose denoiser reads text of this width, for messages.
    fn generation(&self, text_width: usize) -> Option<&'static str>;
}

/// Names by which LoRA files for a family tell where a module belongs.
#[derive(Clone, Copy, Debug)]
pub(in crate::weights) struct LoraNames {
    /// prefixes of modules, each with the part that it stands for
    pub prefixes: &'static [(&'static str, Part)],
    /// ends of the names of the denoiser's layers that read text, with underscores for dots
    pub text_readers: &'static [&'static str],
}

/// Whole model that one file holds.
#[derive(Debug)]
pub(in crate::weights) struct Checkpoint {
    /// contents that its `model_index.json` would have
    pub index: Value,
    /// contents that its `scheduler_config.json` would have
    pub scheduler: Value,
    pub denoiser: Option<PartFile>,
    pub vae: Option<PartFile>,
    /// text encoders in the order of their conditioning
    pub encoders: Vec<CheckpointEncoder>,
    /// lines about what had to be guessed
    pub notes: Vec<String>,
}

/// Text encoder of a checkpoint, with its tokenizer.
#[derive(Debug)]
pub(in crate::weights) struct CheckpointEncoder {
    pub part: Part,
    pub file: PartFile,
    pub tokenizer: CheckpointTokenizer,
}

/// Tokenizer of a checkpoint's text encoder: no such file has one.
#[derive(Clone, Copy, Debug)]
pub(in crate::weights) enum CheckpointTokenizer {
    /// CLIP's, with the token that fills up its sequences
    Clip(TokenPadding),
    /// T5's, which lies beside the file
    T5,
    /// Qwen's, which lies beside the file
    Qwen,
}

impl dyn Family + '_ {
    /// Name of a part in diffusers layout: its folder, its key in `model_index.json`, and the prefix of its
    /// tensors in our GGUF files.
    pub(in crate::weights) fn folder(&self, part: Part) -> Cow<'static, str> {
        match part {
            Part::Denoiser => self.denoiser_folder().into(),
            Part::Vae => "vae".into(),
            Part::TextEncoder(0) => "text_encoder".into(),
            Part::TextEncoder(index) => format!("text_encoder_{}", index + 1).into(),
            Part::Control => "controlnet".into(),
        }
    }

    /// Name of a part in messages, with the article.
    pub(in crate::weights) fn title(&self, part: Part) -> &'static str {
        match part {
            Part::Denoiser => self.denoiser_title(),
            Part::Vae => "the VAE",
            Part::TextEncoder(_) => "the text encoder",
            Part::Control => "the ControlNet",
        }
    }

    /// Class that a `model_index.json` names for a part, if it names one.
    pub(in crate::weights) fn class_in<'a>(&self, index: &'a Value, part: Part) -> Option<&'a str> {
        index.get(&*self.folder(part))?.get(1)?.as_str()
    }

    /// Text encoders that a `model_index.json` names, in the order of their conditioning.
    pub(in crate::weights) fn text_encoders_in(&self, index: &Value) -> Vec<Part> {
        let all = (0..TEXT_ENCODERS).map(Part::TextEncoder);
        all.filter(|&part| self.class_in(index, part).is_some()).collect()
    }

    /// Names of all tensors that a part's configuration asks for; `None` for a configuration that will be
    /// refused, and for `AutoencoderTiny`, whose layers are only numbered.
    pub(in crate::weights) fn expected_names(
        &self,
        part: Part,
        config: &PartConfig,
    ) -> Option<HashSet<String>> {
        let json = &config.config;
        match part {
            Part::Denoiser => {
                let names = self.denoiser_names(config).ok()?;
                Some(names.into_iter().map(|(ours, ..)| ours).collect())
            }
            Part::Vae if autoencoder_kl::is_class(&config.class) => {
                let json = with_class(json.clone(), config.class.clone());
                let names = autoencoder_kl::names(&KlConfig::from_json(&json).ok()?);
                let names = names.into_iter().map(|(ours, _)| ours);
                Some(names.flat_map(|name| [autoencoder_kl::old_name(&name), name]).collect())
            }
            Part::Vae => None,
            Part::Control => Some(self.control_names(config)?.into_iter().collect()),
            Part::TextEncoder(_) if t5::is_class(&config.class) => {
                let config = T5Config::from_json(&config.class, json).ok()?;
                Some(t5::names(&config).into_iter().collect())
            }
            Part::TextEncoder(_) if qwen3::is_class(&config.class) => {
                let names = qwen3::names(&Qwen3Config::from_json(json).ok()?).into_iter();
                // Without an output projection, transformers leaves out the prefix.
                let alone = |name: &String| name.strip_prefix("model.").map(str::to_owned);
                Some(names.flat_map(|name| [alone(&name), Some(name)]).flatten().collect())
            }
            Part::TextEncoder(_) => {
                let config = ClipTextConfig::from_json(json).ok()?;
                Some(clip::names(config.num_hidden_layers).into_iter().collect())
            }
        }
    }
}

/// Folder of a text encoder's tokenizer in diffusers layout.
pub(in crate::weights) fn tokenizer_folder(encoder: Part) -> Cow<'static, str> {
    match encoder {
        Part::TextEncoder(index @ 1..) => format!("tokenizer_{}", index + 1).into(),
        _ => "tokenizer".into(),
    }
}
