//! Matmul precision: the rounding of the factors of the CPU's products, for speed where a processor has
//! instructions for it.

use std::fmt;

/// Matmul precision: that in which the CPU's kernels multiply activations with weights. The factors are
/// rounded to it inside the product; activations, sums and everything else are f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// Factors as they are.
    #[default]
    F32,
    /// Twice as fast and more where the processor has instructions for it, with an error of about
    /// 2⁻⁹ in every factor.
    Bf16,
}

impl fmt::Display for MatmulPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}
