//! A step says where it leads from and to, and in which two quantities it is written: from there a sampler's combination of
//! z, x̂0 and ε becomes factors of what is at hand.

use super::{error::SamplerError, level::Level};

/// The quantity to which the denoiser's output is brought before a step ([`Schedule::convert`](super::Schedule::convert)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionForm {
    /// The noise ε.
    Noise,
    /// The clean latent x̂0: near pure noise, where ε says nothing of it, for a model that predicts v or x0.
    Clean,
}

/// One step of a sampler.
///
/// Timesteps are whole numbers, but for Euler with linspace spacing or noise levels of its own: there they lie between
/// two of the training's, and the denoiser is told the fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Position among all `N` steps of the schedule, also where a run takes only the last of them.
    pub index: usize,
    /// The timestep that the denoiser is told, 0 to T−1.
    pub t: f64,
    /// The timestep the step leads to; `None` past the end of the schedule, where every sampler has its own
    /// idea of what is left.
    pub t_prev: Option<f64>,
    /// The level the canvas is at: that of `t`, but for noise levels that are not the training's.
    pub level: Level,
    /// The level the step leads to.
    pub to: Level,
    /// The quantity that the step is taken with.
    pub form: PredictionForm,
    /// `true` for the last step.
    pub last: bool,
}

/// A combination of the latent z, the clean latent x̂0 that a prediction implies, and the noise ε.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub z: f64,
    pub x0: f64,
    pub eps: f64,
}

impl Terms {
    /// The clean latent itself.
    pub const CLEAN: Self = Self { z: 0.0, x0: 1.0, eps: 0.0 };
    /// The noise itself.
    pub const NOISE: Self = Self { z: 0.0, x0: 0.0, eps: 1.0 };
}

/// `z·z + prediction·p` with p the prediction of a step ([`Step::form`]), in the canvas's precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combination {
    /// Factor of the latent.
    pub z: f32,
    /// Factor of the prediction.
    pub prediction: f32,
}

impl Step {
    /// The clean latent that the step's prediction implies.
    ///
    /// # Errors
    /// [`SamplerError::NoSignal`] where x̂0 would have to be made of the noise alone.
    pub fn x0(&self) -> Result<Combination, SamplerError> {
        self.combination(Terms::CLEAN)
    }

    /// A combination of the latent and what the step's prediction implies, rounded to the canvas's
    /// precision.
    ///
    /// # Errors
    /// [`SamplerError::NoSignal`] where x̂0 would have to be made of the noise alone.
    pub(super) fn combination(&self, terms: Terms) -> Result<Combination, SamplerError> {
        let (z, prediction) = self.resolve(terms)?;
        Ok(Combination { z: z as f32, prediction: prediction as f32 })
    }

    /// Factors of z and of the prediction in a combination, by `z = signal·x̂0 + spread·ε`.
    ///
    /// # Errors
    /// [`SamplerError::NoSignal`] where x̂0 would have to be made of the noise alone.
    pub(super) fn resolve(&self, terms: Terms) -> Result<(f64, f64), SamplerError> {
        let Level { signal, spread } = self.level;
        let Terms { z, x0, eps } = terms;
        match self.form {
            PredictionForm::Noise if signal > 0.0 => {
                let of_z = x0 / signal;
                Ok((z + of_z, eps - of_z * spread))
            }
            PredictionForm::Noise => Err(SamplerError::NoSignal { t: self.t }),
            PredictionForm::Clean => {
                let of_z = eps / spread;
                Ok((z + of_z, x0 - of_z * signal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(level: Level, to: Level, form: PredictionForm) -> Step {
        Step { index: 0, t: 0.0, t_prev: None, level, to, form, last: true }
    }

    #[test]
    fn a_step_of_either_process_and_form_gives_back_what_it_was_made_of() {
        for level in [Level::variance_preserving as fn(f64) -> Level, Level::flow] {
            let (from, to) = (level(0.625), level(0.25));
            let (x0, n) = (1.5, -0.75);
            let at = |level: Level| level.signal * x0 + level.spread * n;
            for (form, prediction) in [(PredictionForm::Noise, n), (PredictionForm::Clean, x0)] {
                let step = step(from, to, form);
                let (z, p) = step.resolve(Terms::CLEAN).unwrap();
                assert!((z * at(from) + p * prediction - x0).abs() < 1e-15);
                let terms = Terms { z: 0.0, x0: to.signal, eps: to.spread };
                let (z, p) = step.resolve(terms).unwrap();
                assert!((z * at(from) + p * prediction - at(to)).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn a_step_of_flow_matching_is_eulers_along_the_velocity() {
        let (z, eps, sigma, next) = (0.8, -0.3, 0.75, 0.5);
        let (from, to) = (Level::flow(sigma), Level::flow(next));
        // v = ε − x̂0, and z' = z + (σ'−σ)·v.
        let velocity = eps - (z - sigma * eps) / (1.0 - sigma);
        let terms = Terms { z: 0.0, x0: to.signal, eps: to.spread };
        let (of_z, of_eps) = step(from, to, PredictionForm::Noise).resolve(terms).unwrap();
        assert!((of_z * z + of_eps * eps - (z + (next - sigma) * velocity)).abs() < 1e-15);
    }

    #[test]
    fn pure_noise_says_nothing_of_x0_unless_the_model_predicts_it() {
        let noise = Level::variance_preserving(0.0);
        let error = step(noise, Level::CLEAN, PredictionForm::Noise).resolve(Terms::CLEAN);
        assert!(matches!(error, Err(SamplerError::NoSignal { .. })));
        let factors = step(noise, Level::CLEAN, PredictionForm::Clean).resolve(Terms::CLEAN);
        assert_eq!(factors.unwrap(), (0.0, 1.0));
    }
}
