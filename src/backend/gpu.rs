//! What our own kernels on GPUs of either kind share: what they take by value, and room for what they write.

use std::{ffi::c_void, ptr::from_ref};

use candle_core::{DType, Result, Shape, Tensor};

use super::Activation;

/// A value that a kernel takes by value.
///
/// # Safety
/// Its bytes are those of the kernel's parameter, and every one of them is initialized.
pub(super) unsafe trait KernelValue {
    #[cfg_attr(
        not(any(feature = "cuda", feature = "metal")),
        expect(dead_code, reason = "builds without kernels read no values")
    )]
    /// Address of the bytes.
    fn address(&self) -> *const c_void {
        from_ref(self).cast()
    }
}

/// Refuses what a kernel would take for values of another type.
///
/// # Errors
/// Values that are not of this type.
pub(super) fn expect_type(x: &Activation, dtype: DType) -> Result<()> {
    if x.dtype() != dtype {
        candle_core::bail!("{:?} where {dtype:?} is needed", x.dtype());
    }
    Ok(())
}

/// Room for what a kernel writes, where `like` is.
///
/// # Errors
/// Those of the backend.
pub(super) fn room(like: &Activation, shape: impl Into<Shape>, dtype: DType) -> Result<Activation> {
    let shape = shape.into();
    Activation::make(like.trace(), shape.clone(), dtype, || {
        // SAFETY: every value is written by the kernel that it is made for, before any is read.
        unsafe { Tensor::empty(shape, dtype, like.tensor()?.device()) }
    })
}
