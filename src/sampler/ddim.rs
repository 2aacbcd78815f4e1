//! DDIM (Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021), as diffusers' `DDIMScheduler`.

use super::{Sampler, SamplerError, Schedule, Step, Update};

/// The DDIM sampler; `eta` = 0 is deterministic, 1 adds as much noise as DDPM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ddim {
    eta: f64,
}

impl Ddim {
    /// DDIM with this share of fresh noise.
    ///
    /// # Errors
    /// [`SamplerError::Eta`] unless `0 <= eta <= 1`.
    pub fn new(eta: f64) -> Result<Self, SamplerError> {
        if (0.0..=1.0).contains(&eta) { Ok(Self { eta }) } else { Err(SamplerError::Eta { eta }) }
    }
}

impl Sampler for Ddim {
    fn name(&self) -> &'static str {
        "ddim"
    }

    /// A step leads `⌊T/n⌋` timesteps down, as the reference has it. Where `n` does not divide `T` that is not
    /// always the next timestep of the list, but within one or two of it.
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let timesteps = schedule.timesteps(n)?;
        let stride = schedule.train_timesteps() / n;
        let step = |(index, t): (usize, usize)| Step {
            index,
            t,
            t_prev: t.checked_sub(stride),
            last: index + 1 == n,
        };
        Ok(timesteps.into_iter().enumerate().map(step).collect())
    }

    /// `x̂0 = (z − √(1−ā)ε)/√ā` and `z' = √ā'·x̂0 + √(1−ā'−σ²)·ε + σ·n` (equation 12 of the paper) with
    /// `σ = η·√((1−ā')/(1−ā))·√(1−ā/ā')` (equation 16), sorted by z, ε and n.
    fn update(&self, schedule: &Schedule, step: &Step) -> Result<Update, SamplerError> {
        let abar = f64::from(schedule.abar(step.t)?);
        let abar_prev = f64::from(schedule.abar_prev(step.t_prev)?);
        if abar <= 0.0 {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        // Not below 0: at t = 0 with ᾱ₀ as the final ᾱ, the two are the same number.
        let variance = ((1.0 - abar_prev) / (1.0 - abar) * (1.0 - abar / abar_prev)).max(0.0);
        let sigma = self.eta * variance.sqrt();
        let direction = (1.0 - abar_prev - sigma * sigma).max(0.0).sqrt();
        let z = (abar_prev / abar).sqrt();
        Ok(Update {
            z: z as f32,
            eps: (direction - z * (1.0 - abar).sqrt()) as f32,
            noise: sigma as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eta_outside_0_to_1_is_refused() {
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(Ddim::new(eta), Err(SamplerError::Eta { .. })), "{eta}");
        }
    }
}
