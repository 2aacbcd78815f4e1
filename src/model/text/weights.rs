//! Weights of a prompt's words, applied to the states that an encoder made of them (docs/method.md §8).

use candle_core::{DType, Device, Result, Tensor};

use crate::backend::Activation;

/// CLIP's states of one chunk, `[1, N, D]`, each multiplied by its weight, and all by what brings the mean of the chunk's numbers back to
/// what it was: A1111's emphasis "Original".
///
/// # Errors
/// States of another number of tokens, or those of the backend.
pub(super) fn multiplied(states: &Activation, weights: &[f32]) -> Result<Activation> {
    let (_, _, width) = states.dims3()?;
    let restored = if states.is_traced() {
        1.0
    } else {
        // On the host and in f64: numbers of both signs nearly cancel out.
        let values = states.tensor()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
        let sums =
            values.chunks_exact(width).map(|row| row.iter().copied().map(f64::from).sum::<f64>());
        let (before, after) =
            sums.zip(weights).fold((0.0, 0.0), |(before, after), (sum, weight)| {
                (before + sum, after + sum * f64::from(*weight))
            });
        before / after
    };
    let weights = weights.iter().map(|weight| (f64::from(*weight) * restored) as f32).collect();
    by_token(&states.to_dtype(DType::F32)?, weights)?.to_dtype(states.dtype())
}

/// T5's states, `[1, N, D]`, moved away from those of an empty text as far as the weights say: `w·state + (1 − w)·empty`, as ComfyUI
/// does; A1111 has no weights for T5.
///
/// # Errors
/// States of different or another number of tokens, or those of the backend.
pub(super) fn from_empty(
    states: &Activation,
    empty: &Activation,
    weights: &[f32],
) -> Result<Activation> {
    let own = by_token(&states.to_dtype(DType::F32)?, weights.to_vec())?;
    let rest = weights.iter().map(|weight| 1.0 - weight).collect();
    own.add(&by_token(&empty.to_dtype(DType::F32)?, rest)?)?.to_dtype(states.dtype())
}

/// `x`, `[1, N, D]` in f32, with each token's numbers multiplied.
fn by_token(x: &Activation, weights: Vec<f32>) -> Result<Activation> {
    let shape = (1, weights.len(), 1);
    let weights = Activation::make(x.trace(), shape, DType::F32, || {
        Tensor::from_vec(weights, shape, x.tensor()?.device())
    })?;
    x.broadcast_mul(&weights)
}
