//! Models of the tests, and their parts.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cupscale::{
    model::{
        denoiser::{Conditioning, Denoiser, MicroConditioning, Prior},
        text::TextConditioning,
    },
    weights::{ModelFiles, ModelSource, WeightsError},
};

pub fn open(path: &Path) -> Result<ModelFiles, WeightsError> {
    ModelFiles::open(ModelSource::Path(path.to_owned()))
}

pub fn denoiser(files: &ModelFiles) -> Denoiser {
    files.denoiser(&Device::Cpu, DType::F32).unwrap()
}

/// Conditions from tensors as diffusers has them: the context `[B, M, D]`, the pooled embedding `[B, P]`, and the
/// micro-conditioning `[B, 6]`.
pub fn conditioning(
    denoiser: &Denoiser,
    context: &Tensor,
    pooled: Option<&Tensor>,
    time_ids: Option<&Tensor>,
) -> candle_core::Result<Conditioning> {
    let rows = (0..context.dims()[0]).map(|row| {
        let text = TextConditioning {
            context: context.narrow(0, row, 1)?.into(),
            pooled: pooled.map(|pooled| pooled.narrow(0, row, 1)).transpose()?.map(Into::into),
            lengths: None,
        };
        let numbers = match time_ids {
            Some(ids) => ids.get(row)?.to_dtype(DType::F32)?.to_vec1::<f32>()?,
            None => vec![0.0; 6],
        };
        let at = |index: usize| numbers[index] as usize;
        let micro = MicroConditioning {
            original: (at(0), at(1)),
            crop: (at(2), at(3)),
            target: (at(4), at(5)),
        };
        denoiser.condition(&text, micro)
    });
    let rows: Vec<_> = rows.collect::<candle_core::Result<_>>()?;
    Conditioning::cat(&rows.iter().collect::<Vec<_>>())
}

/// One call of the denoiser on tensors.
pub fn predict(
    denoiser: &Denoiser,
    sample: &Tensor,
    timestep: f64,
    conditioning: &Conditioning,
) -> Tensor {
    let output = denoiser.forward(&sample.into(), timestep, conditioning, Prior::None);
    output.unwrap().into_tensor().unwrap()
}
