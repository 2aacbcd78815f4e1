//! Attention of samples that have different numbers of keys.

use candle_core::Result;

use super::{Mask, attention};
use crate::backend::{Activation, MatmulPrecision};

/// [`attention`] where only the first `lengths[i]` keys of sample `i` count (a mask of padding behind the tokens).
///
/// Each sample is computed by itself, with the keys that count and no others: so what lies behind them plays no part
/// at all, and any device uses the kernel that it has for attention without a mask.
///
/// # Errors
/// Another number of lengths than of samples, a length of 0 or beyond the keys, or those of [`attention`].
pub fn attention_of_lengths(
    q: &Activation,
    k: &Activation,
    v: &Activation,
    heads: usize,
    lengths: &[usize],
    precision: MatmulPrecision,
) -> Result<Activation> {
    let (samples, keys, _) = k.dims3()?;
    if lengths.len() != samples || lengths.iter().any(|length| !(1..=keys).contains(length)) {
        candle_core::bail!(
            "attention: {samples} samples of {keys} keys, of which {lengths:?} count"
        );
    }
    if lengths.iter().all(|&length| length == keys) {
        return attention(q, k, v, heads, Mask::None, precision);
    }
    let of_sample = |(sample, &length): (usize, &usize)| {
        let own = |x: &Activation| x.narrow(0, sample, 1);
        let counting = |x: &Activation| own(x)?.narrow(1, 0, length);
        attention(&own(q)?, &counting(k)?, &counting(v)?, heads, Mask::None, precision)
    };
    let parts: Vec<_> = lengths.iter().enumerate().map(of_sample).collect::<Result<_>>()?;
    Activation::cat(&parts, 0)
}
