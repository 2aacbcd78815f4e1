//! The epilogue of a product: what is added to its sums where they are written, because to read and to
//! write all of an output once more would take as long as a small product.

use candle_core::{Result, Tensor};

use super::values::with_values;

/// Epilogue of a product with `columns` outputs of so many samples: the values that are added to it.
#[derive(Debug)]
pub(in crate::backend) struct Epilogue<'a, T: ?Sized> {
    /// `[columns]`, or `[samples, columns]`
    pub bias: Option<&'a T>,
    /// of the output's shape: a residual connection
    pub other: Option<&'a T>,
}

impl<T: ?Sized> Clone for Epilogue<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Epilogue<'_, T> {}

impl<T: ?Sized> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self { bias: None, other: None }
    }
}

/// Calls `f` with the values of `x` and of a product's epilogue.
pub(in crate::backend) fn with_epilogue<T>(
    x: &Tensor,
    epilogue: Epilogue<Tensor>,
    (samples, columns): (usize, usize),
    f: impl FnOnce(&[f32], Epilogue<[f32]>) -> T,
) -> Result<T> {
    let Epilogue { bias, other } = epilogue;
    if let Some(bias) = bias
        && bias.dims() != [columns]
        && bias.dims() != [samples, columns]
    {
        candle_core::bail!("a bias of {:?} for {samples} × {columns} outputs", bias.shape());
    }
    match (bias, other) {
        (None, None) => with_values([x], |[x]| f(x, Epilogue::default())),
        (Some(bias), None) => {
            with_values([x, bias], |[x, bias]| f(x, Epilogue { bias: Some(bias), other: None }))
        }
        (None, Some(other)) => with_values([x, &other.contiguous()?], |[x, other]| {
            f(x, Epilogue { bias: None, other: Some(other) })
        }),
        (Some(bias), Some(other)) => {
            with_values([x, bias, &other.contiguous()?], |[x, bias, other]| {
                f(x, Epilogue { bias: Some(bias), other: Some(other) })
            })
        }
    }
}
