//! CLIP's text encoder, with or without its projection (transformers
//! `models/clip/modeling_clip.py`: `CLIPTextModel`, `CLIPTextModelWithProjection`).

mod config;
mod tokenizer;

use candle_core::{Result, Tensor};

use super::TextEncoding;
use crate::backend::ops::{LayerNorm, Linear, Mask};
use crate::backend::{Activation, Params, Trace};
use crate::model::clip_layer::{ClipLayer, LayerShape};
pub use config::{ClipTextConfig, HiddenAct, PoolAt};
pub use tokenizer::ClipTokenizer;
use tokenizer::VECTORS;
pub(super) use tokenizer::check_description;

/// The classes in transformers' configurations, without the projection and with it.
pub(super) const CLASSES: [&str; 2] = ["CLIPTextModel", "CLIPTextModelWithProjection"];

/// The classes of its tokenizer there.
pub(super) const TOKENIZER_CLASSES: [&str; 2] = ["CLIPTokenizer", "CLIPTokenizerFast"];

/// `Some(true)` if an encoder of this class has a projection; `None` for a class that is not CLIP's.
pub(super) fn has_projection(class: &str) -> Option<bool> {
    CLASSES.iter().position(|&known| known == class).map(|index| index == 1)
}

/// The encoder.
#[derive(Clone, Debug)]
pub struct ClipTextModel {
    tokens: Tensor,
    /// vectors of embeddings, `[count, width]`, whose ids go on from [`VECTORS`]
    vectors: Option<Tensor>,
    positions: Tensor,
    layers: Vec<ClipLayer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    config: ClipTextConfig,
    weight_bytes: usize,
}

impl ClipTextModel {
    /// Reads the tensors below `vb`, by transformers' names. `with_projection` makes it a
    /// `CLIPTextModelWithProjection`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &ClipTextConfig, with_projection: bool, vb: &Params) -> Result<Self> {
        let bytes_before = vb.bytes_kept();
        let width = config.hidden_size;
        // transformers 5 writes a CLIPTextModel without the prefix that every earlier file has.
        let unprefixed = vb.contains_tensor("embeddings.token_embedding.weight");
        let body = if unprefixed { vb.clone() } else { vb.pp("text_model") };
        let shape = LayerShape {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            act: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let embeddings = body.pp("embeddings");
        Ok(Self {
            vectors: None,
            tokens: embeddings.get((config.vocab_size, width), "token_embedding.weight")?,
            positions: embeddings
                .get((config.max_position_embeddings, width), "position_embedding.weight")?,
            layers: (0..config.num_hidden_layers)
                .map(|index| ClipLayer::load(shape, &body.pp("encoder.layers").pp(index)))
                .collect::<Result<_>>()?,
            final_norm: LayerNorm::load(
                width,
                config.layer_norm_eps,
                &body.pp("final_layer_norm"),
            )?,
            projection: with_projection
                .then(|| {
                    Linear::load_no_bias(width, config.projection_dim, &vb.pp("text_projection"))
                })
                .transpose()?,
            config: config.clone(),
            weight_bytes: vb.bytes_kept() - bytes_before,
        })
    }

    /// The same encoder, which knows the vectors of embeddings, `[count, width]` in any precision, in the order of their
    /// names.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn with_vectors(self, vectors: &Tensor) -> Result<Self> {
        let vectors = vectors.to_device(self.tokens.device())?.to_dtype(self.tokens.dtype())?;
        Ok(Self { vectors: Some(vectors), ..self })
    }

    /// The rows of tokens, `[ids, width]`, from the vocabulary and from the vectors of embeddings.
    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let is_of_embedding = |id: &u32| *id >= VECTORS;
        let mut parts = Vec::new();
        for run in ids.chunk_by(|one, other| is_of_embedding(one) == is_of_embedding(other)) {
            let (table, first) = match &self.vectors {
                Some(vectors) if is_of_embedding(&run[0]) => (vectors, VECTORS),
                _ => (&self.tokens, 0),
            };
            let run: Vec<u32> = run.iter().map(|id| id - first).collect();
            let run = Tensor::new(run, table.device())?;
            parts.push(table.index_select(&run, 0)?);
        }
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, 0) }
    }

    /// Encodes sequences of equal length, `N ≤ max_position_embeddings`, under a causal mask; within
    /// `trace` their shapes alone.
    ///
    /// # Errors
    /// No sequence, sequences of unequal or too great length, an id outside the vocabulary, or
    /// those of the backend.
    pub fn encode(&self, sequences: &[Vec<u32>], trace: Option<&Trace>) -> Result<TextEncoding> {
        let length = sequences.first().map_or(0, Vec::len);
        if length == 0
            || length > self.config.max_position_embeddings
            || sequences.iter().any(|ids| ids.len() != length)
        {
            candle_core::bail!(
                "text encoder: sequences must have one length from 1 to {}",
                self.config.max_position_embeddings
            );
        }
        let flat = sequences.concat();
        let vectors = self.vectors.as_ref().map_or(0, |vectors| vectors.dims()[0]);
        let is_known = |id: u32| match id.checked_sub(VECTORS) {
            Some(index) => (index as usize) < vectors,
            None => (id as usize) < self.config.vocab_size,
        };
        if let Some(id) = flat.iter().find(|&&id| !is_known(id)) {
            candle_core::bail!(
                "text encoder: token {id} is outside the vocabulary of {}",
                self.config.vocab_size
            );
        }
        let shape = (sequences.len(), length, self.config.hidden_size);
        let tokens = Activation::make(trace, shape, self.tokens.dtype(), || {
            self.rows(&flat)?.reshape(shape)
        })?;
        let mut h = tokens.broadcast_add(&self.positions.narrow(0, 0, length)?.into())?;
        let mut penultimate = h.clone();
        for layer in &self.layers {
            penultimate = h;
            h = layer.forward(&penultimate, Mask::Causal)?;
        }
        let last = self.final_norm.forward(&h)?;
        let pooled = sequences
            .iter()
            .enumerate()
            .map(|(index, ids)| last.get(index)?.get(self.pool_position(ids)))
            .collect::<Result<Vec<_>>>()?;
        let pooled = Activation::stack(&pooled, 0)?;
        let pooled = match &self.projection {
            Some(projection) => projection.forward(&pooled)?,
            None => pooled,
        };
        Ok(TextEncoding { penultimate: Some(penultimate), last, pooled: Some(pooled) })
    }

    /// The configuration that the encoder was built from.
    #[must_use]
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// `true` if `pooled` is projected (`CLIPTextModelWithProjection`).
    #[must_use]
    pub fn has_projection(&self) -> bool {
        self.projection.is_some()
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Position of the pooled state, as in transformers' `pooler_output`: a sequence without the wanted
    /// token is pooled at its start. Vectors of embeddings have no place among the vocabulary's ids.
    fn pool_position(&self, ids: &[u32]) -> usize {
        let wanted = match self.config.pool_at {
            PoolAt::Token(id) => id,
            PoolAt::LargestId => ids.iter().copied().filter(|&id| id < VECTORS).max().unwrap_or(0),
        };
        ids.iter().position(|&id| id == wanted).unwrap_or(0)
    }
}
