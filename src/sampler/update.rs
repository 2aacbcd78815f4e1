//! The one loop that every sampler's step comes down to.

use rayon::prelude::*;

use super::error::check_len;
use super::{SamplerError, schedule::PIECE};

/// A step's three numbers: `z' = z·z + eps·ε + noise·n`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Factor of the latent.
    pub z: f32,
    /// Factor of the noise prediction ε.
    pub eps: f32,
    /// Factor of fresh standard-normal noise; 0 for a deterministic step.
    pub noise: f32,
}

impl Update {
    /// Whether [`Update::apply`] needs noise.
    pub fn needs_noise(&self) -> bool {
        self.noise != 0.0
    }

    /// Takes the step on any piece of the canvas, in place: a band of rows, or all of it. Elements do not
    /// depend on each other, so neither cutting nor threads change the result. Noise that a deterministic step
    /// does not need is passed over.
    ///
    /// # Errors
    /// [`SamplerError::Length`] if the slices differ in length, [`SamplerError::NoiseMissing`] if noise is needed
    /// and none is given; `z` is then unchanged.
    pub fn apply(
        &self,
        z: &mut [f32],
        eps: &[f32],
        noise: Option<&[f32]>,
    ) -> Result<(), SamplerError> {
        check_len("the noise prediction", z.len(), eps.len())?;
        let Update { z: a, eps: b, noise: c } = *self;
        let pieces = z.par_chunks_mut(PIECE).zip(eps.par_chunks(PIECE));
        if !self.needs_noise() {
            pieces
                .for_each(|(z, eps)| z.iter_mut().zip(eps).for_each(|(z, e)| *z = a * *z + b * e));
            return Ok(());
        }
        let noise = noise.ok_or(SamplerError::NoiseMissing)?;
        check_len("the fresh noise", eps.len(), noise.len())?;
        pieces.zip(noise.par_chunks(PIECE)).for_each(|((z, eps), noise)| {
            z.iter_mut().zip(eps).zip(noise).for_each(|((z, e), n)| *z = a * *z + b * e + c * n);
        });
        Ok(())
    }
}

/// Factors of z and of ε in `√ā'·x̂0 + direction·ε` with `x̂0 = (z − √(1−ā)·ε)/√ā`: the clean latent noised again to ā' with
/// the noise that was predicted.
pub(super) fn towards(abar: f64, abar_prev: f64, direction: f64) -> (f64, f64) {
    let z = (abar_prev / abar).sqrt();
    (z, direction - z * (1.0 - abar).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_its_noise_or_with_odd_lengths_leaves_the_latent_alone() {
        let update = Update { z: 2.0, eps: 3.0, noise: 4.0 };
        let mut z = [1.0, 2.0];
        assert!(matches!(update.apply(&mut z, &[1.0, 1.0], None), Err(SamplerError::NoiseMissing)));
        let short = update.apply(&mut z, &[1.0, 1.0], Some(&[0.5]));
        assert!(matches!(short, Err(SamplerError::Length { expected: 2, actual: 1, .. })));
        assert!(update.apply(&mut z, &[1.0], Some(&[0.5])).is_err());
        assert_eq!(z, [1.0, 2.0]);
        update.apply(&mut z, &[1.0, 1.0], Some(&[0.5, 0.25])).unwrap();
        assert_eq!(z, [7.0, 8.0]);
    }
}
