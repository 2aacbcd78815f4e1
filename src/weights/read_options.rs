//! Options with which the weights of a model are read, the same for diffusion models and captioners: rounding, the
//! size above which weights stay as they are stored, and whether values are read at all.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};

use super::QuantType;
use super::fingerprint::fingerprint;
use super::headers::{Footprint, Headers};
use super::kept::KeptWeights;
use crate::backend::{MatmulPrecision, ParamSource, Params};

/// Number of weights above which the CPU keeps a part as it is stored: those that would take more than 384 MiB in
/// f32. Smaller ones gain little, and the embedded model and SDXL's VAE, whose convolutions would be brought to f32
/// for every tile, stay as fast as f32 is. Weights are counted, not bytes, so that quantizing a part does not
/// change how it is kept.
const KEEP_ABOVE: usize = 96 << 20;

/// Files of a model, and the options with which its weights are read.
#[derive(Clone, Debug)]
pub(super) struct ReadOptions {
    /// every file and folder that a part of the model comes from
    pub paths: Vec<PathBuf>,
    /// type to which weights are rounded
    pub quantized: Option<QuantType>,
    /// number of weights above which a part stays as it is stored
    pub keep_above: usize,
    /// sum of what weights would take, where they are not read
    footprint: Option<Arc<Mutex<Footprint>>>,
}

impl ReadOptions {
    /// Default options for a model from these files and folders.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, quantized: None, keep_above: KEEP_ABOVE, footprint: None }
    }

    /// Same options with weights rounded to this type.
    pub(super) fn quantized(self, quant: QuantType) -> Self {
        Self { quantized: Some(quant), ..self }
    }

    /// Same options with another number of weights above which a part stays as it is stored.
    pub(super) fn keep_above(self, weights: usize) -> Self {
        Self { keep_above: weights, ..self }
    }

    /// Digest that changes when any file does, the scale of a LoRA, or the type of rounding. Files
    /// are told apart by place, length, time of change and a sample of their bytes.
    pub(super) fn fingerprint(&self, scales: impl Iterator<Item = f64>) -> String {
        fingerprint(&self.paths, scales, self.quantized)
    }

    /// Parameters for a network from these weights, or from their headers alone.
    pub(super) fn params(
        &self,
        weights: KeptWeights,
        dtype: DType,
        device: &Device,
        precision: MatmulPrecision,
    ) -> Params {
        let source: Arc<dyn ParamSource> = match &self.footprint {
            Some(footprint) => Arc::new(Headers::new(weights, footprint.clone())),
            None => Arc::new(weights),
        };
        Params::new(source, dtype, device).with_precision(precision)
    }

    /// Builds something with options that read no values, and sums up what its weights would take.
    ///
    /// # Errors
    /// Those of `build`.
    pub(super) fn without_values<T, E>(
        &self,
        build: impl FnOnce(Self) -> Result<T, E>,
    ) -> Result<(T, Footprint), E> {
        let footprint = Arc::default();
        let built = build(Self { footprint: Some(Arc::clone(&footprint)), ..self.clone() })?;
        let footprint = *footprint.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((built, footprint))
    }
}
