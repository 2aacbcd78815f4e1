//! Models of the tests, and their parts.

use std::path::Path;

use candle_core::{DType, Device};
use cupscale::{
    model::unet::{UNet2DConditionModel, UNetConfig},
    weights::{ModelFiles, ModelSource, Part, WeightsError},
};

pub fn open(path: &Path) -> Result<ModelFiles, WeightsError> {
    ModelFiles::open(ModelSource::Path(path.to_owned()))
}

pub fn unet(files: &ModelFiles) -> UNet2DConditionModel {
    let part = files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap();
    let config = UNetConfig::from_json(&part.config.to_string()).unwrap();
    UNet2DConditionModel::load(config, &part.params).unwrap()
}
