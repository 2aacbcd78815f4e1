//! Two activations become one.

use candle_core::{D, Result, Tensor};

use super::cpu;

/// `a + b`, of one shape: a residual connection. Where one of the two comes out of a layer, that layer's
/// `forward_add` saves a pass over memory.
///
/// # Errors
/// Different shapes, or those of the backend.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if cpu::takes(a) && cpu::takes(b) {
        return cpu::add(a, b);
    }
    a + b
}

/// Channels side by side: `[…, A]` and `[…, B]` → `[…, A + B]`.
///
/// # Errors
/// Other dimensions that differ, or those of the backend.
pub fn join(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if cpu::takes(a) && cpu::takes(b) {
        return cpu::join(a, b);
    }
    Tensor::cat(&[a, b], D::Minus1)
}
