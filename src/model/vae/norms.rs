//! Statistics of the group norms of `AutoencoderKL`: each input's own, or shared ones. A tile that is normalized by itself differs
//! from its neighbours in tone: the norms look at all of what they are given. So statistics can be
//! measured on samples from all over a picture, and then every tile uses the same ones (docs/method.md §6).

use candle_core::Result;

use crate::backend::Activation;
use crate::backend::ops::{GroupMoments, GroupNorm};

/// One in so many rows and columns, on each side of a sample, is not measured: what lies there has
/// seen the zeros past the sample's border.
pub const MARGIN_SHARE: usize = 4;

/// Statistics of every group norm of the encoder, or of the decoder, in the order of computation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NormStatistics(Vec<GroupMoments>);

/// The statistics of one pass through the encoder or the decoder.
#[derive(Debug)]
pub enum Norms<'a> {
    /// Every norm uses those of its input, as the model was trained to.
    Own,
    /// Those that were measured before.
    Shared(&'a NormStatistics),
    /// The input is samples of a picture, all of one size, whose sides [`MARGIN_SHARE`] divides; every norm uses
    /// those of all samples together, and they are put into this, which must be empty.
    Measured(&'a mut NormStatistics),
}

impl<'a> From<Option<&'a NormStatistics>> for Norms<'a> {
    fn from(shared: Option<&'a NormStatistics>) -> Self {
        shared.map_or(Self::Own, Self::Shared)
    }
}

impl<'a> Norms<'a> {
    /// Calls `f` for one pass, in which every norm must take its turn.
    pub(super) fn pass<T>(self, f: impl FnOnce(&mut NormPass<'a>) -> Result<T>) -> Result<T> {
        let mut pass = NormPass { norms: self, next: 0 };
        let result = f(&mut pass)?;
        match &pass.norms {
            Norms::Shared(statistics) if statistics.0.len() != pass.next => {
                candle_core::bail!("statistics of {} norms, not {}", statistics.0.len(), pass.next)
            }
            _ => Ok(result),
        }
    }
}

/// Position of a pass in the order of its norms.
#[derive(Debug)]
pub(super) struct NormPass<'a> {
    norms: Norms<'a>,
    next: usize,
}

impl NormPass<'_> {
    pub(super) fn forward(&mut self, norm: &GroupNorm, x: &Activation) -> Result<Activation> {
        match self.moments(norm, x)? {
            Some(moments) => norm.forward_with(x, moments, false),
            None => norm.forward(x),
        }
    }

    pub(super) fn forward_silu(&mut self, norm: &GroupNorm, x: &Activation) -> Result<Activation> {
        match self.moments(norm, x)? {
            Some(moments) => norm.forward_with(x, moments, true),
            None => norm.forward_silu(x),
        }
    }

    /// The moments for the next norm of the pass, whose input is `x`; `None` for its own.
    fn moments(&mut self, norm: &GroupNorm, x: &Activation) -> Result<Option<&GroupMoments>> {
        let index = self.next;
        self.next += 1;
        let known = match &mut self.norms {
            Norms::Own => return Ok(None),
            Norms::Shared(statistics) => &statistics.0,
            Norms::Measured(NormStatistics(known)) => {
                let (_, height, width, _) = x.dims4()?;
                let (above, beside) = (height / MARGIN_SHARE, width / MARGIN_SHARE);
                let core = x.narrow(1, above, height - 2 * above)?.narrow(
                    2,
                    beside,
                    width - 2 * beside,
                )?;
                let moments = norm.moments(&core)?;
                if known.len() != index {
                    candle_core::bail!("statistics of {} norms are there already", known.len());
                }
                known.push(moments);
                known
            }
        };
        match known.get(index) {
            Some(moments) => Ok(Some(moments)),
            None => candle_core::bail!("statistics of {} norms only", known.len()),
        }
    }
}
