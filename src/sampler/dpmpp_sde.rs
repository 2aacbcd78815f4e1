//! DPM-Solver++ on the stochastic equation with a second prediction half-way (Lu et al. 2022; Crowson's `sample_dpmpp_sde`),
//! as diffusers' `scheduling_dpmsolver_sde.py`: the "DPM++ SDE" of many programs. Each of the two predictions is a step of its own
//! here, so that each is journaled and an interrupted run goes on between them.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, none_left_out},
    error::SamplerError,
    euler::Euler,
    euler_ancestral::ancestral,
    interface::{Sampler, steps_through},
    level::{Level, NoiseProcess},
    schedule::Schedule,
    sigmas::timestep_of,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dpmpp-sde",
    class: "DPMSolverSDEScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(DpmppSde::new(config)?)),
};

/// The stochastic singlestep sampler of DPM-Solver++: [`Euler`]'s timesteps, and for each step but the last a second
/// prediction at the noise level half-way in ln σ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DpmppSde(Euler);

impl DpmppSde {
    /// The sampler with the settings of [`Euler::new`].
    ///
    /// # Errors
    /// Those of [`Euler::new`].
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self(Euler::new(config)?))
    }
}

/// σ of a level.
fn sigma_of(level: Level) -> f64 {
    level.spread / level.signal
}

/// Euler's steps, each but the last in two at the level half-way.
fn with_midpoints(schedule: &Schedule, steps: &[Step]) -> Result<Vec<Step>, SamplerError> {
    let logs: Vec<f32> = schedule.solvers_sigmas()?.iter().map(|sigma| sigma.ln()).collect();
    let middle = |step: &Step| {
        let sigma = (sigma_of(step.level) * sigma_of(step.to)).sqrt();
        (timestep_of(sigma, &logs), Level::of_sigma(sigma))
    };
    let mut points = Vec::with_capacity(2 * steps.len());
    for step in steps {
        points.push((step.t, step.level));
        if !step.last {
            points.push(middle(step));
        }
    }
    Ok(steps_through(schedule, &points, steps.last().map_or(Level::CLEAN, |step| step.to)))
}

/// An ancestral step in `x = z/signal`: `x' = x·stay + (1−stay)·x̂0 + up·n`.
struct Ancestral {
    stay: f64,
    up: f64,
}

impl Ancestral {
    fn between(from: Level, to: Level) -> Self {
        let (down, up) = ancestral(from, to);
        Self { stay: down / sigma_of(from), up }
    }
}

/// The share ρ of the whole way's noise that the way to its middle had already: both are increments of one Brownian motion
/// in σ.
fn shared(from: Level, middle: Level, to: Level) -> f64 {
    let (sigma, half, end) = (sigma_of(from), sigma_of(middle), sigma_of(to));
    ((sigma - half) / (sigma - end)).max(0.0).sqrt()
}

impl Sampler for DpmppSde {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        with_midpoints(schedule, &self.0.steps(schedule, n)?)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        with_midpoints(schedule, &self.0.through(schedule, timesteps)?)
    }

    fn predictions(&self) -> usize {
        2
    }

    fn initial_noise(&self, schedule: &Schedule, first: &Step) -> f64 {
        self.0.initial_noise(schedule, first)
    }

    /// The first prediction takes an ancestral step to the middle, `x = stay₁·x₋₁ + (1−stay₁)·x̂0₋₁ + up₁·n₁`; the second
    /// one takes the whole of it from where the first began, `x' = stay·x₋₁ + (1−stay)·x̂0 + up·(ρ·n₁ + √(1−ρ²)·n)`.
    /// There `n₁` follows from x, x₋₁ and x̂0₋₁, so that the second one reads z and one combination of the other two, which
    /// the first one keeps: `x' = g·x + (1−stay)·x̂0 + [(stay − g·stay₁)·x₋₁ − g·(1−stay₁)·x̂0₋₁] + up·√(1−ρ²)·n`,
    /// `g = ρ·up/up₁`.
    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        if level.signal <= 0.0 {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        let half = Ancestral::between(level, to);
        let second = earlier.last().filter(|_| !step.index.is_multiple_of(2));
        let Some(before) = second else {
            let kept = if step.last {
                None
            } else {
                // The middle is half-way in ln σ, so the end follows from it.
                let sigma = sigma_of(to);
                let end = Level::of_sigma(sigma * sigma / sigma_of(level));
                let whole = Ancestral::between(level, end);
                let again = shared(level, to, end) * whole.up / half.up;
                let of_z = (whole.stay - again * half.stay) / level.signal;
                let terms = Terms { z: of_z, x0: -again * (1.0 - half.stay), eps: 0.0 };
                Some(step.combination(terms)?)
            };
            let terms =
                Terms { z: 0.0, x0: to.signal, eps: to.signal * half.stay * sigma_of(level) };
            return Ok(Update { kept, ..Update::new(step, terms, to.signal * half.up, None)? });
        };
        let first = Ancestral::between(before.level, level);
        let whole = Ancestral::between(before.level, to);
        let share = shared(before.level, level, to);
        let again = share * whole.up / first.up;
        let terms = Terms {
            z: to.signal * again / level.signal,
            x0: to.signal * (1.0 - whole.stay),
            eps: 0.0,
        };
        let noise = to.signal * whole.up * (1.0 - share * share).max(0.0).sqrt();
        let history = vec![to.signal as f32];
        Ok(Update { history, ..Update::new(step, terms, noise, None)? })
    }
}
