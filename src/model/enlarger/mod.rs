//! Enlarging networks: pictures of more pixels in one pass, as ESRGAN and Real-ESRGAN make them. Convolutions alone, so that
//! a part of a picture can be computed by itself as long as enough is around it.
//!
//! A network is a row of *steps* over maps of one size, each of which sees a few places around each of its own
//! ([`context`](Enlarger::context)), and a *last* step that makes the pixels. Whoever runs it step by step over the whole
//! picture needs little around a part, where all steps at once would need hundreds of pixels.

mod compact;
mod config;
mod rrdb;

use candle_core::Result;

use crate::backend::{Activation, Params};
use compact::Compact;
use rrdb::Rrdb;

pub use config::{CompactConfig, EnlargerConfig, RrdbConfig};

/// An enlarging network.
#[derive(Clone, Debug)]
pub struct Enlarger {
    config: EnlargerConfig,
    network: Network,
    weight_bytes: usize,
}

#[derive(Clone, Debug)]
enum Network {
    Rrdb(Box<Rrdb>),
    Compact(Compact),
}

/// What the last step takes beside the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// The maps of the first step.
    FirstStep,
    /// The picture.
    Picture,
}

impl Enlarger {
    /// Reads the tensors below `vb`, by the names of basicsr.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: EnlargerConfig, vb: &Params) -> Result<Self> {
        let bytes_before = vb.bytes_kept();
        let network = match &config {
            EnlargerConfig::Rrdb(config) => Network::Rrdb(Box::new(Rrdb::load(config, vb)?)),
            EnlargerConfig::Compact(config) => Network::Compact(Compact::load(config, vb)?),
        };
        Ok(Self { config, network, weight_bytes: vb.bytes_kept() - bytes_before })
    }

    /// Its architecture.
    #[must_use]
    pub fn config(&self) -> &EnlargerConfig {
        &self.config
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Steps before the last one; at least one.
    #[must_use]
    pub fn steps(&self) -> usize {
        match &self.network {
            Network::Rrdb(network) => 1 + network.blocks(),
            Network::Compact(network) => network.steps(),
        }
    }

    /// Places around each of its own that a step sees; the one behind all is the last.
    #[must_use]
    pub fn context(&self, step: usize) -> usize {
        match &self.network {
            Network::Rrdb(_) if step == 0 => 1,
            Network::Rrdb(network) if step > network.blocks() => rrdb::LAST_CONTEXT,
            Network::Rrdb(_) => rrdb::BLOCK_CONTEXT,
            Network::Compact(network) => network.context(step),
        }
    }

    /// What the last step takes beside the maps.
    #[must_use]
    pub fn shortcut(&self) -> Shortcut {
        match self.network {
            Network::Rrdb(_) => Shortcut::FirstStep,
            Network::Compact(_) => Shortcut::Picture,
        }
    }

    /// A step: the first of a picture `[B, unit·h, unit·w, 3]` in 0…1, each other of the maps of the one before, gives maps
    /// `[B, h, w, features]`.
    ///
    /// # Errors
    /// A step that there is not, another shape, or those of the backend.
    pub fn step(&self, index: usize, x: &Activation) -> Result<Activation> {
        match &self.network {
            Network::Rrdb(network) if index == 0 => {
                network.first(&unshuffled(x, self.config.unit())?)
            }
            Network::Rrdb(network) => network.block(index - 1, x),
            Network::Compact(network) => network.step(index, x),
        }
    }

    /// The last step: maps `[B, h, w, features]` and the [`shortcut`](Self::shortcut) → pixels `[B, outputs·h, outputs·w, 3]`,
    /// not cut to 0…1.
    ///
    /// # Errors
    /// Another shape, or those of the backend.
    pub fn last(&self, maps: &Activation, shortcut: &Activation) -> Result<Activation> {
        match &self.network {
            Network::Rrdb(network) => network.last(maps, shortcut),
            Network::Compact(network) => network.last(maps, shortcut),
        }
    }

    /// The whole network on a picture `[B, H, W, 3]` in 0…1 whose sides the [unit](EnlargerConfig::unit) divides →
    /// `[B, scale·H, scale·W, 3]`, not cut to 0…1.
    ///
    /// # Errors
    /// Another shape, or those of the backend.
    pub fn forward(&self, picture: &Activation) -> Result<Activation> {
        let first = self.step(0, picture)?;
        let maps =
            (1..self.steps()).try_fold(first.clone(), |maps, step| self.step(step, &maps))?;
        match self.shortcut() {
            Shortcut::FirstStep => self.last(&maps, &first),
            Shortcut::Picture => self.last(&maps, picture),
        }
    }
}

/// `[B, unit·h, unit·w, C]` → `[B, h, w, C·unit²]` (`pixel_unshuffle` of channels-last activations).
fn unshuffled(x: &Activation, unit: usize) -> Result<Activation> {
    if unit == 1 {
        return Ok(x.clone());
    }
    let (batch, height, width, channels) = x.dims4()?;
    if height % unit != 0 || width % unit != 0 {
        candle_core::bail!("enlarger: sides of {:?} are no multiples of {unit}", x.shape());
    }
    let (height, width) = (height / unit, width / unit);
    x.reshape(vec![batch, height, unit, width, unit, channels])?
        .permute([0, 1, 3, 5, 2, 4])?
        .reshape((batch, height, width, channels * unit * unit))
}
