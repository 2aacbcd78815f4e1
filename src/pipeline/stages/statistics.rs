//! Shared group-norm statistics of all VAE tiles (docs/method.md §6), measured before the first tile on samples
//! spread over the canvas. Without them every tile would be normalized by its own contents, and tile borders would
//! show in a smooth sky.
//!
//! The samples depend on the canvas alone.

use std::{cell::Cell, ops::Range};

use candle_core::Tensor;

use super::context::Context;
use crate::{
    model::vae::NormStatistics,
    pipeline::{
        error::Error,
        plan::samples::{SAMPLES, samples},
        retry::retry_smaller,
    },
};

/// Measures the statistics on samples: `window` cuts one out (columns and rows of the canvas in latent pixels,
/// possibly past its borders), `pass` runs the encoder or the decoder on a batch of them. `None` for an
/// autoencoder without norms. A single tile uses shared statistics too, so that the tiling, which depends on the
/// memory budget, does not show.
///
/// # Errors
/// Errors of `window` and `pass`; a device without memory for a single sample.
pub fn measure(
    context: &Context<'_>,
    mut window: impl FnMut(Range<isize>, Range<isize>) -> Result<Tensor, Error>,
    mut pass: impl FnMut(&Tensor, &mut NormStatistics) -> Result<Tensor, Error>,
) -> Result<Option<NormStatistics>, Error> {
    let geometry = &context.spec.plan.geometry;
    if !geometry.shares_norms {
        return Ok(None);
    }
    let (height, width) = (geometry.canvas.latent_height, geometry.canvas.latent_width);
    // A device without memory for all samples measures fewer.
    let count = Cell::new(SAMPLES);
    let statistics = retry_smaller(&count, |count| {
        let samples = samples(height, width, count)
            .into_iter()
            .map(|(x, y)| window(x, y))
            .collect::<Result<Vec<_>, _>>()?;
        let mut statistics = NormStatistics::default();
        pass(&Tensor::cat(&samples, 0)?, &mut statistics)?;
        Ok(statistics)
    })?;
    Ok(Some(statistics))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{
        super::testing::{Fake, context, exhausted, job, picture},
        *,
    };
    use crate::pipeline::{plan::samples::SAMPLE, settings::Settings};

    #[test]
    fn fewer_samples_do_where_the_device_has_no_room_and_none_are_taken_without_norms() {
        let (runner, picture, mut spec) = (Fake::idle(), picture(), job(Settings::default()));
        let window = |_, _| Ok(Tensor::zeros((1, SAMPLE, SAMPLE, 1), DType::F32, &Device::Cpu)?);
        let untouched = |_: &Tensor, _: &mut NormStatistics| unreachable!("there are no norms");
        let none = measure(&context(&runner, &picture, &spec), window, untouched).unwrap();
        assert!(none.is_none());

        spec.plan.geometry.shares_norms = true;
        // Enough of a canvas for more than one sample.
        spec.plan.geometry.canvas.latent_width = 20 * SAMPLE;
        let mut tried = Vec::new();
        let measured = measure(&context(&runner, &picture, &spec), window, |samples, _| {
            tried.push(samples.dims()[0]);
            if samples.dims()[0] > 3 { Err(exhausted()) } else { Ok(samples.clone()) }
        });
        assert!(measured.unwrap().is_some());
        assert!(tried.len() > 1 && tried.is_sorted_by(|a, b| a > b), "{tried:?}");
    }
}
