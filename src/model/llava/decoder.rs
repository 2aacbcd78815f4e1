//! The decoder: LLaMA, and Mistral, which differs by a window (transformers
//! `models/llama/modeling_llama.py`, `models/mistral/modeling_mistral.py`).
//!
//! **The same numbers in every batch.** Sequences that are computed together give, bit for bit on the
//! CPU, what each gives alone: several tokens of a sequence are a sample of their own, which the
//! kernels never cut by the batch; single tokens of all sequences are the rows of one product, whose
//! sums do not depend on the number of rows as long as there are two (for one, `gemm` has another
//! kernel; a second row of zeros keeps it away).

use candle_core::{D, DType, Device, Result};

use super::cache::KvCache;
use super::config::{DecoderConfig, RopeScaling};
use crate::backend::ops::{Embedding, Linear, Mask, RmsNorm, attention, rope};
use crate::backend::{Activation, MatmulPrecision, Params, Trace};
use crate::model::decoder_layer::{self, DecoderLayer, DecoderShape, rotation};

/// The decoder with its embeddings and its output projection.
#[derive(Clone, Debug)]
pub(super) struct LanguageDecoder {
    embedding: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head: Linear,
    /// rotary frequency of each pair of a head's numbers
    frequencies: Vec<f32>,
    config: DecoderConfig,
    dtype: DType,
    precision: MatmulPrecision,
    device: Device,
}

impl LanguageDecoder {
    /// Reads the tensors below `vb`, where `model` and `lm_head` are.
    pub(super) fn load(config: &DecoderConfig, vb: &Params) -> Result<Self> {
        let body = vb.pp("model");
        let (vocabulary, width) = (config.vocab_size, config.hidden_size);
        let table = body.pp("embed_tokens");
        let head = if config.tie_word_embeddings { table.clone() } else { vb.pp("lm_head") };
        Ok(Self {
            embedding: Embedding::load(vocabulary, width, &table)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| DecoderLayer::load(shape(config), &body.pp("layers").pp(index)))
                .collect::<Result<_>>()?,
            norm: RmsNorm::load(width, config.rms_norm_eps, &body.pp("norm"))?,
            head: Linear::load_no_bias(width, vocabulary, &head)?,
            frequencies: frequencies(config),
            config: config.clone(),
            dtype: vb.dtype(),
            precision: vb.precision(),
            device: vb.device().clone(),
        })
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Room for `capacity` tokens of each of `rows` sequences; within `trace` its shape alone.
    pub(super) fn cache(
        &self,
        rows: usize,
        capacity: usize,
        trace: Option<&Trace>,
    ) -> Result<KvCache> {
        KvCache::new(&self.config, (rows, capacity), self.dtype, &self.device, trace)
    }

    /// Tokens → `[N, D]`; within `trace` their shape alone.
    pub(super) fn embed(&self, tokens: &[u32], trace: Option<&Trace>) -> Result<Activation> {
        self.embedding.forward(tokens, trace)
    }

