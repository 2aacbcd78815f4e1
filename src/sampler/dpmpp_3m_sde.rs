//! DPM-Solver++ (3M) on the stochastic equation, as `sample_dpmpp_3m_sde` of Crowson's k-diffusion with its η of 1: the "DPM++ 3M
//! SDE" of many programs, which each step reads the clean latents of the two steps before for.
//!
//! diffusers' `DPMSolverMultistepScheduler` has a third order of `sde-dpmsolver++` as well, whose last term has ½ with the
//! other sign (`multistep_dpm_solver_third_order_update`); its deterministic form and k-diffusion's agree with this one.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, none_left_out},
    dpm_steps::DpmSteps,
    error::SamplerError,
    interface::Sampler,
    level::NoiseProcess,
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dpmpp-3m-sde",
    class: "DPMSolverMultistepScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    // diffusers has it in no class.
    is_asked_by: |_| false,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(Dpmpp3mSde::new(config)?)),
};

/// The third-order multistep sampler of DPM-Solver++ with fresh noise in every step but the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpmpp3mSde(DpmSteps);

impl Dpmpp3mSde {
    /// The solver through the noise levels of the training or those that the config asks for, to the config's final σ.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self(DpmSteps::new(config)?))
    }
}

/// What a step of higher order adds to one of first order, as factors of `x̂0 − x̂0₋₁` and of `x̂0₋₁ − x̂0₋₂`, over signal'; `h`
/// is the step's way in λ, `before` are those of the steps before it, the latest first.
fn differences(h: f64, before: &[f64]) -> [f64; 2] {
    // φ₂ and φ₃ of the stochastic equation, which goes twice as far.
    let twice = 2.0 * h;
    let second = (-twice).exp_m1() / twice + 1.0;
    let third = second / twice - 0.5;
    match *before {
        [] => [0.0; 2],
        [last] => [second * h / last, 0.0],
        [last, first, ..] => {
            let (r0, r1) = (last / h, first / h);
            let (sum, share) = (r0 + r1, r0 / (r0 + r1));
            let of_last = second * (1.0 + share) - third / sum;
            let of_first = third / sum - second * share;
            [of_last / r0, of_first / r1]
        }
    }
}

impl Sampler for Dpmpp3mSde {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.0.steps(schedule, n)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.0.through(schedule, timesteps)
    }

    /// `z' = (spread'/spread)·e⁻ʰ·z + signal'·[(1−e⁻²ʰ)·x̂0 + φ₂·D₁ − φ₃·D₂] + spread'·√(1−e⁻²ʰ)·n`, with
    /// `φ₂ = (e⁻²ʰ−1)/2h + 1`, `φ₃ = φ₂/2h − ½`, D₁ and D₂ the first and second difference of x̂0 over the steps; the
    /// second step of a run has D₁ alone, the first one and one that leads to the clean latent neither.
    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        let read = if to.spread > 0.0 { &earlier[earlier.len().saturating_sub(2)..] } else { &[] };
        if level.signal <= 0.0 || read.iter().any(|step| step.level.signal <= 0.0) {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        let ratio = to.spread / level.spread;
        // e⁻ʰ, 0 where the step leads to the clean latent.
        let decay = ratio * level.signal / to.signal;
        let fresh = 1.0 - decay * decay;
        let mut at = level.log_snr();
        let before: Vec<f64> = (read.iter().rev())
            .map(|step| {
                let earlier = step.level.log_snr();
                std::mem::replace(&mut at, earlier) - earlier
            })
            .collect();
        let [of_last, of_first] = differences(to.log_snr() - level.log_snr(), &before);
        let factors = [of_first - of_last, -of_first].map(|factor| (to.signal * factor) as f32);
        let terms = Terms { z: ratio * decay, x0: to.signal * (fresh + of_last), eps: 0.0 };
        let noise = to.spread * fresh.max(0.0).sqrt();
        let (kept, history) = (Some(step.x0()?), factors[..read.len()].to_vec());
        Ok(Update { kept, history, ..Update::new(step, terms, noise, None)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_up_to_two_steps_and_its_last_one_none() {
        let config = r#"{"_class_name": "DPMSolverMultistepScheduler"}"#;
        let config = SchedulerConfig::from_json(config).unwrap();
        let schedule = Schedule::new(&config).unwrap();
        let sampler = Dpmpp3mSde::new(&config).unwrap();
        let steps = sampler.steps(&schedule, 8).unwrap().split_off(3);
        let updates = super::super::updates(&sampler, &schedule, &steps).unwrap();
        let reads: Vec<usize> = updates.iter().map(|update| update.history.len()).collect();
        assert_eq!(reads, [0, 1, 2, 2, 0]);
        let noise: Vec<bool> = updates.iter().map(|update| update.needs_noise()).collect();
        assert_eq!(noise, [true, true, true, true, false]);
    }

    #[test]
    fn the_differences_of_equal_steps_are_those_of_a_parabola() {
        // x̂0 = a + bλ + cλ² over steps of h, where D₁ is hb and D₂ is h²c.
        let (h, b, c) = (0.5, 3.0, -2.0);
        let at = |lambda: f64| 1.0 + b * lambda + c * lambda * lambda;
        let [of_last, of_first] = differences(h, &[h, h]);
        let ours = of_last * (at(0.0) - at(-h)) + of_first * (at(-h) - at(-2.0 * h));
        let second = (-2.0 * h).exp_m1() / (2.0 * h) + 1.0;
        let third = second / (2.0 * h) - 0.5;
        assert!((ours - (second * h * b - third * h * h * c)).abs() < 1e-12, "{ours}");
        // A slope alone: the step of second order is as good.
        let [of_last, none] = differences(h, &[h]);
        assert!((of_last * h - second * h).abs() < 1e-12 && none == 0.0);
    }
}
