//! DPM-Solver++ (2M) on the stochastic equation (Lu et al. 2022, appendix), as diffusers'
//! `scheduling_dpmsolver_multistep.py` with `algorithm_type = "sde-dpmsolver++"` and order 2: the "DPM++ 2M SDE" of many
//! programs, with Karras' or exponential noise levels where the config asks for them.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, first_wanted},
    dpmpp_2m::{Dpmpp2m, wants_noise},
    error::SamplerError,
    interface::Sampler,
    level::NoiseProcess,
    schedule::Schedule,
    step::Step,
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dpmpp-2m-sde",
    class: "DPMSolverMultistepScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: wants_noise,
    left_out: |config| {
        first_wanted([
            (
                "an algorithm_type of its own",
                config.algorithm_type.as_deref() != Some("sde-dpmsolver++"),
            ),
            ("a solver_order of its own", config.solver_order.is_some_and(|order| order > 2)),
        ])
    },
    build: |config, _| Ok(Box::new(Dpmpp2mSde::new(config)?)),
};

/// The second-order multistep sampler of DPM-Solver++ with fresh noise in every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpmpp2mSde(Dpmpp2m);

impl Dpmpp2mSde {
    /// The solver with the settings of [`Dpmpp2m::new`].
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self(Dpmpp2m::new(config)?))
    }
}

impl Sampler for Dpmpp2mSde {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.0.steps(schedule, n)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.0.through(schedule, timesteps)
    }

    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        self.0.stochastic(earlier, step)
    }
}
