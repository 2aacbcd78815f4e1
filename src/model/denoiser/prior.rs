//! The hook of every denoiser: the output of each cross-attention, or what the text contributes to each joint
//! attention, may be recorded, or averaged with what was recorded elsewhere (the attention composer, docs/method.md §5 and
//! §5b). A denoiser does not know what the recorded values mean.

use candle_core::Result;

use crate::backend::{Activation, ops::blend};

/// The use of the outputs of the cross-attention layers, in the order in which a call visits them
/// (encoder, middle, decoder). An output is taken after the output projection and before the
/// residual sum, as `[B, h, w, C]` at the layer's own resolution; the text's part of a joint attention before the output
/// projection, to which it is linear as well.
#[derive(Debug)]
pub enum Prior<'a> {
    /// The outputs go on as they are.
    None,
    /// Each is appended to the list.
    Record(&'a mut Vec<Activation>),
    /// Each becomes `(1 − weight)·own + weight·layers[i]`.
    Blend {
        /// one `[B, h, w, C]` (or `[1, h, w, C]`) per cross-attention layer
        layers: &'a [Activation],
        /// 0 to 1; ½ in the paper
        weight: f64,
    },
}

/// A [`Prior`] and the position of the call among its layers.
pub(super) struct PriorCursor<'a> {
    prior: Prior<'a>,
    visited: usize,
}

impl<'a> PriorCursor<'a> {
    pub(super) fn new(prior: Prior<'a>) -> Self {
        Self { prior, visited: 0 }
    }

    /// `true` if outputs are recorded or blended.
    pub(super) fn is_used(&self) -> bool {
        !matches!(self.prior, Prior::None)
    }

    /// The output of the next cross-attention, `[B, h·w, C]`, as the model goes on with it.
    pub(super) fn visit(
        &mut self,
        own: Activation,
        height: usize,
        width: usize,
    ) -> Result<Activation> {
        let layer = self.visited;
        self.visited += 1;
        let (batch, _, channels) = own.dims3()?;
        match &mut self.prior {
            Prior::None => Ok(own),
            Prior::Record(list) => {
                list.push(own.reshape((batch, height, width, channels))?);
                Ok(own)
            }
            Prior::Blend { layers, weight } => {
                let Some(prior) = layers.get(layer) else {
                    candle_core::bail!(
                        "denoiser: {} prior tensors, but the model has more cross-attention layers",
                        layers.len()
                    );
                };
                let (prior_batch, prior_h, prior_w, prior_c) = prior.dims4()?;
                let fits = (prior_h, prior_w, prior_c) == (height, width, channels);
                if !fits || (prior_batch != batch && prior_batch != 1) {
                    candle_core::bail!(
                        "denoiser: the prior of cross-attention {layer} is {:?}, not [{batch}, {height}, {width}, {channels}]",
                        prior.shape()
                    );
                }
                let prior = prior.to_dtype(own.dtype())?;
                let own = own.reshape((batch, height, width, channels))?;
                blend(own, prior, *weight)?.reshape((batch, height * width, channels))
            }
        }
    }

    /// Ends the call: every prior tensor must have met its layer.
    pub(super) fn finish(self) -> Result<()> {
        match self.prior {
            Prior::Blend { layers, .. } if layers.len() != self.visited => candle_core::bail!(
                "denoiser: {} prior tensors for {} cross-attention layers",
                layers.len(),
                self.visited
            ),
            _ => Ok(()),
        }
    }
}
