//! Convolutions with a few outputs, such as the last one of a UNet or of a decoder. In a panel most
//! columns would be zeros; here a vector holds neighbouring inputs, and products are summed along them.

use std::{array, mem::MaybeUninit, ops::Range, sync::Arc};

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    conv2d::Window,
    product::Summands,
    simd::{self, vectorized},
    with_summands, written,
};

/// Outputs of a narrow convolution at most, and for how many there is room.
const OUTPUTS: usize = 4;
/// Partial sums.
const LANES: usize = 16;

type Sums = [[f32; LANES]; OUTPUTS];

vectorized! {
    /// Adds the products of a pixel's inputs with the weights of each output. All slices have one length.
    fn add_products(x: &[f32], weights: [&[f32]; OUTPUTS], sums: &mut Sums) {
        let [mut a, mut b, mut c, mut d] = *sums;
        let whole = weights.map(|weights| weights.as_chunks::<LANES>().0);
        let (vectors, rest) = x.as_chunks::<LANES>();
        let both = whole[0].iter().zip(whole[1]).zip(whole[2].iter().zip(whole[3]));
        for (x, ((u, v), (w, z))) in vectors.iter().zip(both) {
            for i in 0..LANES {
                a[i] = simd::multiply_add::<FUSED>(x[i], u[i], a[i]);
                b[i] = simd::multiply_add::<FUSED>(x[i], v[i], b[i]);
                c[i] = simd::multiply_add::<FUSED>(x[i], w[i], c[i]);
                d[i] = simd::multiply_add::<FUSED>(x[i], z[i], d[i]);
            }
        }
        *sums = [a, b, c, d];
        let skipped = x.len() - rest.len();
        for (weights, sums) in weights.into_iter().zip(sums) {
            for ((sum, &x), &weight) in sums.iter_mut().zip(rest).zip(&weights[skipped..]) {
                *sum = simd::multiply_add::<FUSED>(x, weight, *sum);
            }
        }
    }
}

/// A convolution's weight for a few outputs, in f32 whatever the products of others are rounded to: it is
/// small, and the picture hangs on it.
#[derive(Clone, Debug)]
pub(in super::super) struct Narrow {
    /// `[kernel, OUTPUTS, kernel, in]`: a row of the kernel is one run of the picture
    weights: Arc<Vec<f32>>,
    pub inner: usize,
    pub columns: usize,
}

impl Narrow {
    /// From a weight in checkpoint layout, `[out, in, k, k]`; `None` if it has more outputs than a
    /// narrow one.
    ///
    /// # Errors
    /// Another shape.
    pub(in super::super) fn new(weight: &Tensor) -> Result<Option<Self>> {
        let (columns, input, kernel, _) = weight.dims4()?;
        if columns > OUTPUTS || weight.elem_count() == 0 {
            return Ok(None);
        }
        let rows = weight.to_dtype(DType::F32)?.permute((2, 0, 3, 1))?.contiguous()?;
        let rows = rows.pad_with_zeros(1, 0, OUTPUTS - columns)?;
        let weights = Arc::new(rows.flatten_all()?.to_vec1()?);
        Ok(Some(Self { weights, inner: kernel * kernel * input, columns }))
    }

    /// How many bytes it takes.
    pub(in super::super) fn bytes(&self) -> usize {
        size_of_val(self.weights.as_slice())
    }
}

/// What a convolution's weight with so many outputs takes, in bytes, if it is a narrow one.
pub(in super::super) fn narrow_bytes(inner: usize, columns: usize) -> Option<usize> {
    (columns <= OUTPUTS).then_some(OUTPUTS * inner * size_of::<f32>())
}

/// `[B, H, W, in]` → `[B, H', W', out]`; the window is not of a doubled picture. The bias is `[out]` or
/// `[B, out]`, `other` of the output's shape.
pub(in super::super) fn narrow(
    x: &Tensor,
    weight: &Narrow,
    bias: Option<&Tensor>,
    other: Option<&Tensor>,
    window: Window,
) -> Result<Tensor> {
    let channels = x.dim(3)?;
    let shape @ (batch, height, width, columns) = window.output_shape(x, weight.columns, other)?;
    let y = with_summands(&x.contiguous()?, bias, other, (batch, columns), |values, summands| {
        let row = width * columns;
        let picture = values.len() / batch.max(1);
        // SAFETY: the rows are all of it, and of each every pixel is written.
        unsafe {
            written(batch * height * row, |y| {
                y.par_chunks_mut(row.max(1)).enumerate().for_each(|(index, y)| {
                    let (sample, line) = (index / height, index % height);
                    let x = &values[sample * picture..][..picture];
                    let Summands { bias, other } = summands;
                    let bias = bias.map(|bias| {
                        if bias.len() > columns { &bias[sample * columns..] } else { bias }
                    });
                    let other = other.map(|other| &other[index * row..][..row]);
                    let summands = Summands { bias, other };
                    compute_row(x, weight, channels, line, window, summands, y);
                });
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// One row of output pixels of a picture `[H, W, in]`.
fn compute_row(
    x: &[f32],
    weight: &Narrow,
    channels: usize,
    line: usize,
    window: Window,
    summands: Summands,
    y: &mut [MaybeUninit<f32>],
) {
    let Window { kernel, stride, padding, picture: (height, width), .. } = window;
    let (run, columns) = (kernel * channels, weight.columns);
    let rows = window.seen(line, height);
    for (pixel, y) in y.chunks_exact_mut(columns).enumerate() {
        let Range { start: left, end: right } = window.seen(pixel, width);
        let seen = left * channels..right * channels;
        let mut sums = Sums::default();
        for row in if seen.is_empty() { 0..0 } else { rows.clone() } {
            let weights = &weight.weights[row * OUTPUTS * run..][..OUTPUTS * run];
            let weights = array::from_fn(|output| &weights[output * run..][seen.clone()]);
            let start = (line * stride + row - padding) * width + pixel * stride + left - padding;
            add_products(&x[start * channels..][..seen.len()], weights, &mut sums);
        }
        for (output, (y, lanes)) in y.iter_mut().zip(&sums).enumerate() {
            let bias = summands.bias.map_or(0.0, |bias| bias[output]);
            let other = summands.other.map_or(0.0, |other| other[pixel * columns + output]);
            y.write(lanes.iter().sum::<f32>() + bias + other);
        }
    }
}