    /// Prefill: several tokens of each sequence, `[B, N, D]`, behind `past` others → the states of all of
    /// them, `[B, N, D]`, before the last norm.
    pub(super) fn prefill(
        &self,
        x: &Activation,
        cache: &KvCache,
        past: usize,
    ) -> Result<Activation> {
        let (rows, count, _) = x.dims3()?;
        if count == 1 {
            return self.step(&x.squeeze(1)?, cache, past)?.unsqueeze(1);
        }
        let rotation = self.rotation(past, count, x.trace())?;
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.feed_forward(&self.attend(
                index,
                &x,
                (rows, count),
                cache,
                past,
                &rotation,
            )?)?;
        }
        Ok(x)
    }

    /// Decoding step: the next token of each sequence, `[B, D]`, behind `past` others → its state, `[B, D]`.
    pub(super) fn step(&self, x: &Activation, cache: &KvCache, past: usize) -> Result<Activation> {
        let rows = x.dim(0)?;
        let rotation = self.rotation(past, 1, x.trace())?;
        let mut x = at_least_two_rows(x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.feed_forward(&self.attend(
                index,
                &x,
                (rows, 1),
                cache,
                past,
                &rotation,
            )?)?;
        }
        x.narrow(1, 0, rows)?.squeeze(0)
    }

    /// States `[B, D]` → scores of the next token, `[B, vocabulary]`, f32.
    pub(super) fn logits(&self, x: &Activation) -> Result<Activation> {
        let rows = x.dim(0)?;
        let x = self.norm.forward(&at_least_two_rows(x)?)?;
        self.head.forward(&x)?.narrow(1, 0, rows)?.squeeze(0)?.to_dtype(DType::F32)
    }

    /// `x` and what attention of layer `index` adds to it, on `rows` sequences of `count` tokens each, in
    /// whatever shape they come.
    fn attend(
        &self,
        index: usize,
        x: &Activation,
        (rows, count): (usize, usize),
        cache: &KvCache,
        past: usize,
        rotation: &(Activation, Activation),
    ) -> Result<Activation> {
        let layer = &self.layers[index];
        let h = &layer.norm1.forward(x)?;
        let DecoderConfig { num_attention_heads: heads, head_dim, .. } = self.config;
        let by_sequence = |x: Activation| -> Result<Activation> {
            let width = x.dim(D::Minus1)?;
            let x = if count == 1 { x.narrow(1, 0, rows)? } else { x };
            x.contiguous()?.reshape((rows, count, width))
        };
        let rotated = |x: Activation| -> Result<Activation> {
            let width = x.dim(2)?;
            let x = if self.config.rope_interleaved {
                // Queries and keys alike, so that their products stay the same.
                let pairs = (rows, count, width / head_dim, head_dim / 2, 2);
                x.reshape(pairs)?.transpose(3, 4)?.contiguous()?
            } else {
                x
            };
            let x = x.reshape((rows, count, width / head_dim, head_dim))?;
            rope(&x, &rotation.0, &rotation.1)?.reshape((rows, count, width))
        };
        let q = rotated(by_sequence(layer.q.forward(h)?)?)?;
        let k = rotated(by_sequence(layer.k.forward(h)?)?)?;
        let v = by_sequence(layer.v.forward(h)?)?;
        let (k, v) = cache.extend(index, &k, &v, past)?;
        let mask = Mask::Cached { past, window: self.config.sliding_window };
        let mixed = attention(&q, k, v, heads, mask, self.precision)?;
        let mixed = if count == 1 {
            at_least_two_rows(&mixed.reshape((rows, heads * head_dim))?)?
        } else {
            mixed
        };
        layer.out.forward_add(&mixed, x)
    }

    /// Cosines and sines of positions `past..past + count`.
    fn rotation(
        &self,
        past: usize,
        count: usize,
        trace: Option<&Trace>,
    ) -> Result<(Activation, Activation)> {
        rotation(&self.frequencies, past..past + count, self.dtype, &self.device, trace)
    }
}

/// `[B, D]` → `[1, max(B, 2), D]`, the second row zero if it is none of the batch.
fn at_least_two_rows(x: &Activation) -> Result<Activation> {
    let x = x.unsqueeze(0)?;
    if x.dim(1)? == 1 { x.pad_with_zeros(1, 0, 1) } else { Ok(x) }
}

/// Turns per token (in radians) of each pair of numbers (transformers `modeling_rope_utils.py`).
fn frequencies(config: &DecoderConfig) -> Vec<f32> {
    decoder_layer::frequencies(config.rope_theta, config.head_dim)
        .map(|frequency| {
            let scaled = match config.rope_scaling {
                RopeScaling::None => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 { factor, low, high, original } => {
                    // Number of turns of a pair at the end of the original context.
                    let turns = original * frequency / std::f64::consts::TAU;
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * ((1.0 - smooth) / factor + smooth)
                }
            };
            scaled as f32
        })
        .collect()
}

