//! Crop-and-resize of a feature map: it takes the attention prior of a region from the
//! low-resolution pass (docs/method.md §4).

mod cpu;
mod cuda;
mod launch;

use candle_core::{DType, Device, Result, Tensor};

use super::{OpForm, form, plain_cost};
use crate::backend::{Activation, Operation};

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
    let rows = samples(rect.top, rect.height, map_h, height);
    let columns = samples(rect.left, rect.width, map_w, width);
    let form = form(Operation::CropResize, [map]);
    if let OpForm::Cuda = form
        && let Some(y) = cuda::crop_resize(map, &rows, &columns)?
    {
        return Ok(y);
    }
    match form {
        OpForm::Cpu => cpu::crop_resize(map.tensor()?, &rows, &columns).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[map], (1, height, width, channels)),
        OpForm::Cuda | OpForm::Composed => composed(map, &rows, &columns),
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
    if let OpForm::Cuda = form(Operation::Blend, [&own, &prior])
        && let Some(y) = cuda::blend(&own, &prior, weight)?
    {
        return Ok(y);
    }
    weighted(own, 1.0 - weight)?.broadcast_add(&weighted(prior, weight)?)
}

/// `x·weight`. `x` ends here.
fn weighted(x: Activation, weight: f64) -> Result<Activation> {
    x.affine(weight, 0.0)
}

fn composed(map: &Activation, rows: &[Sample], columns: &[Sample]) -> Result<Activation> {
    let (_, map_h, map_w, channels) = map.dims4()?;
    let (height, width) = (rows.len(), columns.len());
    let matrix = |samples: &[Sample], input| {
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

/// Sampling position on an axis: the two neighbouring places, and the distance from the first, `0..1`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    pub low: usize,
    pub high: usize,
    pub fraction: f32,
}

/// The samples along one axis of so many places.
fn samples(start: f64, extent: f64, input: usize, output: usize) -> Vec<Sample> {
    let last = input.saturating_sub(1);
    let sample = |index: usize| {
        let relative = start + extent * (index as f64 + 0.5) / output as f64;
        let position = (relative * input as f64 - 0.5).clamp(0.0, last as f64);
        let low = position.floor();
        let fraction = (position - low) as f32;
        let low = low as usize;
        Sample { low, high: (low + 1).min(last), fraction }
    };
    (0..output).map(sample).collect()
}

/// The `[output, input]` matrix of linear interpolation along one axis.
fn weights(samples: &[Sample], input: usize, device: &Device) -> Result<Tensor> {
    let mut matrix = vec![0f32; samples.len() * input];
    for (row, &Sample { low, high, fraction }) in matrix.chunks_exact_mut(input).zip(samples) {
        row[low] += 1.0 - fraction;
        row[high] += fraction;
    }
    Tensor::from_vec(matrix, (samples.len(), input), device)
}
