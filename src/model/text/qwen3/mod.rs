//! Qwen3 as a text encoder (transformers `models/qwen3/modeling_qwen3.py`: `Qwen3ForCausalLM`), of which diffusion models
//! take the states that lie before its last layer, or those behind several layers.

mod config;
mod tokenizer;

use candle_core::{DType, Device, Result};

use super::{TextEncoding, TokenIds};
use crate::backend::ops::{Embedding, Mask, attention, rope};
use crate::backend::{Activation, MatmulPrecision, Params, Trace};
use crate::model::decoder_layer::{DecoderLayer, frequencies, rotation};
pub use config::Qwen3Config;
pub use tokenizer::QwenTokenizer;

/// The classes in transformers' configurations, with an output projection and without one.
pub(super) const CLASSES: [&str; 2] = ["Qwen3ForCausalLM", "Qwen3Model"];

/// The classes of its tokenizer there, which is Qwen2's.
pub(super) const TOKENIZER_CLASSES: [&str; 2] = ["Qwen2Tokenizer", "Qwen2TokenizerFast"];

/// The encoder. The layers behind the last whose states are taken, the last norm and the output projection are not
/// loaded: nothing here takes what they make.
#[derive(Clone, Debug)]
pub struct Qwen3Encoder {
    tokens: Embedding,
    layers: Vec<DecoderLayer>,
    /// layers behind which states are taken, counted from 1
    taken: Vec<usize>,
    /// rotary frequency of each pair of a head's numbers
    frequencies: Vec<f32>,
    config: Qwen3Config,
    dtype: DType,
    device: Device,
    precision: MatmulPrecision,
    weight_bytes: usize,
}

impl Qwen3Encoder {
    /// The most tokens of a sequence. There is no table of positions, so this bounds what a configuration may ask for
    /// alone.
    pub const POSITIONS: usize = 4096;

    /// Reads the tensors below `vb`, by transformers' names, with or without `model.` before them; the states behind the
    /// layers `taken` are what it gives.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Qwen3Config, taken: Vec<usize>, vb: &Params) -> Result<Self> {
        let bytes_before = vb.bytes_kept();
        let within = vb.pp("model");
        let body = if vb.contains_tensor("embed_tokens.weight") { vb.clone() } else { within };
        let Qwen3Config { vocab_size, rope_theta, layer, .. } = *config;
        Ok(Self {
            tokens: Embedding::load(vocab_size, layer.width, &body.pp("embed_tokens"))?,
            layers: (0..taken.last().copied().unwrap_or(0))
                .map(|index| DecoderLayer::load(layer, &body.pp("layers").pp(index)))
                .collect::<Result<_>>()?,
            taken,
            frequencies: frequencies(rope_theta, layer.head_dim).map(|it| it as f32).collect(),
            config: config.clone(),
            dtype: vb.dtype(),
            device: vb.device().clone(),
            precision: vb.precision(),
            weight_bytes: vb.bytes_kept() - bytes_before,
        })
    }

    /// Encodes sequences of equal length, from 1 to [`POSITIONS`](Self::POSITIONS); every token sees those before it and
    /// itself. Within `trace` their shapes alone.
    ///
    /// Padding behind the tokens is to be left out: no token sees what follows it.
    ///
    /// # Errors
    /// No sequence, sequences of unequal or too great length, an id outside the vocabulary, or
    /// those of the backend.
    pub fn encode(&self, sequences: &[Vec<u32>], trace: Option<&Trace>) -> Result<TextEncoding> {
        self.states(sequences, sequences.first().map_or(0, Vec::len), trace)
    }

    /// Encodes one sequence with what fills it up: every token sees those before it that count, and itself if it does.
    /// Within `trace` its shape alone.
    ///
    /// # Errors
    /// No token that counts, or those of [`encode`](Self::encode).
    pub fn encode_filled(
        &self,
        TokenIds { ids, count }: TokenIds,
        trace: Option<&Trace>,
    ) -> Result<TextEncoding> {
        if !(1..=ids.len()).contains(&count) {
            candle_core::bail!("text encoder: {count} of {} tokens count", ids.len());
        }
        self.states(&[ids], count, trace)
    }

    /// The states of sequences of equal length, of which the first `count` tokens are seen.
    fn states(
        &self,
        sequences: &[Vec<u32>],
        count: usize,
        trace: Option<&Trace>,
    ) -> Result<TextEncoding> {
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
        let vocabulary = self.config.vocab_size;
        if let Some(id) = flat.iter().find(|&&id| id as usize >= vocabulary) {
            candle_core::bail!(
                "text encoder: token {id} is outside the vocabulary of {vocabulary}"
            );
        }
        let angles = rotation(&self.frequencies, 0..length, self.dtype, &self.device, trace)?;
        let shape = (sequences.len(), length, self.config.layer.width);
        let mut h = self.tokens.forward(&flat, trace)?.reshape(shape)?;
        let mut states = Vec::with_capacity(self.taken.len());
        for (layer, number) in self.layers.iter().zip(1..) {
            h = layer.feed_forward(&self.attend(layer, &h, count, &angles)?)?;
            if self.taken.contains(&number) {
                states.push(h.clone());
            }
        }
        drop(h);
        let last = match states.as_slice() {
            [states] => states.clone(),
            states => Activation::cat(states, 2)?,
        };
        Ok(TextEncoding { penultimate: None, last, pooled: None })
    }

    /// `x`, `[B, N, width]`, and what attention of a layer adds to it, where the first `seen` tokens are seen.
    fn attend(
        &self,
        layer: &DecoderLayer,
        x: &Activation,
        seen: usize,
        (cos, sin): &(Activation, Activation),
    ) -> Result<Activation> {
        let (rows, count, _) = x.dims3()?;
        let shape = self.config.layer;
        let h = layer.norm1.forward(x)?;
        let turned = |x: Activation, heads: usize, norm: usize| -> Result<Activation> {
            let mut x = x.reshape((rows, count, heads, shape.head_dim))?;
            if let Some(norms) = &layer.head_norms {
                x = norms[norm].forward(&x)?;
            }
            rope(&x, cos, sin)?.reshape((rows, count, heads * shape.head_dim))
        };
        let q = turned(layer.q.forward(&h)?, shape.heads, 0)?;
        let k = turned(layer.k.forward(&h)?, shape.key_heads, 1)?;
        let v = layer.v.forward(&h)?;
        drop(h);
        let mix = |q: &Activation, k: &Activation, v: &Activation, mask: Mask| {
            attention(q, k, v, shape.heads, mask, self.precision)
        };
        let mixed = if seen == count {
            mix(&q, &k, &v, Mask::Causal)?
        } else {
            // What fills up comes behind all that it sees.
            let (k, v) = (k.narrow(1, 0, seen)?.contiguous()?, v.narrow(1, 0, seen)?.contiguous()?);
            let part = |start, length| q.narrow(1, start, length)?.contiguous();
            let own = mix(&part(0, seen)?, &k, &v, Mask::Causal)?;
            let filling = mix(&part(seen, count - seen)?, &k, &v, Mask::None)?;
            Activation::cat(&[&own, &filling], 1)?
        };
        drop((q, k, v));
        layer.out.forward_add(&mixed, x)
    }

    /// The width of its states.
    #[must_use]
    pub fn width(&self) -> usize {
        self.taken.len() * self.config.hidden_size()
    }

    /// The configuration that the encoder was built from.
    #[must_use]
    pub fn config(&self) -> &Qwen3Config {
        &self.config
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
