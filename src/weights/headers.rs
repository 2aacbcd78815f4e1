//! Weights by name, shape and size, without their values: faults of a model's files are found,
//! and what its parts will take is known, before any weight is read.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::kept::KeptWeights;
use crate::backend::{
    ParamSource, Placement, Weight, WeightStorage, WeightUse, Working, stored_bytes,
};

/// Memory of a part's weights, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes kept while the part is loaded, in memory or as pages of a mapped file.
    pub kept: usize,
    /// The most at any moment while the part is being loaded.
    pub loading: usize,
    /// The share of `kept` that lies in mapped files, and so in host memory whatever the device.
    pub mapped: usize,
    /// Pages of this program that reading an embedded model touches; they stay.
    pub embedded: usize,
}

impl Footprint {
    /// Both of them, the other one loaded after this one.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            kept: self.kept + other.kept,
            loading: self.loading.max(self.kept + other.loading),
            mapped: self.mapped + other.mapped,
            embedded: self.embedded + other.embedded,
        }
    }
}

/// The weights of one part, without their values; each one that is asked for is added to a
/// [`Footprint`].
pub(super) struct Headers {
    weights: KeptWeights,
    footprint: Arc<Mutex<Footprint>>,
}

impl Headers {
    pub(super) fn new(weights: KeptWeights, footprint: Arc<Mutex<Footprint>>) -> Self {
        Self { weights, footprint }
    }

    /// Adds a weight that takes `kept` bytes, of which `mapped` in its file, and `passing` more while
    /// it is being read.
    fn add(&self, name: &str, kept: usize, mapped: usize, passing: usize) {
        let mut footprint = self.footprint.lock().unwrap_or_else(PoisonError::into_inner);
        footprint.kept += kept;
        footprint.mapped += mapped;
        footprint.loading = footprint.loading.max(footprint.kept + passing);
        if let Some((bytes, true)) = self.weights.stored().stored_bytes(name) {
            footprint.embedded += bytes;
        }
    }

    /// Transient memory while `count` numbers are converted from the file to `dtype` and laid out anew:
    /// the file's pages and the numbers in its format, or these twice in `dtype`.
    fn passing(&self, name: &str, count: usize, dtype: DType) -> usize {
        if let Some(format) = self.weights.rounding(name) {
            // To its format, and from there in f32 to `dtype`.
            return self.packing(name, count) + stored_bytes(format, count).unwrap_or(0);
        }
        let stored = self.weights.stored().stored_bytes(name).map_or(0, |(bytes, _)| bytes);
        (2 * stored).max(stored + count * dtype.size_in_bytes())
    }

    /// Transient memory of a conversion to another format: the file's pages, and f32 twice.
    fn packing(&self, name: &str, count: usize) -> usize {
        let stored = self.weights.stored().stored_bytes(name).map_or(0, |(bytes, _)| bytes);
        stored + 2 * count * size_of::<f32>()
    }

    fn add_plain(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) {
        let count = shape.elem_count();
        let kept = Placement::from(device).buffer(count * dtype.size_in_bytes());
        self.add(name, kept, 0, self.passing(name, count, dtype));
    }
}

/// A tensor that takes no memory.
fn valueless(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::zeros((), dtype, device)?.broadcast_as(shape)
}

impl ParamSource for Headers {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        self.weights.stored().check(name, shape)?;
        self.add_plain(name, shape, dtype, device);
        valueless(shape, dtype, device)
    }

    fn contains(&self, name: &str) -> bool {
        self.weights.contains(name)
    }

    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        self.weights.stored().check(name, shape)?;
        let storage = self.weights.storage(name, shape, weight_use, working)?;
        let (output, input) = weight_use.dims(shape)?;
        let (kept, count) = (storage.bytes(output, input), shape.elem_count());
        match storage {
            WeightStorage::InFile(..) => self.add(name, kept, kept, 0),
            WeightStorage::InMemory(format, _) if self.weights.has_format(name, format) => {
                self.add(name, kept, 0, self.packing(name, count));
            }
            WeightStorage::OnDevice(_) => self.add(name, kept, 0, 0),
            WeightStorage::Dense(dtype) => self.add_plain(name, shape, dtype, &working.device),
            _ => self.add(name, kept, 0, self.passing(name, count, storage.numbers())),
        }
        Weight::valueless(shape, weight_use, storage)
    }
}
