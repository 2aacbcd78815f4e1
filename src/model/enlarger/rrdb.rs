//! `RRDBNet` (basicsr `archs/rrdbnet_arch.py`; ESRGAN, Real-ESRGAN): blocks of densely connected convolutions between a first
//! convolution and doublings of the picture by its nearest pixels, each with a convolution behind it.

use candle_core::Result;

use super::RrdbConfig;
use crate::backend::{
    Activation, Params,
    ops::{Conv2d, add, join, leaky_relu},
};

/// Convolutions of a dense block, all but the last of which add to what the next one sees.
const CONVS: usize = 5;
/// Dense blocks of a block.
const DENSE: usize = 3;
/// Slope of the negative half of the leaky ReLU.
const SLOPE: f64 = 0.2;
/// Share of a block's result in the sum with what it was given.
const SHARE: f64 = 0.2;

/// Places around each of its own that a block sees: a convolution sees one.
pub(super) const BLOCK_CONTEXT: usize = CONVS * DENSE;
/// The same of the convolution behind the blocks and all that follow it, of which those behind a doubling see half a place
/// and less each: with up to three of them less than two places.
pub(super) const LAST_CONTEXT: usize = 1 + 2;

/// The network.
#[derive(Clone, Debug)]
pub(super) struct Rrdb {
    first: Conv2d,
    blocks: Vec<[DenseBlock; DENSE]>,
    body: Conv2d,
    ups: Vec<Conv2d>,
    hr: Conv2d,
    last: Conv2d,
}

impl Rrdb {
    pub(super) fn load(config: &RrdbConfig, vb: &Params) -> Result<Self> {
        let &RrdbConfig { unit, features, growth, blocks, doublings } = config;
        let conv = |input, output, name: &str| Conv2d::load(input, output, 3, 1, 1, &vb.pp(name));
        let block = |index: usize| {
            let vb = vb.pp("body").pp(index);
            let dense = |name: &str| DenseBlock::load(features, growth, &vb.pp(name));
            Ok([dense("rdb1")?, dense("rdb2")?, dense("rdb3")?])
        };
        let up = |index: usize| conv(features, features, &format!("conv_up{}", index + 1));
        Ok(Self {
            first: conv(3 * unit * unit, features, "conv_first")?,
            blocks: (0..blocks).map(block).collect::<Result<_>>()?,
            body: conv(features, features, "conv_body")?,
            ups: (0..doublings).map(up).collect::<Result<_>>()?,
            hr: conv(features, features, "conv_hr")?,
            last: conv(features, 3, "conv_last")?,
        })
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn first(&self, x: &Activation) -> Result<Activation> {
        self.first.forward(x)
    }

    pub(super) fn block(&self, index: usize, x: &Activation) -> Result<Activation> {
        let Some(block) = self.blocks.get(index) else {
            candle_core::bail!("enlarger: there is no block {index}");
        };
        let y = block.iter().try_fold(x.clone(), |x, dense| dense.forward(&x))?;
        add(x, &y.affine(SHARE, 0.0)?)
    }

    pub(super) fn last(&self, maps: &Activation, first: &Activation) -> Result<Activation> {
        let mut x = self.body.forward_add(maps, first)?;
        for up in &self.ups {
            let (_, height, width, _) = x.dims4()?;
            x = leaky_relu(&up.forward_doubled(&x, 2 * height, 2 * width)?, SLOPE)?;
        }
        x = self.hr.forward(&x)?;
        x = leaky_relu(&x, SLOPE)?;
        self.last.forward(&x)
    }
}

/// `ResidualDenseBlock`: each convolution sees what all before it made.
#[derive(Clone, Debug)]
struct DenseBlock {
    convs: [Conv2d; CONVS],
}

impl DenseBlock {
    fn load(features: usize, growth: usize, vb: &Params) -> Result<Self> {
        let conv = |index: usize| {
            let output = if index + 1 < CONVS { growth } else { features };
            let vb = vb.pp(format!("conv{}", index + 1));
            Conv2d::load(features + index * growth, output, 3, 1, 1, &vb)
        };
        Ok(Self { convs: [conv(0)?, conv(1)?, conv(2)?, conv(3)?, conv(4)?] })
    }

    fn forward(&self, x: &Activation) -> Result<Activation> {
        let (last, others) = self.convs.split_last().expect("there are five");
        let seen = others.iter().try_fold(x.clone(), |seen, conv| {
            let new = leaky_relu(&conv.forward(&seen)?, SLOPE)?;
            join(&seen, &new)
        })?;
        let y = last.forward(&seen)?;
        drop(seen);
        add(x, &y.affine(SHARE, 0.0)?)
    }
}
