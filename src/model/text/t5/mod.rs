//! T5's encoder, version 1.1 and the older one, and UMT5's (transformers `models/t5/modeling_t5.py`: `T5EncoderModel`;
//! `models/umt5/modeling_umt5.py`: `UMT5EncoderModel`).

mod charsmap;
mod config;
mod layer;
mod pieces;
mod position;
mod spiece;
mod tokenizer;

use candle_core::{DType, Result};

use super::TextEncoding;
use crate::backend::ops::{Embedding, RmsNorm};
use crate::backend::{Params, Trace};
pub(super) use config::CLASSES;
pub use config::{FeedForward, T5Config};
use layer::{T5Layer, residual_dtype};
pub use pieces::Pieces;
use position::RelativePosition;
pub(super) use tokenizer::is_unigram;
pub use tokenizer::{T5Tokenizer, json_of_spiece};

/// The classes of its tokenizer there.
pub(super) const TOKENIZER_CLASSES: [&str; 2] = ["T5Tokenizer", "T5TokenizerFast"];

/// The encoder.
#[derive(Clone, Debug)]
pub struct T5Encoder {
    tokens: Embedding,
    /// one for each layer, or that of the first for all
    positions: Vec<RelativePosition>,
    layers: Vec<T5Layer>,
    final_norm: RmsNorm,
    config: T5Config,
    dtype: DType,
    weight_bytes: usize,
}

impl T5Encoder {
    /// The most tokens of a sequence. T5 has no table of positions, so this bounds what a configuration may ask for
    /// alone.
    pub const POSITIONS: usize = 4096;

    /// Reads the tensors below `vb`, by transformers' names.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &T5Config, vb: &Params) -> Result<Self> {
        let bytes_before = vb.bytes_kept();
        let width = config.d_model;
        let encoder = vb.pp("encoder");
        // transformers writes the table that encoder and decoder share under its own name or the encoder's.
        let shared = vb.pp("shared");
        let table =
            if shared.contains_tensor("weight") { shared } else { encoder.pp("embed_tokens") };
        let blocks = encoder.pp("block");
        let tables = if config.position_in_every_layer { config.num_layers } else { 1 };
        Ok(Self {
            tokens: Embedding::load(config.vocab_size, width, &table)?,
            positions: (0..tables)
                .map(|index| {
                    let attention = blocks.pp(index).pp("layer.0.SelfAttention");
                    RelativePosition::load(config, &attention.pp("relative_attention_bias"))
                })
                .collect::<Result<_>>()?,
            layers: (0..config.num_layers)
                .map(|index| T5Layer::load(config, &blocks.pp(index)))
                .collect::<Result<_>>()?,
            final_norm: RmsNorm::load(
                width,
                config.layer_norm_epsilon,
                &encoder.pp("final_layer_norm").to_dtype(residual_dtype(vb.dtype())),
            )?,
            config: config.clone(),
            dtype: vb.dtype(),
            weight_bytes: vb.bytes_kept() - bytes_before,
        })
    }

    /// Encodes sequences of equal length, from 1 to [`POSITIONS`](Self::POSITIONS); every token sees every other.
    /// Within `trace` their shapes alone.
    ///
    /// Padding that a mask would hide is to be left out: it is behind the tokens, nothing of a hidden key goes into
    /// another token, and so the states of the tokens are the same.
    ///
    /// # Errors
    /// No sequence, sequences of unequal or too great length, an id outside the vocabulary, or
    /// those of the backend.
    pub fn encode(&self, sequences: &[Vec<u32>], trace: Option<&Trace>) -> Result<TextEncoding> {
        let length = sequences.first().map_or(0, Vec::len);
        if !(1..=Self::POSITIONS).contains(&length)
            || sequences.iter().any(|ids| ids.len() != length)
        {
            candle_core::bail!(
                "text encoder: sequences must have one length from 1 to {}",
                Self::POSITIONS
            );
        }
        let flat = sequences.concat();
        if let Some(id) = flat.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            candle_core::bail!(
                "text encoder: token {id} is outside the vocabulary of {}",
                self.config.vocab_size
            );
        }
        let tokens = self.tokens.forward(&flat, trace)?;
        let tokens = tokens.reshape((sequences.len(), length, self.config.d_model))?;
        let mut h = tokens.to_dtype(residual_dtype(self.dtype))?;
        drop(tokens);
        let mut bias = None;
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some(position) = self.positions.get(index) {
                bias = Some(position.bias(length, trace)?);
            }
            if let Some(bias) = &bias {
                h = layer.forward(&h, bias)?;
            }
        }
        let last = self.final_norm.forward(&h)?.to_dtype(self.dtype)?;
        Ok(TextEncoding { penultimate: None, last, pooled: None })
    }

    /// The configuration that the encoder was built from.
    #[must_use]
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
