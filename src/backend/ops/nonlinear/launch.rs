//! Launches of the non-linearities' kernels (`kernels/pointwise.cu`).

use crate::backend::launch::{ElementType, Launch, RowSizes};

/// `silu(x, y, length)`, any shape of so many values.
#[must_use]
pub fn silu(element: ElementType, length: u64) -> Launch {
    Launch::over(element.kernel(["silu_bf16", "silu_f16", "silu_f32"]), element, length)
}

/// `gelu(x, y, length)`, by erf.
#[must_use]
pub fn gelu(element: ElementType, length: u64) -> Launch {
    Launch::over(element.kernel(["gelu_bf16", "gelu_f16", "gelu_f32"]), element, length)
}

/// `quick_gelu(x, y, length)`
#[must_use]
pub fn quick_gelu(element: ElementType, length: u64) -> Launch {
    let names = ["quick_gelu_bf16", "quick_gelu_f16", "quick_gelu_f32"];
    Launch::over(element.kernel(names), element, length)
}

/// `swiglu(gate, value, y, length)`
#[must_use]
pub fn swiglu(element: ElementType, length: u64) -> Launch {
    let names = ["swiglu_bf16", "swiglu_f16", "swiglu_f32"];
    Launch::over(element.kernel(names), element, length)
}

/// `geglu(x, y, sizes)`: `[rows, 2·width]`, values and then gates → `[rows, width]`.
#[must_use]
pub fn geglu(element: ElementType, rows: u64, width: u64) -> (Launch, RowSizes) {
    let names = ["geglu_bf16", "geglu_f16", "geglu_f32"];
    (Launch::over(element.kernel(names), element, rows * width), RowSizes { rows, width })
}
