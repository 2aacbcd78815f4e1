//! Global state of `AutoencoderKL`: what its layers take from the whole picture, the moments of every group norm and
//! the keys and values of the attention in the middle. A tile that takes them from its own contents differs
//! from its neighbours. So they can be measured on samples from all over a picture, and then every tile uses the same
//! (docs/method.md §6); around that a tile sees no farther than its convolutions do.

use std::ops::Range;

use candle_core::{Device, Result};

use crate::backend::{
    Activation,
    ops::{GroupMoments, GroupNorm},
};

/// Positions whose moments are taken at once.
const BAND_POSITIONS: usize = 1 << 13;

/// Moments of every group norm of the encoder, or of the decoder, and keys and values of its attention.
#[derive(Clone, Debug, Default)]
pub struct GlobalState {
    /// In the order of computation.
    moments: Vec<GroupMoments>,
    /// Keys and values, each `[1, tokens, C]`; `None` without an attention.
    attended: Option<(Activation, Activation)>,
}

impl GlobalState {
    /// The same state for tiles on `device`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |(keys, values): &(Activation, Activation)| -> Result<_> {
            Ok((keys.to_device(device)?, values.to_device(device)?))
        };
        let attended = self.attended.as_ref().map(moved).transpose()?;
        Ok(Self { moments: self.moments.clone(), attended })
    }
}

/// Part of a sample that is measured, in latent pixels of the sample; the rest has seen the zeros past its border.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredPart {
    /// Measured rows.
    pub rows: Range<usize>,
    /// Measured columns.
    pub columns: Range<usize>,
}

/// The global state of one pass through the encoder or the decoder.
#[derive(Debug)]
pub enum Globals<'a> {
    /// Each layer's own, as the model was trained to.
    Own,
    /// What was measured before.
    Shared(&'a GlobalState),
    /// The input is samples of a picture, all of one size; every layer uses the state of all their measured parts
    /// together, and it is put into `state`.
    Measured {
        /// One for each sample.
        parts: &'a [MeasuredPart],
        /// Empty before the pass.
        state: &'a mut GlobalState,
    },
}

impl<'a> Globals<'a> {
    /// Calls `f` for one pass over an input of `latents` × f pixels, height and width, in which every layer must
    /// take its turn.
    pub(super) fn pass<T>(
        self,
        latents: (usize, usize),
        f: impl FnOnce(&mut GlobalPass<'a>) -> Result<T>,
    ) -> Result<T> {
        let mut pass = GlobalPass { globals: self, next: 0, latents };
        let result = f(&mut pass)?;
        match &pass.globals {
            Globals::Shared(state) if state.moments.len() != pass.next => {
                candle_core::bail!("moments of {} norms, not {}", state.moments.len(), pass.next)
            }
            _ => Ok(result),
        }
    }
}

/// Position of a pass in the order of its layers.
#[derive(Debug)]
pub(super) struct GlobalPass<'a> {
    globals: Globals<'a>,
    next: usize,
    /// Height and width of the input in latent pixels.
    latents: (usize, usize),
}

impl GlobalPass<'_> {
    pub(super) fn norm(&mut self, norm: &GroupNorm, x: &Activation) -> Result<Activation> {
        match self.moments(norm, x)? {
            Some(moments) => norm.forward_with(x, moments, false),
            None => norm.forward(x),
        }
    }

    pub(super) fn norm_silu(&mut self, norm: &GroupNorm, x: &Activation) -> Result<Activation> {
        match self.moments(norm, x)? {
            Some(moments) => norm.forward_with(x, moments, true),
            None => norm.forward_silu(x),
        }
    }

    /// The moments for the next norm of the pass, whose input is `x`; `None` for its own.
    fn moments(&mut self, norm: &GroupNorm, x: &Activation) -> Result<Option<&GroupMoments>> {
        let index = self.next;
        self.next += 1;
        let latents = self.latents;
        let known = match &mut self.globals {
            Globals::Own => return Ok(None),
            Globals::Shared(state) => &state.moments,
            Globals::Measured { parts, state } => {
                let mut moments = Vec::new();
                for part in measured(x, parts, latents)? {
                    for band in bands(&part)? {
                        moments.push(norm.moments(&band)?);
                    }
                }
                if state.moments.len() != index {
                    candle_core::bail!(
                        "moments of {} norms are there already",
                        state.moments.len()
                    );
                }
                state.moments.push(GroupMoments::pooled(&moments));
                &state.moments
            }
        };
        match known.get(index) {
            Some(moments) => Ok(Some(moments)),
            None => candle_core::bail!("moments of {} norms only", known.len()),
        }
    }

    /// The keys and values that every query of the pass sees, `[1, tokens, C]`, where those of the input are
    /// `keys` and `values`, `[B, height, width, C]` at the latents' resolution; `None` for each input's own.
    pub(super) fn attended(
        &mut self,
        keys: &Activation,
        values: &Activation,
    ) -> Result<Option<(Activation, Activation)>> {
        match &mut self.globals {
            Globals::Own => Ok(None),
            Globals::Shared(state) => Ok(state.attended.clone()),
            Globals::Measured { parts, state } => {
                let tokens = |x: &Activation| -> Result<Activation> {
                    let parts: Vec<_> = measured(x, parts, self.latents)?
                        .into_iter()
                        .map(|part| {
                            let (_, height, width, channels) = part.dims4()?;
                            part.contiguous()?.reshape((1, height * width, channels))
                        })
                        .collect::<Result<_>>()?;
                    Activation::cat(&parts, 1)
                };
                state.attended = Some((tokens(keys)?, tokens(values)?));
                Ok(state.attended.clone())
            }
        }
    }
}

/// `x`, `[1, H, W, C]`, in bands of rows: a sum in f32 stays exact, and copies stay small.
fn bands(x: &Activation) -> Result<Vec<Activation>> {
    let (_, height, width, _) = x.dims4()?;
    let rows = (BAND_POSITIONS / width).clamp(1, height);
    (0..height).step_by(rows).map(|top| x.narrow(1, top, rows.min(height - top))).collect()
}

/// The measured part of each sample of `x`, `[B, H, W, C]`.
fn measured(
    x: &Activation,
    parts: &[MeasuredPart],
    (height, width): (usize, usize),
) -> Result<Vec<Activation>> {
    let (samples, rows, columns, _) = x.dims4()?;
    if samples != parts.len() {
        candle_core::bail!("{samples} samples, of which {} parts are measured", parts.len());
    }
    let (down, across) = (rows / height, columns / width);
    parts
        .iter()
        .enumerate()
        .map(|(sample, part)| {
            x.narrow(0, sample, 1)?
                .narrow(1, part.rows.start * down, part.rows.len() * down)?
                .narrow(2, part.columns.start * across, part.columns.len() * across)
        })
        .collect()
}
