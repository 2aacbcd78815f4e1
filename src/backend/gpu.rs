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
        allow(dead_code, reason = "no build without kernels reads it")
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

/// The launches of this thread, traced ones as well.
#[cfg(test)]
pub(super) mod recorded {
    use std::cell::RefCell;

    type Launched = (&'static str, Vec<usize>);

    thread_local! {
        static LAUNCHES: RefCell<Vec<Launched>> = const { RefCell::new(Vec::new()) };
    }

    /// A kernel is launched with arguments of so many bytes each.
    pub(in crate::backend) fn note(kernel: &'static str, sizes: Vec<usize>) {
        LAUNCHES.with_borrow_mut(|launches| launches.push((kernel, sizes)));
    }

    /// Names of the kernels since the last call, and the bytes of their arguments.
    pub(in crate::backend) fn take() -> Vec<Launched> {
        LAUNCHES.take()
    }
}
