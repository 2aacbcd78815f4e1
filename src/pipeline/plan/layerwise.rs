//! Maps of a layerwise pass within a memory trace: shapes alone, and the bytes that they would have on the disk.

use candle_core::{DType, Result};

use crate::{
    backend::{Activation, Placement, Trace},
    model::vae::{FeatureMaps, LayerwiseSize, MapId, Window},
    pipeline::work::maps::VALUE_BYTES,
};

/// Blocks along an axis of the traced canvas: one that has others on both sides takes the most memory.
const BLOCKS: usize = 3;
/// Least side of the traced canvas, if the true one has it, in latent pixels: so many places have all the keys that an
/// attention over small blocks takes.
pub const LEAST_SIDE: usize = 136;

/// The maps of a pass over a part of a canvas that takes as much memory as the whole.
pub struct TracedMaps<'a> {
    trace: &'a Trace,
    /// Channels of the input.
    channels: usize,
    /// The true size.
    size: LayerwiseSize,
    /// Values and channels of each map, while it is there.
    maps: Vec<Option<(usize, usize)>>,
    /// Values of the output so far, which are a map as well.
    output: usize,
    /// The most values of all maps at a time.
    most: usize,
    /// Values of the largest window.
    largest: usize,
}

impl<'a> TracedMaps<'a> {
    /// The maps of a pass of this size whose input has so many channels.
    pub fn new(trace: &'a Trace, channels: usize, size: LayerwiseSize) -> Self {
        Self { trace, channels, size, maps: Vec::new(), output: 0, most: 0, largest: 0 }
    }

    /// The size that is traced.
    pub fn traced_size(&self) -> LayerwiseSize {
        let most = (BLOCKS * self.size.block).max(LEAST_SIDE);
        let (height, width) = self.size.latents;
        LayerwiseSize { latents: (height.min(most), width.min(most)), block: self.size.block }
    }

    /// Bytes of the largest window.
    pub fn largest(&self) -> usize {
        self.largest * size_of::<f32>()
    }

    /// Area of the true canvas as a multiple of the traced one's.
    pub fn share(&self) -> f64 {
        let area = |(height, width): (usize, usize)| (height * width) as f64;
        area(self.size.latents) / area(self.traced_size().latents)
    }

    /// The most bytes of the true canvas's maps at a time.
    pub fn bytes(&self) -> u64 {
        (self.most as f64 * self.share()) as u64 * VALUE_BYTES as u64
    }

    fn count(&mut self) {
        let maps: usize = self.maps.iter().flatten().map(|(values, _)| values).sum();
        self.most = self.most.max(maps + self.output);
    }

    fn window(&mut self, window: &Window, channels: usize) -> Activation {
        let shape = (1, window.rows.len(), window.columns.len(), channels);
        self.trace.activation(shape, DType::F32)
    }

    /// Values on their way out: a copy on the host.
    fn leaves(&mut self, values: &Activation) {
        self.largest = self.largest.max(values.elem_count());
        if self.trace.placement() == Placement::Cpu {
            self.trace.pass(values.bytes());
        }
    }
}

impl FeatureMaps for TracedMaps<'_> {
    fn input(&mut self, window: &Window) -> Result<Activation> {
        Ok(self.window(window, self.channels))
    }

    fn output(&mut self, _: &Window, values: &Activation) -> Result<()> {
        self.leaves(values);
        self.output += values.elem_count();
        self.count();
        Ok(())
    }

    fn create(&mut self, (height, width, channels): (usize, usize, usize)) -> Result<MapId> {
        self.maps.push(Some((height * width * channels, channels)));
        self.count();
        Ok(self.maps.len() - 1)
    }

    fn read(&mut self, map: MapId, window: &Window) -> Result<Activation> {
        match self.maps.get(map) {
            Some(&Some((_, channels))) => Ok(self.window(window, channels)),
            _ => candle_core::bail!("there is no map {map}"),
        }
    }

    fn write(&mut self, _: MapId, _: &Window, values: &Activation) -> Result<()> {
        self.leaves(values);
        Ok(())
    }

    fn remove(&mut self, map: MapId) {
        if let Some(map) = self.maps.get_mut(map) {
            *map = None;
        }
    }

    fn advance(&mut self, _: usize, _: usize) {}
}
