//! Crop-and-resize of a feature map: how the attention prior of a region is taken from the
//! low-resolution pass (docs/method.md §4).

mod cpu;

use candle_core::{DType, Device, Result, Tensor};

use super::{Form, form, plain_cost};
use crate::backend::Activation;

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
    match form([map]) {
        Form::Kernel => cpu::crop_resize(map.tensor()?, &rows, &columns).map(Activation::from),
        Form::KernelCost(trace) => plain_cost(trace, &[map], (1, height, width, channels)),
        Form::Composed => composed(map, &rows, &columns),
    }
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

/// Between which two places of an axis a sample lies, and how far it is from the first, `0..1`.
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
