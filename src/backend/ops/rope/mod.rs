//! Rotary position embeddings: the numbers of queries and keys turn, in pairs, with their place.

use candle_core::Result;

use crate::backend::Activation;

/// `x` `[B, N, heads, d]` with number `i` and number `i + d/2` of each head turned by the angle whose
/// cosine and sine are in `cos` and `sin`, `[N, d/2]` (transformers' `apply_rotary_pos_emb`).
///
/// # Errors
/// Shapes that do not go together, values that are not contiguous, or those of the backend.
pub fn rope(x: &Activation, cos: &Activation, sin: &Activation) -> Result<Activation> {
    let (_, tokens, _, width) = x.dims4()?;
    for table in [cos, sin] {
        if table.dims2()? != (tokens, width / 2) {
            candle_core::bail!("rope: {:?} with angles {:?}", x.shape(), table.shape());
        }
    }
    // One kernel of candle's on every device.
    x.apply(x.shape(), |x| candle_nn::rotary_emb::rope_thd(x, cos.tensor()?, sin.tensor()?))
}
