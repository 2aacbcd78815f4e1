//! Models of the tests, and their parts.

use std::path::Path;

use candle_core::{DType, Device};
use cupscale::{
    model::denoiser::Denoiser,
    weights::{ModelFiles, ModelSource, WeightsError},
};

pub fn open(path: &Path) -> Result<ModelFiles, WeightsError> {
    ModelFiles::open(ModelSource::Path(path.to_owned()))
}

pub fn denoiser(files: &ModelFiles) -> Denoiser {
    files.denoiser(&Device::Cpu, DType::F32).unwrap()
}
