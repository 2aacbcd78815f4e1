//! Text encoders of every kind, told apart by the class that a model's files name.

use candle_core::{Result, Tensor};
use serde_json::Value;

use super::{
    TextEncoding, TextError, TokenIds,
    clip::{self, ClipTextConfig, ClipTextModel},
    qwen3::{self, Qwen3Config, Qwen3Encoder},
    t5::{self, T5Config, T5Encoder},
};
use crate::backend::{Params, Trace};

/// A text encoder of any kind.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TextEncoder {
    Clip(Box<ClipTextModel>),
    T5(Box<T5Encoder>),
    Qwen3(Box<Qwen3Encoder>),
}

impl TextEncoder {
    /// The classes of transformers that there is a kind for.
    pub const CLASSES: &[&str] = &[
        clip::CLASSES[0],
        clip::CLASSES[1],
        t5::CLASSES[0],
        t5::CLASSES[1],
        qwen3::CLASSES[0],
        qwen3::CLASSES[1],
    ];

    /// Builds the encoder of transformers' `class` that `config` describes, with the tensors of `params`. Of Qwen3 the
    /// states behind these `layers` are taken, counted from 1; of others, and where there are none, the kind's own.
    ///
    /// # Errors
    /// A class or a field that is not supported, a layer that the encoder does not have, or a tensor that is missing or of
    /// another shape.
    pub fn load(
        class: &str,
        config: &Value,
        layers: &[usize],
        params: &Params,
    ) -> std::result::Result<Self, TextError> {
        if let Some(with_projection) = clip::has_projection(class) {
            let config = ClipTextConfig::from_json(config)?;
            let model = ClipTextModel::load(&config, with_projection, params)?;
            return Ok(Self::Clip(Box::new(model)));
        }
        if t5::CLASSES.contains(&class) {
            let config = T5Config::from_json(class, config)?;
            return Ok(Self::T5(Box::new(T5Encoder::load(&config, params)?)));
        }
        if qwen3::CLASSES.contains(&class) {
            let config = Qwen3Config::from_json(config)?;
            let layers = config.taken_layers(layers)?;
            return Ok(Self::Qwen3(Box::new(Qwen3Encoder::load(&config, layers, params)?)));
        }
        Err(TextError::Class { class: class.to_owned(), known: Self::CLASSES.join(", ") })
    }

    /// The same encoder with the vectors of embeddings, `[count, D]`, which CLIP alone takes.
    ///
    /// # Errors
    /// An encoder of another kind, or those of the backend.
    pub fn with_vectors(self, vectors: &Tensor) -> std::result::Result<Self, TextError> {
        match self {
            Self::Clip(model) => Ok(Self::Clip(Box::new(model.with_vectors(vectors)?))),
            _ => Err(TextError::Mismatch("embeddings are for CLIP alone".to_owned())),
        }
    }

    /// Encodes sequences of equal length, from 1 to [`positions`](Self::positions); within `trace` their
    /// shapes alone.
    ///
    /// # Errors
    /// No sequence, sequences of unequal or too great length, an id outside the vocabulary, or
    /// those of the backend.
    pub fn encode(&self, sequences: &[Vec<u32>], trace: Option<&Trace>) -> Result<TextEncoding> {
        match self {
            Self::Clip(model) => model.encode(sequences, trace),
            Self::T5(model) => model.encode(sequences, trace),
            Self::Qwen3(model) => model.encode(sequences, trace),
        }
    }

    /// Encodes one sequence with what fills it up, which Qwen3 shows to no token; to others it is tokens like any. Within
    /// `trace` its shape alone.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode), or no token that counts.
    pub fn encode_filled(&self, tokens: TokenIds, trace: Option<&Trace>) -> Result<TextEncoding> {
        match self {
            Self::Clip(_) | Self::T5(_) => self.encode(&[tokens.ids], trace),
            Self::Qwen3(model) => model.encode_filled(tokens, trace),
        }
    }

    /// The width `D` of its states.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Clip(model) => model.config().hidden_size,
            Self::T5(model) => model.config().d_model,
            Self::Qwen3(model) => model.width(),
        }
    }

    /// The width `P` of its pooled output, if that is projected.
    #[must_use]
    pub fn pooled_width(&self) -> Option<usize> {
        match self {
            Self::Clip(model) => model.has_projection().then(|| model.config().projection_dim),
            Self::T5(_) | Self::Qwen3(_) => None,
        }
    }

    /// The most tokens of a sequence.
    #[must_use]
    pub fn positions(&self) -> usize {
        match self {
            Self::Clip(model) => model.config().max_position_embeddings,
            Self::T5(_) => T5Encoder::POSITIONS,
            Self::Qwen3(_) => Qwen3Encoder::POSITIONS,
        }
    }

    /// Entries of its vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Clip(model) => model.config().vocab_size,
            Self::T5(model) => model.config().vocab_size,
            Self::Qwen3(model) => model.config().vocab_size,
        }
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        match self {
            Self::Clip(model) => model.weight_bytes(),
            Self::T5(model) => model.weight_bytes(),
            Self::Qwen3(model) => model.weight_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_class_is_refused_by_name_and_the_known_ones_are_listed() {
        let params = Params::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
        let error = TextEncoder::load("GemmaModel", &json!({}), &[], &params).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`GemmaModel` is not supported (CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel, UMT5EncoderModel, \
             Qwen3ForCausalLM, Qwen3Model)"
        );
    }
}
