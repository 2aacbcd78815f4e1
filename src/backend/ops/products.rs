//! The precision in which the CPU multiplies.

use std::fmt;

use super::cpu;

/// In which precision the CPU's kernels multiply activations with weights. What they multiply is
/// rounded to it inside the product; activations, sums and everything else are f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    #[default]
    F32,
    /// Twice as fast and more where the processor has instructions for it, with an error of about
    /// 2⁻⁹ in every factor.
    Bf16,
}

impl Products {
    /// Whether this processor has instructions for it.
    #[must_use]
    pub fn is_available(self) -> bool {
        cpu::kernel_name(self).is_some()
    }

    /// The instructions that this processor multiplies with, `AVX-512` for example; `None` if it has
    /// none for this precision.
    #[must_use]
    pub fn instructions(self) -> Option<&'static str> {
        cpu::kernel_name(self)
    }
}

impl fmt::Display for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}
