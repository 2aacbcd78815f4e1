//! Plan of an image-to-image run: the steps of the schedule that it takes.
//!
//! With few steps a "strength" is really a step count: with 8 steps, every strength in (0.375, 0.5] runs four.
//! So both are accepted, and the plan says what was run (docs/method.md §2, "Schedule").

use super::{error::SamplerError, interface::Sampler, schedule::Schedule, step::Step};

/// The timesteps of the whole schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timesteps {
    /// Number of steps, at the sampler's own timesteps.
    Count(usize),
    /// Explicit timesteps, highest first. A model distilled at a single timestep needs them: Hyper-SDXL's one-step
    /// model 800.
    List(Vec<usize>),
}

impl Timesteps {
    /// Their number N.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Count(n) => *n,
            Self::List(list) => list.len(),
        }
    }
}

/// Denoising strength: the extent to which the picture is diffused before it is denoised again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Denoise {
    /// Share of the schedule, above 0 and at most 1; the paper uses 0.45.
    Strength(f64),
    /// Number of steps that are run, 1 to N.
    Steps(usize),
}

/// Number of the `n` steps that are run: the count itself, or `⌈n·strength⌉`.
///
/// A product within a billionth above a whole number is that number: 100 × 0.07 is 7 steps, though in binary it
/// comes out above 7.
///
/// # Errors
/// [`SamplerError::Strength`] or [`SamplerError::RunCount`].
pub fn steps_run(n: usize, denoise: Denoise) -> Result<usize, SamplerError> {
    match denoise {
        Denoise::Strength(strength) if !(strength > 0.0 && strength <= 1.0) => {
            Err(SamplerError::Strength { strength })
        }
        Denoise::Strength(strength) => {
            Ok(((n as f64 * strength - 1e-9).ceil() as usize).clamp(1, n.max(1)))
        }
        Denoise::Steps(steps) if steps == 0 || steps > n => {
            Err(SamplerError::RunCount { run: steps, steps: n })
        }
        Denoise::Steps(steps) => Ok(steps),
    }
}

/// The steps of a run: the last [`steps_run`] of the steps of the schedule, with every prediction of each. The first one's `t` is where the
/// picture is diffused to.
///
/// With a list each step leads to the next timestep of it, for every sampler (diffusers' `DDIMScheduler` takes none).
///
/// # Errors
/// Those of [`steps_run`] and [`Sampler::steps`], or [`SamplerError::TimestepOrder`] and
/// [`SamplerError::TimestepRange`] for a list.
pub fn plan(
    sampler: &dyn Sampler,
    schedule: &Schedule,
    timesteps: &Timesteps,
    denoise: Denoise,
) -> Result<Vec<Step>, SamplerError> {
    let mut steps = match timesteps {
        &Timesteps::Count(n) => sampler.steps(schedule, n)?,
        Timesteps::List(list) => {
            if list.is_empty() || !list.is_sorted_by(|a, b| a > b) {
                return Err(SamplerError::TimestepOrder { timesteps: list.clone() });
            }
            let list: Vec<f64> = list.iter().map(|&t| t as f64).collect();
            sampler.through(schedule, &list)?
        }
    };
    let each = sampler.predictions();
    let whole = steps.len().div_ceil(each);
    let run = steps_run(whole, denoise)?;
    Ok(steps.split_off(each * (whole - run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_is_a_step_count_rounded_up() {
        let cases = [
            (8, 0.45, 4),
            (8, 0.5, 4),
            (8, 0.51, 5),
            (8, 0.01, 1),
            (8, 1.0, 8),
            // The paper's 22 of 50 steps are 0.44, or a count.
            (50, 0.45, 23),
            (50, 0.44, 22),
            (100, 0.07, 7),
            (10, 0.7, 7),
            (1, 0.3, 1),
        ];
        for (n, strength, expected) in cases {
            assert_eq!(
                steps_run(n, Denoise::Strength(strength)).unwrap(),
                expected,
                "{n} steps at {strength}"
            );
        }
    }

    #[test]
    fn impossible_strengths_and_counts_are_refused() {
        for strength in [0.0, -0.5, 1.01, f64::NAN] {
            assert!(matches!(
                steps_run(8, Denoise::Strength(strength)),
                Err(SamplerError::Strength { .. })
            ));
        }
        assert!(matches!(
            steps_run(8, Denoise::Steps(9)),
            Err(SamplerError::RunCount { run: 9, steps: 8 })
        ));
        assert!(matches!(steps_run(8, Denoise::Steps(0)), Err(SamplerError::RunCount { .. })));
    }
}
