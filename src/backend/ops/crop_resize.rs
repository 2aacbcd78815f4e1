//! Crop-and-resize of a feature map: how the attention prior of a region is taken from the
//! low-resolution pass (METHOD §4).

use candle_core::{Device, Result, Tensor};

/// A rectangle in relative coordinates of the whole map, `0..=1` in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropRect {
    pub top: f64,
    pub left: f64,
    pub height: f64,
    pub width: f64,
}

/// Bilinear samples of `map` at `height × width` pixel centres spread evenly over `rect`.
///
/// `map` is `[1, H, W, C]`, the result `[1, height, width, C]`. Half-pixel centres, positions
/// outside the map take its border (`torch.nn.functional.grid_sample(mode="bilinear",
/// padding_mode="border", align_corners=False)`). Interpolation is separable, so it is two small
/// matrix products: no gather kernel is needed on any device.
///
/// # Errors
/// A map with a batch other than 1, or those of the backend.
pub fn crop_resize(map: &Tensor, rect: CropRect, height: usize, width: usize) -> Result<Tensor> {
    let (batch, map_h, map_w, channels) = map.dims4()?;
    if batch != 1 {
        candle_core::bail!("crop_resize: one map at a time, not {batch}");
    }
    let device = map.device();
    let rows = weights(rect.top, rect.height, map_h, height, device)?.to_dtype(map.dtype())?;
    let columns = weights(rect.left, rect.width, map_w, width, device)?.to_dtype(map.dtype())?;
    let tall = rows.matmul(&map.contiguous()?.reshape((map_h, map_w * channels))?)?;
    columns
        .unsqueeze(0)?
        .broadcast_as((height, width, map_w))?
        .contiguous()?
        .matmul(&tall.reshape((height, map_w, channels))?)?
        .unsqueeze(0)
}

/// The `[output, input]` matrix of linear interpolation along one axis.
fn weights(
    start: f64,
    extent: f64,
    input: usize,
    output: usize,
    device: &Device,
) -> Result<Tensor> {
    let mut matrix = vec![0f32; output * input];
    let last = (input - 1) as f64;
    for (index, row) in matrix.chunks_exact_mut(input).enumerate() {
        let relative = start + extent * (index as f64 + 0.5) / output as f64;
        let position = (relative * input as f64 - 0.5).clamp(0.0, last);
        let low = position.floor();
        let fraction = (position - low) as f32;
        let low = low as usize;
        row[low] += 1.0 - fraction;
        row[(low + 1).min(input - 1)] += fraction;
    }
    Tensor::from_vec(matrix, (output, input), device)
}
