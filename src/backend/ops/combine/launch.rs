//! Launches of the sums' kernels (`kernels/pointwise.cu`).

use crate::backend::launch::{ElementType, Launch, RowSizes};

/// `add(a, b, y, length)`, any shape of so many values.
#[must_use]
pub fn add(element: ElementType, length: u64) -> Launch {
    Launch::over(element.kernel(["add_bf16", "add_f16", "add_f32"]), element, length)
}

/// `add_bias(x, bias, other, y, sizes)`: `[rows, width]` + `[width]` + `[rows, width]`, of which the last may be
/// null. The bias has the type of the rest.
#[must_use]
pub fn add_bias(element: ElementType, rows: u64, width: u64) -> (Launch, RowSizes) {
    let names = ["add_bias_bf16", "add_bias_f16", "add_bias_f32"];
    (Launch::over(element.kernel(names), element, rows * width), RowSizes { rows, width })
}
