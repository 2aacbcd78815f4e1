//! Global state that all VAE tiles of a canvas share (docs/method.md §6), measured before the first tile on samples.
//! Without it every tile would be normalized by its own contents, and tile borders would show in a smooth sky.

use std::cell::Cell;

use candle_core::Tensor;

use super::context::Context;
use crate::{
    model::vae::{GlobalState, Globals, MeasuredPart},
    pipeline::{
        error::Error,
        plan::samples::{Sample, samples},
        retry::retry_smaller,
    },
};

/// On a device without memory the samples are made fewer by at most this.
const LARGEST_DIVISOR: usize = 8;

/// The global state of one canvas's tiles, measured when a tile needs it.
pub struct SharedState<'a> {
    context: &'a Context<'a>,
    /// Height and width of the canvas in latent pixels.
    size: (usize, usize),
    state: Option<GlobalState>,
}

impl<'a> SharedState<'a> {
    /// That of a canvas of this height and width in latent pixels.
    pub fn new(context: &'a Context<'a>, size: (usize, usize)) -> Self {
        Self { context, size, state: None }
    }

    /// The state, with which every tile computes. `window` cuts a sample out, `pass` runs the encoder or the decoder on a batch of them.
    ///
    /// # Errors
    /// Errors of `window` and `pass`; a device without memory for a single sample.
    pub fn state(
        &mut self,
        window: impl FnMut(&Sample) -> Result<Tensor, Error>,
        pass: impl FnMut(&Tensor, Globals<'_>) -> Result<Tensor, Error>,
    ) -> Result<&GlobalState, Error> {
        let state = match self.state.take() {
            Some(state) => state,
            None => self.measure(window, pass)?,
        };
        Ok(self.state.insert(state))
    }

    fn measure(
        &self,
        mut window: impl FnMut(&Sample) -> Result<Tensor, Error>,
        mut pass: impl FnMut(&Tensor, Globals<'_>) -> Result<Tensor, Error>,
    ) -> Result<GlobalState, Error> {
        let area = self.context.spec.plan.sampled_area();
        // A device without memory for all samples measures fewer.
        retry_smaller(&Cell::new(LARGEST_DIVISOR), |part| {
            let samples = samples(self.size, area, LARGEST_DIVISOR / part);
            let windows = samples.iter().map(&mut window).collect::<Result<Vec<_>, _>>()?;
            let parts: Vec<MeasuredPart> = samples.into_iter().map(|sample| sample.part).collect();
            let mut state = GlobalState::default();
            let measured = Globals::Measured { parts: &parts, state: &mut state };
            pass(&Tensor::cat(&windows, 0)?, measured)?;
            Ok(state)
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{
        super::testing::{Fake, context, exhausted, job, picture},
        *,
    };
    use crate::pipeline::settings::Settings;

    #[test]
    fn the_state_is_measured_once_on_fewer_samples_where_the_device_has_no_room() {
        let (runner, picture, spec) = (Fake::idle(), picture(), job(Settings::default()));
        let context = context(&runner, &picture, &spec);
        let mut shared = SharedState::new(&context, (400, 800));
        let window = |sample: &Sample| {
            let shape = (1, sample.y.len(), sample.x.len(), 1);
            Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
        };
        let mut tried = Vec::new();
        for _ in 0..2 {
            let pass = |samples: &Tensor, _: Globals<'_>| {
                tried.push(samples.dims()[0]);
                if samples.dims()[0] > 1 { Err(exhausted()) } else { Ok(samples.clone()) }
            };
            assert!(shared.state(window, pass).is_ok());
        }
        assert!(tried.len() > 1 && tried.is_sorted_by(|a, b| a > b), "{tried:?}");
    }
}
