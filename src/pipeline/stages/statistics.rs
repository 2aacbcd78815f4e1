//! Global state that all VAE tiles of a canvas share (docs/method.md §6), measured before the first tile on samples.
//! Without it every tile would be normalized by its own contents, and tile borders would show in a smooth sky.
//!
//! A tile that is the whole canvas needs none: there the model computes as it was trained to.

use std::cell::Cell;

use candle_core::Tensor;

use super::context::Context;
use crate::{
    model::vae::{GlobalState, Globals, MeasuredPart},
    pipeline::{
        error::Error,
        plan::{
            samples::{Sample, samples},
            tiles::Span,
        },
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

    /// What a tile computes with. `window` cuts a sample out, `pass` runs the encoder or the decoder on a batch of them.
    ///
    /// # Errors
    /// Errors of `window` and `pass`; a device without memory for a single sample.
    pub fn of_tile(
        &mut self,
        (row, column): (&Span, &Span),
        window: impl FnMut(&Sample) -> Result<Tensor, Error>,
        pass: impl FnMut(&Tensor, Globals<'_>) -> Result<Tensor, Error>,
    ) -> Result<Globals<'_>, Error> {
        let whole = row.is_whole() && column.is_whole();
        if whole || !self.context.spec.plan.geometry.has_global_state {
            return Ok(Globals::Own);
        }
        if self.state.is_none() {
            self.state = Some(self.measure(window, pass)?);
        }
        Ok(self.state.as_ref().map_or(Globals::Own, Globals::Shared))
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

    fn nothing(_: &Sample) -> Result<Tensor, Error> {
        unreachable!("nothing is measured")
    }

    fn untouched(_: &Tensor, _: Globals<'_>) -> Result<Tensor, Error> {
        unreachable!("nothing is measured")
    }

    #[test]
    fn one_tile_and_an_autoencoder_without_a_global_state_need_none() {
        let (runner, picture, mut spec) = (Fake::idle(), picture(), job(Settings::default()));
        let half = Span { core: 0..5, length: 10, padding: 1 };
        let whole = Span { core: 0..10, length: 10, padding: 1 };
        let ask = |spec: &_, row: &Span| {
            let context = context(&runner, &picture, spec);
            let mut shared = SharedState::new(&context, (10, 10));
            matches!(shared.of_tile((row, &whole), nothing, untouched).unwrap(), Globals::Own)
        };
        assert!(ask(&spec, &half));
        spec.plan.geometry.has_global_state = true;
        assert!(ask(&spec, &whole));
    }

    #[test]
    fn the_state_is_measured_once_on_fewer_samples_where_the_device_has_no_room() {
        let (runner, picture, mut spec) = (Fake::idle(), picture(), job(Settings::default()));
        spec.plan.geometry.has_global_state = true;
        let context = context(&runner, &picture, &spec);
        let mut shared = SharedState::new(&context, (400, 800));
        let half = Span { core: 0..400, length: 800, padding: 1 };
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
            let globals = shared.of_tile((&half, &half), window, pass).unwrap();
            assert!(matches!(globals, Globals::Shared(_)));
        }
        assert!(tried.len() > 1 && tried.is_sorted_by(|a, b| a > b), "{tried:?}");
    }
}
