//! Crop-and-resize of a feature map: it takes the attention prior of a region from the
//! low-resolution pass (docs/method.md §4).

mod cpu;
mod gpu;
mod launch;

use candle_core::{DType, Device, Result, Tensor};

use super::{OpForm, form, plain_cost};
use crate::backend::{Activation, Operation};
use launch::{AxisSample, axis_samples};

/// A rectangle in relative coordinates of the whole map, `0..=1` in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropRect {
    /// Top edge.
    pub top: f64,
    /// Left edge.
    pub left: f64,
    /// Height.
    pub height: f64,
    /// Width.
    pub width: f64,
}

/// Bilinear samples of `map` at `height × width` pixel centres spread evenly over `rect`.
///
/// `map` is `[1, H, W, C]`, the result `[1, height, width, C]`. Half-pixel centres, positions
/// outside the map take its border (`torch.nn.functional.grid_sample(mode="bilinear",
/// padding_mode="border", align_corners=False)`). Interpolation is separable, so where there is no
/// kernel it is two small matrix products: no gather is needed on any device.
///
/// # Errors
/// A map with a batch other than 1, or those of the backend.
pub fn crop_resize(
    map: &Activation,
    rect: CropRect,
    height: usize,
    width: usize,
) -> Result<Activation> {
    let (batch, map_h, map_w, channels) = map.dims4()?;
    if batch != 1 {
        candle_core::bail!("crop_resize: one map at a time, not {batch}");
    }
    let samples = |start, extent, input: usize, output: usize| -> Vec<AxisSample> {
        axis_samples(start, extent, input as u32, output as u32).collect()
    };
    let rows = samples(rect.top, rect.height, map_h, height);
    let columns = samples(rect.left, rect.width, map_w, width);
    let form = form(Operation::CropResize, [map]);
    if let OpForm::Cuda | OpForm::Metal = form
        && let Some(y) = gpu::crop_resize(map, &rows, &columns)?
    {
        return Ok(y);
    }
    match form {
        OpForm::Cpu => cpu::crop_resize(map.tensor()?, &rows, &columns).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[map], (1, height, width, channels)),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => composed(map, &rows, &columns),
    }
}

/// `(1 − weight)·own + weight·prior`, of `[B, h, w, C]`, or of one prior for all samples.
///
/// `own` and `prior` end here, so that no value is held longer than it is needed.
///
/// # Errors
/// Shapes that do not go together, or those of the backend.
pub fn blend(own: Activation, prior: Activation, weight: f64) -> Result<Activation> {
    let (batch, height, width, channels) = own.dims4()?;
    let (priors, ..) = prior.dims4()?;
    let is_one = priors == 1 || priors == batch;
    if prior.dims()[1..] != [height, width, channels] || !is_one {
        candle_core::bail!("blend: {:?} and {:?}", own.shape(), prior.shape());
    }
    if let OpForm::Cuda | OpForm::Metal = form(Operation::Blend, [&own, &prior])
        && let Some(y) = gpu::blend(&own, &prior, weight)?
    {
        return Ok(y);
    }
    weighted(own, 1.0 - weight)?.broadcast_add(&weighted(prior, weight)?)
}

/// `x·weight`. `x` ends here.
fn weighted(x: Activation, weight: f64) -> Result<Activation> {
    x.affine(weight, 0.0)
}

fn composed(map: &Activation, rows: &[AxisSample], columns: &[AxisSample]) -> Result<Activation> {
    let (_, map_h, map_w, channels) = map.dims4()?;
    let (height, width) = (rows.len(), columns.len());
    let matrix = |samples: &[AxisSample], input| {
        let shape = (samples.len(), input);
        let device = || map.tensor().map(Tensor::device);
        Activation::make(map.trace(), shape, DType::F32, || weights(samples, input, device()?))?
            .to_dtype(map.dtype())
    };
    let (rows, columns) = (matrix(rows, map_h)?, matrix(columns, map_w)?);
    let tall = rows.matmul(&map.contiguous()?.reshape((map_h, map_w * channels))?)?;
    columns
        .unsqueeze(0)?
        .broadcast_as((height, width, map_w))?
        .contiguous()?
        .matmul(&tall.reshape((height, map_w, channels))?)?
        .unsqueeze(0)
}

/// The `[output, input]` matrix of linear interpolation along one axis.
fn weights(samples: &[AxisSample], input: usize, device: &Device) -> Result<Tensor> {
    let mut matrix = vec![0f32; samples.len() * input];
    for (row, &AxisSample { low, high, fraction }) in matrix.chunks_exact_mut(input).zip(samples) {
        row[low as usize] += 1.0 - fraction;
        row[high as usize] += fraction;
    }
    Tensor::from_vec(matrix, (samples.len(), input), device)
}