/// Sizes of its layers.
fn shape(config: &DecoderConfig) -> DecoderShape {
    DecoderShape {
        width: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        key_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        eps: config.rms_norm_eps,
        normed_heads: false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{Shape, Tensor, quantized::GgmlDType};
    use serde_json::json;

    use super::*;
    use crate::backend::{ParamSource, Weight, WeightStorage, WeightUse, Working};

    /// A weight for every name, kept in this format where it is a matrix.
    struct Arbitrary(Option<GgmlDType>);

    impl ParamSource for Arbitrary {
        fn get(&self, name: &str, shape: &Shape, _: DType, device: &Device) -> Result<Tensor> {
            let seed = name.bytes().fold(7u64, |seed, byte| seed * 31 % 65_521 + u64::from(byte));
            let scale = (shape.dims()[shape.rank() - 1] as f32).sqrt().recip();
            Tensor::from_vec(values(seed, shape.elem_count(), scale), shape, device)
        }

        fn contains(&self, _: &str) -> bool {
            true
        }

        fn weight(
            &self,
            name: &str,
            shape: &Shape,
            weight_use: WeightUse,
            working: &Working,
        ) -> Result<Weight> {
            let rows = self.get(name, shape, working.dtype, &working.device)?;
            let storage = match self.0 {
                Some(format) => WeightStorage::InMemory(format, working.precision),
                None => WeightStorage::choose(weight_use, shape, None, working)?,
            };
            Weight::new(&rows, weight_use, storage)
        }
    }

    fn values(seed: u64, count: usize, scale: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * 1.732 * scale
            })
            .collect()
    }

    fn decoder(format: Option<GgmlDType>) -> LanguageDecoder {
        let config = json!({
            "model_type": "mistral", "vocab_size": 300, "hidden_size": 160, "head_dim": 32,
            "intermediate_size": 608, "num_hidden_layers": 2, "num_attention_heads": 5,
            "num_key_value_heads": 1, "sliding_window": 12,
        });
        let config = DecoderConfig::from_json(&config).unwrap();
        let source = Arc::new(Arbitrary(format));
        LanguageDecoder::load(&config, &Params::new(source, DType::F32, &Device::Cpu)).unwrap()
    }

    /// The scores of each row after a prompt of its own and two steps, as bits.
    fn scores(decoder: &LanguageDecoder, rows: &[u64]) -> Vec<Vec<u32>> {
        let prompts: Vec<f32> =
            rows.iter().flat_map(|&row| values(row + 1, 19 * 160, 1.0)).collect();
        let prompts = Tensor::from_vec(prompts, (rows.len(), 19, 160), &Device::Cpu).unwrap();
        let cache = decoder.cache(rows.len(), 24, None).unwrap();
        let states = decoder.prefill(&prompts.into(), &cache, 0).unwrap();
        let mut state = states.narrow(1, 18, 1).unwrap().squeeze(1).unwrap();
        for step in 0..2 {
            let tokens: Vec<u32> = rows.iter().map(|&row| (row as u32 * 7 + step) % 300).collect();
            let x = decoder.embed(&tokens, None).unwrap().add(&state).unwrap();
            state = decoder.step(&x, &cache, 19 + step as usize).unwrap();
        }
        let scores =
            decoder.logits(&state).unwrap().into_tensor().unwrap().to_vec2::<f32>().unwrap();
        scores.iter().map(|row| row.iter().map(|score| score.to_bits()).collect()).collect()
    }

    #[test]
    fn every_row_of_a_batch_has_the_bits_that_it_has_alone() {
        for format in [None, Some(GgmlDType::F16), Some(GgmlDType::Q8_0)] {
            let decoder = decoder(format);
            let rows: Vec<u64> = (0..49).collect();
            let together = scores(&decoder, &rows);
            for count in [1, 2, 3, 5, 8, 17] {
                let some = scores(&decoder, &rows[..count]);
                assert!(some[..] == together[..count], "{format:?}: {count} of 49 rows");
            }
            assert_ne!(together[0], together[1]);
        }
    }

    #[test]
    fn a_token_at_a_time_gives_what_all_at_once_give() {
        let decoder = decoder(None);
        let tokens: Vec<u32> = (0..20).map(|token| token * 13 % 300).collect();
        let x = decoder.embed(&tokens, None).unwrap();
        let all = decoder.cache(1, 20, None).unwrap();
        let all = decoder.prefill(&x.unsqueeze(0).unwrap(), &all, 0).unwrap().squeeze(0).unwrap();
        let cache = decoder.cache(1, 20, None).unwrap();
        for (index, _) in tokens.iter().enumerate() {
            let state = decoder.step(&x.narrow(0, index, 1).unwrap(), &cache, index).unwrap();
            let difference = state.sub(&all.narrow(0, index, 1).unwrap()).unwrap();
            let difference = difference.tensor().unwrap().abs().unwrap();
            let largest = difference.flatten_all().unwrap().max(0).unwrap();
            assert!(largest.to_scalar::<f32>().unwrap() < 1e-4, "token {index}");
        }
    }
}
