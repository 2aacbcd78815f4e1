//! Samples of a map on GPUs, by the kernel that blends them into the output of an attention. CUDA's and Metal's have one
//! launch.

use candle_core::{DType, Result, Tensor};

use super::launch::{AxisSample, BlendSizes, blend_prior};
use crate::backend::{
    Activation, Placement,
    cuda::{Arg, element, ready, run},
    gpu::{KernelValue, expect_type, room},
    metal::compute,
};

// SAFETY: `repr(C)`, as `BlendSizes` of `kernels/crop_resize.cu` and `.metal`: numbers of 32 bits.
unsafe impl KernelValue for BlendSizes {}

/// Places along an axis as the kernel reads them: the place before, the place behind, and the bits of the distance.
fn axis(
    like: &Activation,
    samples: impl ExactSizeIterator<Item = AxisSample>,
) -> Result<Activation> {
    let shape = (samples.len(), 3);
    Activation::make(like.trace(), shape, DType::U32, || {
        let words: Vec<u32> = samples
            .flat_map(|AxisSample { low, high, fraction }| [low, high, fraction.to_bits()])
            .collect();
        Tensor::from_vec(words, shape, like.tensor()?.device())
    })
}

/// `(1 − weight)·own + weight·samples`: `own` `[B, h·w, C]` of `(B, h, w, C)`, `maps` `[B / regions, H, W, C]`; rows and
/// columns are those of `regions` samples one after the other, or none for maps of the output's size, whose pixels are
/// blended in place. `None` if it is larger than the kernel counts.
fn blended(
    own: &Activation,
    maps: &Activation,
    (samples, height, width): (usize, usize, usize),
    regions: usize,
    places: Option<[&Activation; 2]>,
    weight: f32,
) -> Result<Option<Activation>> {
    let (_, map_height, map_width, channels) = maps.dims4()?;
    expect_type(maps, own.dtype())?;
    let count = |count: usize| u32::try_from(count).ok();
    let sizes = [samples, height, width, channels, map_height, map_width, regions].map(count);
    let [
        Some(samples),
        Some(height),
        Some(width),
        Some(channels),
        Some(map_height),
        Some(map_width),
        Some(regions),
    ] = sizes
    else {
        return Ok(None);
    };
    let (output, map) = ((samples, height, width, channels), (map_height, map_width));
    let Some((launch, sizes)) = blend_prior(element(own)?, output, map, regions, weight) else {
        return Ok(None);
    };
    let sizes = BlendSizes { in_place: places.is_none().into(), ..sizes };
    let (own, maps) = (ready(own)?, ready(maps)?);
    if own.placement() == Placement::Metal {
        let output = (own.shape(), own.dtype());
        // A kernel for Metal has no null: what it does not read may be any buffer.
        let [rows, columns] = places.unwrap_or([&own, &own]);
        // SAFETY: sizes are those of the tensors; every sampled place lies in the map.
        return unsafe { compute(&launch, &own, &[&maps, rows, columns], output, &sizes) }
            .map(Some);
    }
    let y = room(&own, own.shape(), own.dtype())?;
    let [rows, columns] = places.map_or([None, None], |places| places.map(Some)).map(Arg::from);
    let args =
        [Arg::from(&own), Arg::from(&maps), rows, columns, Arg::from(&y), Arg::Value(&sizes)];
    // SAFETY: as above.
    unsafe { run(&launch, &args)? };
    Ok(Some(y))
}

/// Samples of a map `[1, H, W, C]` at every row and column → `[1, rows, columns, C]`.
pub(super) fn crop_resize(
    map: &Activation,
    rows: &[AxisSample],
    columns: &[AxisSample],
) -> Result<Option<Activation>> {
    let (_, _, _, channels) = map.dims4()?;
    let size = (1, rows.len(), columns.len());
    let shape = (1, rows.len(), columns.len(), channels);
    // The kernel reads what it blends with, even with a weight of 0.
    let zeros = Activation::make(map.trace(), shape, map.dtype(), || {
        Tensor::zeros(shape, map.dtype(), map.tensor()?.device())
    })?;
    let (rows, columns) = (axis(map, rows.iter().copied())?, axis(map, columns.iter().copied())?);
    blended(&zeros, map, size, 1, Some([&rows, &columns]), 1.0)
}

/// `(1 − weight)·own + weight·prior`: both `[B, h, w, C]`, or one prior for all.
pub(super) fn blend(
    own: &Activation,
    prior: &Activation,
    weight: f64,
) -> Result<Option<Activation>> {
    let (samples, height, width, _) = own.dims4()?;
    let regions = samples / prior.dim(0)?;
    blended(own, prior, (samples, height, width), regions, None, weight as f32)
}
