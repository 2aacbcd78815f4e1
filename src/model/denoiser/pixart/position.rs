//! Sines and cosines of a patch's place (diffusers' `PatchEmbed` with `sincos`, without cropping): whatever the
//! picture's size, places along either axis run over as many units as at the native size.

use candle_core::{DType, Result, Tensor};

use super::config::PixArtConfig;
use crate::backend::Activation;

/// The table of places.
#[derive(Clone, Copy, Debug)]
pub(super) struct PositionEmbedding {
    width: usize,
    /// patches along a side of the native size
    base: usize,
    interpolation_scale: f64,
}

impl PositionEmbedding {
    pub(super) fn new(config: &PixArtConfig) -> Self {
        Self {
            width: config.width(),
            base: config.sample_size / config.patch_size,
            interpolation_scale: config.interpolation_scale,
        }
    }

    /// `[1, rows·columns, width]`, f32, on the device of `like` or in its trace.
    pub(super) fn table(
        &self,
        rows: usize,
        columns: usize,
        like: &Activation,
    ) -> Result<Activation> {
        let shape = (1, rows * columns, self.width);
        Activation::make(like.trace(), shape, DType::F32, || {
            let (across, down) = (self.axis(columns), self.axis(rows));
            let half = self.width / 2;
            let mut table = Vec::with_capacity(rows * columns * self.width);
            for row in down.chunks_exact(half) {
                for column in across.chunks_exact(half) {
                    table.extend_from_slice(column);
                    table.extend_from_slice(row);
                }
            }
            Tensor::from_vec(table, shape, like.tensor()?.device())
        })
    }

    /// Half of the features for each of `count` places along an axis: sines, then cosines, of angles in f64.
    fn axis(&self, count: usize) -> Vec<f32> {
        let frequencies = self.width / 4;
        // Places in f32 and in this order, as the reference computes them.
        let stretch = (count as f64 / self.base as f64) as f32;
        let place = |index: usize| index as f32 / stretch / self.interpolation_scale as f32;
        let mut features = Vec::with_capacity(count * 2 * frequencies);
        for index in 0..count {
            let place = f64::from(place(index));
            let angles = (0..frequencies)
                .map(|k| place / 1e4_f64.powf(k as f64 / (self.width as f64 / 4.0)));
            features.extend(angles.clone().map(|angle| angle.sin() as f32));
            features.extend(angles.map(|angle| angle.cos() as f32));
        }
        features
    }
}
