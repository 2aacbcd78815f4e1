//! Launches of the Metal kernels of non-linearities (`kernels/pointwise.metal`).

use crate::backend::{
    launch::Launch,
    launch_metal::{LengthSizes, MetalElement, RowSizes},
};

/// `silu(x, y, sizes)`, buffers 0 to 2, any shape of so many values, at most 2³⁴. `aligned` says that all buffers begin
/// at whole runs of four values; so it does for the others.
#[must_use]
pub fn silu(element: MetalElement, length: u64, aligned: bool) -> (Launch, LengthSizes) {
    LengthSizes::launch(element.kernel(["silu_f16", "silu_f32"]), length, aligned)
}

/// `gelu(x, y, sizes)`, by erf, as [`silu`].
#[must_use]
pub fn gelu(element: MetalElement, length: u64, aligned: bool) -> (Launch, LengthSizes) {
    LengthSizes::launch(element.kernel(["gelu_f16", "gelu_f32"]), length, aligned)
}

/// `quick_gelu(x, y, sizes)`, as [`silu`].
#[must_use]
pub fn quick_gelu(element: MetalElement, length: u64, aligned: bool) -> (Launch, LengthSizes) {
    LengthSizes::launch(element.kernel(["quick_gelu_f16", "quick_gelu_f32"]), length, aligned)
}

/// `swiglu(gate, value, y, sizes)`, buffers 0 to 3, as [`silu`].
#[must_use]
pub fn swiglu(element: MetalElement, length: u64, aligned: bool) -> (Launch, LengthSizes) {
    LengthSizes::launch(element.kernel(["swiglu_f16", "swiglu_f32"]), length, aligned)
}

/// `geglu(x, y, sizes)`, buffers 0 to 2: `[rows, 2·width]`, values and then gates → `[rows, width]`.
#[must_use]
pub fn geglu(element: MetalElement, rows: u32, width: u32, aligned: bool) -> (Launch, RowSizes) {
    let sizes = RowSizes::new(rows, width, aligned);
    (sizes.launch(element.kernel(["geglu_f16", "geglu_f32"]), rows), sizes)
}
