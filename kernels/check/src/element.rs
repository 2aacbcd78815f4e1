//! Types of elements.

pub use half::{bf16, f16};

use crate::backend::launch::ElementType;

/// An element of a tensor. All bits set are no number of any of them.
pub trait Element: Copy + PartialEq + std::fmt::Debug + 'static {
    /// What a launch calls it.
    const TYPE: ElementType;
    /// Bits of a number, the leading one included: half a unit in the last place of x is at most |x| · 2^-BITS.
    const BITS: i32;
    /// Rounds to nearest.
    fn round(value: f32) -> Self;
    fn widen(self) -> f64;
}

impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;
    const BITS: i32 = 24;
    fn round(value: f32) -> Self {
        value
    }
    fn widen(self) -> f64 {
        f64::from(self)
    }
}

impl Element for bf16 {
    const TYPE: ElementType = ElementType::Bf16;
    const BITS: i32 = 8;
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f64 {
        f64::from(self.to_f32())
    }
}

impl Element for f16 {
    const TYPE: ElementType = ElementType::F16;
    const BITS: i32 = 11;
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f64 {
        f64::from(self.to_f32())
    }
}
