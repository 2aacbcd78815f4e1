//! Parts of a model by their roles, and what describes one: its configuration and, for a text encoder, its
//! tokenizer. The words that forms, families and loaders share.

use serde_json::Value;

/// Role of a part of a model that has weights. The name of its folder and of its class depends on the
/// model's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The network that predicts noise or velocity: a UNet or a diffusion transformer.
    Denoiser,
    /// The autoencoder between pictures and latents.
    Vae,
    /// The text encoder of this index, counted from 0 in the order of their conditioning.
    TextEncoder(usize),
    /// A control beside the denoiser (a ControlNet).
    Control,
}

/// Configuration of one part.
#[derive(Clone, Debug)]
pub(super) struct PartConfig {
    /// class of diffusers or transformers, `AutoencoderKL` for example
    pub class: String,
    /// contents of `config.json`, or what they would be
    pub config: Value,
    /// place where it is written or was derived from, for messages
    pub file: String,
}

/// Configuration with its class, which may be in the model's index alone.
pub(super) fn with_class(mut config: Value, class: String) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.entry("_class_name").or_insert_with(|| class.into());
    }
    config
}

/// Files of one tokenizer, by transformers' names; each may be absent.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenizerBytes {
    pub vocab_json: Option<Vec<u8>>,
    pub merges_txt: Option<Vec<u8>>,
    pub tokenizer_json: Option<Vec<u8>>,
    pub spiece_model: Option<Vec<u8>>,
    pub tokenizer_config_json: Option<Vec<u8>>,
    pub special_tokens_map_json: Option<Vec<u8>>,
    /// place where they are, for messages
    pub place: String,
}
