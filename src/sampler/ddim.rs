//! DDIM (Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021), as diffusers' `DDIMScheduler`.

use super::{
    clip::Limit,
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, check_eta, none_left_out},
    error::SamplerError,
    interface::{Sampler, steps_at},
    level::NoiseProcess,
    schedule::Schedule,
    step::{Step, Terms},
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
    process: NoiseProcess::VariancePreserving,
    default_eta: Some(Ddim::DEFAULT_ETA),
    has_spacing: true,
    has_sigmas: false,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, eta| Ok(Box::new(Ddim::new(eta)?.with_clipping(config))),
};

/// The DDIM sampler; `eta` = 0 is deterministic, 1 adds as much noise as DDPM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ddim {
    eta: f64,
    limit: Option<Limit>,
}

impl Ddim {
    /// The reference's own: no fresh noise.
    pub const DEFAULT_ETA: f64 = 0.0;

    /// DDIM with this share of fresh noise.
    ///
    /// # Errors
    /// [`SamplerError::Eta`] unless `0 <= eta <= 1`.
    pub fn new(eta: f64) -> Result<Self, SamplerError> {
        Ok(Self { eta: check_eta(eta)?, limit: None })
    }

    /// The same with the config's clipping of x̂0 (`thresholding`, else `clip_sample`).
    #[must_use]
    pub fn with_clipping(self, config: &SchedulerConfig) -> Self {
        Self { limit: Limit::of(config), ..self }
    }
}

impl Sampler for Ddim {
    /// A step leads `⌊T/n⌋` timesteps down, as the reference has it. Where `n` does not divide `T` that is not
    /// always the next timestep of the list, but within one or two of it.
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let timesteps = schedule.timesteps(n)?;
        let stride = schedule.train_timesteps() / n;
        let step = |(index, t): (usize, usize)| {
            let t_prev = t.checked_sub(stride).map(|t| t as f64);
            let (t, end) = (t as f64, schedule.final_level());
            let (level, to) = (schedule.level(t)?, t_prev.map_or(Ok(end), |t| schedule.level(t))?);
            let form = schedule.form(level);
            Ok(Step { index, t, t_prev, level, to, form, last: index + 1 == n })
        };
        timesteps.into_iter().enumerate().map(step).collect()
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        steps_at(schedule, timesteps, schedule.final_level())
    }

    /// `z' = signal'·x̂0 + √(spread'²−τ²)·ε + τ·n` (equation 12 of the paper) with
    /// `τ = η·(spread'/spread)·√(spread² − (signal/signal')²·spread'²)`, which for a variance-preserving process is
    /// `η·√((1−ā')/(1−ā))·√(1−ā/ā')` (equation 16). A clipped x̂0 leaves ε as it is (`use_clipped_model_output = False`).
    fn update(&self, _: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        let ratio = level.signal / to.signal * to.spread;
        // Not below 0: at t = 0 with its own level as the final one, the two are the same number.
        let variance = (level.spread * level.spread - ratio * ratio).max(0.0);
        let tau = self.eta * to.spread / level.spread * variance.sqrt();
        let direction = (to.spread * to.spread - tau * tau).max(0.0).sqrt();
        let terms = Terms { z: 0.0, x0: to.signal, eps: direction };
        Update::new(step, terms, tau, self.limit)
    }
}
