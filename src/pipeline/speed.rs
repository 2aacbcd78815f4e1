//! Speed of a device, measured in a fraction of a second on a block of the kinds of operation that the networks are made
//! of: for an estimate of a job's time where no earlier job tells it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};

use super::{
    engine::Engine,
    error::Error,
    model::VAE_DTYPE,
    progress::{Outline, Stage},
    runner::Compute as _,
};
use crate::backend::{
    Activation, MatmulPrecision, Params, Trace,
    ops::{Conv2d, GroupNorm, Linear, Mask, attention},
};

/// Time of each measurement; the first call, which fills caches and starts threads, does not count.
const TIME: Duration = Duration::from_millis(150);

/// Side in pixels and channels of the measured block, for small networks and for large ones, whose wider layers are faster.
const SIDE: usize = 48;
const NARROW: usize = 128;
const WIDE: usize = 512;
/// Channels of the autoencoders' largest maps.
const VAE_WIDTH: usize = 64;

/// A denoiser of so many bytes has wide layers.
const LARGE: usize = 300 << 20;

/// Width of a head of the attention, and the keys that each query sees.
const HEAD: usize = 64;
const KEYS: usize = 256;

/// Multiplications a second of a model's networks on its devices together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Of the denoiser.
    pub denoiser: f64,
    /// Of the autoencoder, and of networks of its kind.
    pub autoencoder: f64,
}

impl Speed {
    /// Seconds that each stage of a job takes; `None` of captions, which it says nothing of.
    #[must_use]
    pub fn seconds(&self, outline: &Outline) -> [Option<f64>; 5] {
        outline.work.map(|(stage, work)| match stage {
            Stage::Caption => None,
            Stage::Enlarge | Stage::Encode | Stage::Decode => Some(work / self.autoencoder),
            Stage::Denoise => Some(work / self.denoiser),
        })
    }
}

impl Engine {
    /// Measures the speed of its devices. It takes about half a second and a few megabytes; no weight is loaded.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn measure_speed(&self) -> Result<Speed, Error> {
        let device = self.runner.device();
        let is_large = self.model.footprints.denoiser.kept >= LARGE;
        let width = if is_large { WIDE } else { NARROW };
        let devices = if device.is_cpu() { 1 } else { self.devices().len() } as f64;
        let denoiser =
            Block::new(width, device, self.runner.dtype(), self.runner.precision(), true)?;
        let autoencoder = Block::new(VAE_WIDTH, device, VAE_DTYPE, MatmulPrecision::F32, false)?;
        Ok(Speed {
            denoiser: denoiser.speed()? * devices,
            autoencoder: autoencoder.speed()? * devices,
        })
    }
}

/// A residual block, and behind it in a denoiser one of a transformer.
struct Block {
    width: usize,
    device: Device,
    dtype: DType,
    precision: MatmulPrecision,
    norm: GroupNorm,
    conv: Conv2d,
    dense: Option<Linear>,
}

impl Block {
    fn new(
        width: usize,
        device: &Device,
        dtype: DType,
        precision: MatmulPrecision,
        has_transformer: bool,
    ) -> Result<Self, Error> {
        // Numbers that are neither zero nor denormal: both are multiplied at another speed.
        let tensor = |shape: &[usize]| {
            let count: usize = shape.iter().product();
            let values = (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) / 5000.0);
            Tensor::from_vec(values.collect(), shape, &Device::Cpu)
        };
        let tensors: HashMap<String, Tensor> = [
            ("norm.weight", tensor(&[width])?),
            ("norm.bias", tensor(&[width])?),
            ("conv.weight", tensor(&[width, width, 3, 3])?),
            ("conv.bias", tensor(&[width])?),
            ("dense.weight", tensor(&[width, width])?),
            ("dense.bias", tensor(&[width])?),
        ]
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect();
        let params = Params::from_tensors(tensors, dtype, device).with_precision(precision);
        let dense = has_transformer.then(|| Linear::load(width, width, &params.pp("dense")));
        Ok(Self {
            width,
            device: device.clone(),
            dtype,
            precision,
            norm: GroupNorm::load(width / 4, width, 1e-5, &params.pp("norm"))?,
            conv: Conv2d::load(width, width, 3, 1, 1, &params.pp("conv"))?,
            dense: dense.transpose()?,
        })
    }

    fn shape(&self) -> (usize, usize, usize, usize) {
        (1, SIDE, SIDE, self.width)
    }

    fn forward(&self, x: &Activation) -> candle_core::Result<Activation> {
        let y = self.conv.forward_add(&self.norm.forward_silu(x)?, x)?;
        let Some(dense) = &self.dense else { return Ok(y) };
        let tokens = y.reshape((1, SIDE * SIDE, self.width))?;
        let q = dense.forward(&tokens)?;
        let keys = tokens.narrow(1, 0, KEYS)?.contiguous()?;
        let heads = self.width / HEAD;
        let y = attention(&q, &keys, &keys, heads, Mask::None, self.precision)?;
        dense.forward_add(&y, &tokens)
    }

    /// Multiplications a second.
    fn speed(&self) -> Result<f64, Error> {
        let trace = Trace::new(&self.device);
        self.forward(&trace.activation(self.shape(), self.dtype))?;
        let x = Tensor::rand(-1.0f32, 1.0, self.shape(), &Device::Cpu)?;
        let x: Activation = x.to_device(&self.device)?.to_dtype(self.dtype)?.into();
        let run = || -> Result<(), Error> {
            // Reading a value waits for the device.
            let y = self.forward(&x)?.into_tensor()?;
            y.flatten_all()?.narrow(0, 0, 1)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            Ok(())
        };
        run()?;
        let (begun, mut runs) = (Instant::now(), 0.0);
        while begun.elapsed() < TIME || runs == 0.0 {
            run()?;
            runs += 1.0;
        }
        Ok(runs * trace.products() / begun.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_counted_and_its_speed_is_that_of_a_machine() {
        let block = Block::new(64, &Device::Cpu, DType::F32, MatmulPrecision::F32, true).unwrap();
        let trace = Trace::new(&Device::Cpu);
        block.forward(&trace.activation(block.shape(), DType::F32)).unwrap();
        let pixels = (SIDE * SIDE) as f64;
        let expected = pixels * 64.0 * 64.0 * 9.0 + 2.0 * pixels * 64.0 * 64.0;
        assert_eq!(trace.products(), expected + 2.0 * pixels * KEYS as f64 * 64.0);
        let speed = block.speed().unwrap();
        assert!((1e7..1e15).contains(&speed), "{speed}");
    }

    #[test]
    fn seconds_follow_from_work_and_speed() {
        let work = [
            (Stage::Caption, 4.0),
            (Stage::Enlarge, 30.0),
            (Stage::Encode, 10.0),
            (Stage::Denoise, 60.0),
            (Stage::Decode, 20.0),
        ];
        let outline = Outline { width: 1, height: 1, regions: 4, steps: 1, work };
        let speed = Speed { denoiser: 30.0, autoencoder: 5.0 };
        assert_eq!(speed.seconds(&outline), [None, Some(6.0), Some(2.0), Some(2.0), Some(4.0)]);
    }
}
