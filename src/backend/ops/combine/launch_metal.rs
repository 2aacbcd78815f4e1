//! Launches of the Metal kernels of sums (`kernels/pointwise.metal`).

use crate::backend::{
    launch::Launch,
    launch_metal::{LengthSizes, MetalElement, RowSizes},
};

/// `add(a, b, y, sizes)`, buffers 0 to 3, any shape of so many values, at most 2³⁴. `aligned` says that all buffers
/// begin at whole runs of four values.
#[must_use]
pub fn add(element: MetalElement, length: u64, aligned: bool) -> (Launch, LengthSizes) {
    LengthSizes::launch(element.kernel(["add_f16", "add_f32"]), length, aligned)
}

/// `add_bias(x, bias, other, y, sizes)`, buffers 0 to 4: `[rows, width]` + `[rows/bias_rows, width]` + `[rows, width]`, of
/// which the last is not read unless `has_other`. The bias has the type of the rest.
#[must_use]
pub fn add_bias(
    element: MetalElement,
    (rows, width): (u32, u32),
    bias_rows: u32,
    has_other: bool,
    aligned: bool,
) -> (Launch, RowSizes) {
    let sizes =
        RowSizes { bias_rows, has_other: has_other.into(), ..RowSizes::new(rows, width, aligned) };
    (sizes.launch(element.kernel(["add_bias_f16", "add_bias_f32"]), rows), sizes)
}
