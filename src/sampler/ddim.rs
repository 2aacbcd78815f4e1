//! DDIM (Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021), as diffusers' `DDIMScheduler`.

use super::{Sampler, SamplerError, SamplerKind, Schedule, Step, Update, check_eta, update};

/// The DDIM sampler; `eta` = 0 is deterministic, 1 adds as much noise as DDPM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ddim {
    eta: f64,
}

impl Ddim {
    /// The reference's own: no fresh noise.
    pub const DEFAULT_ETA: f64 = 0.0;

    /// DDIM with this share of fresh noise.
    ///
    /// # Errors
    /// [`SamplerError::Eta`] unless `0 <= eta <= 1`.
    pub fn new(eta: f64) -> Result<Self, SamplerError> {
        Ok(Self { eta: check_eta(eta)? })
    }
}

impl Sampler for Ddim {
    fn kind(&self) -> SamplerKind {
        SamplerKind::Ddim
    }

    /// A step leads `⌊T/n⌋` timesteps down, as the reference has it. Where `n` does not divide `T` that is not
    /// always the next timestep of the list, but within one or two of it.
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let timesteps = schedule.timesteps(n)?;
        let stride = schedule.train_timesteps() / n;
        let step = |(index, t): (usize, usize)| Step {
            index,
            t: t as f64,
            t_prev: t.checked_sub(stride).map(|t| t as f64),
            last: index + 1 == n,
        };
        Ok(timesteps.into_iter().enumerate().map(step).collect())
    }

    /// `x̂0 = (z − √(1−ā)ε)/√ā` and `z' = √ā'·x̂0 + √(1−ā'−σ²)·ε + σ·n` (equation 12 of the paper) with
    /// `σ = η·√((1−ā')/(1−ā))·√(1−ā/ā')` (equation 16), sorted by z, ε and n.
    fn update(&self, schedule: &Schedule, step: &Step) -> Result<Update, SamplerError> {
        let abar = schedule.abar_with_signal(step.t)?;
        let abar_prev = match step.t_prev {
            Some(t) => f64::from(schedule.abar(t)?),
            None => f64::from(schedule.final_abar()),
        };
        // Not below 0: at t = 0 with ᾱ₀ as the final ᾱ, the two are the same number.
        let variance = ((1.0 - abar_prev) / (1.0 - abar) * (1.0 - abar / abar_prev)).max(0.0);
        let sigma = self.eta * variance.sqrt();
        let direction = (1.0 - abar_prev - sigma * sigma).max(0.0).sqrt();
        let (z, eps) = update::towards(abar, abar_prev, direction);
        Ok(Update { z: z as f32, eps: eps as f32, noise: sigma as f32 })
    }
}
