//! DDIM (Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021), as diffusers' `DDIMScheduler`.

use super::{
    descriptor::{Descriptor, check_eta, clipping},
    error::SamplerError,
    schedule::Schedule,
    step::{Sampler, Step},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "ddim",
    class: "DDIMScheduler",
    // PNDM's transfer from one timestep to the next *is* DDIM's (Liu et al. 2022), at the same timesteps and with the
    // same level at the end, DDPM is DDIM with η = 1, and the parallel ones solve the same equations in another order.
    stands_in_for: &[
        "PNDMScheduler",
        "DDPMScheduler",
        "DDIMParallelScheduler",
        "DDPMParallelScheduler",
    ],
    default_eta: Some(Ddim::DEFAULT_ETA),
    has_spacing: true,
    left_out: clipping,
    build: |_, eta| Ok(Box::new(Ddim::new(eta)?)),
};

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

    /// `z' = signal'·x̂0 + √(spread'²−τ²)·ε + τ·n` (equation 12 of the paper) with
    /// `τ = η·(spread'/spread)·√(spread² − (signal/signal')²·spread'²)`, which for a variance-preserving process is
    /// `η·√((1−ā')/(1−ā))·√(1−ā/ā')` (equation 16).
    fn update(&self, schedule: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let level = schedule.level_with_signal(step.t)?;
        let to = match step.t_prev {
            Some(t) => schedule.level(t)?,
            None => schedule.final_level(),
        };
        let ratio = level.signal / to.signal * to.spread;
        // Not below 0: at t = 0 with its own level as the final one, the two are the same number.
        let variance = (level.spread * level.spread - ratio * ratio).max(0.0);
        let tau = self.eta * to.spread / level.spread * variance.sqrt();
        let direction = (to.spread * to.spread - tau * tau).max(0.0).sqrt();
        let (z, eps) = level.towards(to, direction);
        Ok(Update::one_step(z, eps, tau))
    }
}
