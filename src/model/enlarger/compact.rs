//! `SRVGGNetCompact` (Real-ESRGAN `archs/srvgg_arch.py`): convolutions in a row with PReLU between them, whose last gives all
//! pixels of a place, and the picture enlarged by its nearest pixels added.

use candle_core::{Result, Tensor};

use super::CompactConfig;
use crate::backend::{
    Activation, Params,
    ops::{Conv2d, prelu},
};

/// Layers of a step: few enough that a part of a picture needs little around it, and so many that maps seldom leave the
/// device.
const STEP: usize = 8;

/// The network.
#[derive(Clone, Debug)]
pub(super) struct Compact {
    /// each with the slopes behind it
    layers: Vec<(Conv2d, Tensor)>,
    last: Conv2d,
    scale: usize,
}

impl Compact {
    pub(super) fn load(config: &CompactConfig, vb: &Params) -> Result<Self> {
        let &CompactConfig { features, layers, scale } = config;
        let vb = vb.pp("body");
        let layer = |index: usize| {
            let input = if index == 0 { 3 } else { features };
            let conv = Conv2d::load(input, features, 3, 1, 1, &vb.pp(2 * index))?;
            Ok((conv, vb.pp(2 * index + 1).get(features, "weight")?))
        };
        let last = vb.pp(2 * layers + 2);
        Ok(Self {
            layers: (0..=layers).map(layer).collect::<Result<_>>()?,
            last: Conv2d::load(features, 3 * scale * scale, 3, 1, 1, &last)?,
            scale,
        })
    }

    pub(super) fn steps(&self) -> usize {
        self.layers.len().div_ceil(STEP)
    }

    pub(super) fn context(&self, step: usize) -> usize {
        self.layers.chunks(STEP).nth(step).map_or(1, <[_]>::len)
    }

    pub(super) fn step(&self, index: usize, x: &Activation) -> Result<Activation> {
        let Some(layers) = self.layers.chunks(STEP).nth(index) else {
            candle_core::bail!("enlarger: there is no step {index}");
        };
        layers.iter().try_fold(x.clone(), |x, (conv, slopes)| prelu(&conv.forward(&x)?, slopes))
    }

    pub(super) fn last(&self, maps: &Activation, picture: &Activation) -> Result<Activation> {
        let (batch, height, width, _) = maps.dims4()?;
        let scale = self.scale;
        let y = self.last.forward(maps)?;
        // The pixels of a place, each with the picture's own added.
        let y = y
            .reshape((batch, height, width, 3, scale * scale))?
            .broadcast_add(&picture.unsqueeze(4)?)?;
        y.reshape(vec![batch, height, width, 3, scale, scale])?
            .permute([0, 1, 4, 2, 5, 3])?
            .reshape((batch, scale * height, scale * width, 3))
    }
}
