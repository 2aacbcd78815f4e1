//! The noise schedule of a trained model: the level of each of its timesteps, and how inference timesteps are spread.
//!
//! ᾱ, from which levels are made, is computed as diffusers' `scheduling_ddim.py` does with PyTorch: β in f32, the product
//! accumulated in f64 and stored in f32; timesteps in f64 with numpy's rounding, halves to even.

use rayon::prelude::*;

use std::f64::consts::FRAC_PI_2;

use super::config::{BetaSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
use super::error::{SamplerError, check_len};
use super::flow::FlowSigmas;
use super::level::{Level, NoiseProcess};
use super::sigma_choice::SigmaChoice;
use super::step::{PredictionForm, Step};

/// Values per parallel piece: small enough for the cache, large enough not to feel the hand-over.
pub(super) const PIECE: usize = 1 << 14;

/// ᾱ that the solvers in σ put in the place of a stretched schedule's last one, 0, whose σ would be infinite.
const SOLVERS_LAST_ABAR: f32 = 1.0 / (1 << 24) as f32;
/// Signal below which ε says too little of x̂0 in f32, so that a model that predicts v or x0 is stepped with x̂0.
const LITTLE_SIGNAL: f64 = 0.01;

/// The noise levels of the training timesteps, and how to choose timesteps from them.
#[derive(Debug, Clone)]
pub struct Schedule {
    training: Training,
    spacing: TimestepSpacing,
    prediction: PredictionType,
}

/// The noise levels of a training.
#[derive(Debug, Clone)]
enum Training {
    Betas(Betas),
    Flow(FlowSigmas),
}

/// Those that betas make.
#[derive(Debug, Clone)]
struct Betas {
    abar: Vec<f32>,
    final_level: Level,
    steps_offset: usize,
    zero_snr: bool,
}

impl Schedule {
    /// The schedule of a config.
    ///
    /// # Errors
    /// [`SamplerError::OtherProcess`] for a model whose noise levels no sampler here knows, [`SamplerError::Betas`] for
    /// betas outside (0, 1) or of the wrong number, [`SamplerError::UnsupportedSetting`] for a flow that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let training = match config.process()? {
            NoiseProcess::VariancePreserving => Training::Betas(Betas::new(config)?),
            NoiseProcess::FlowMatching => Training::Flow(FlowSigmas::new(config)?),
        };
        Ok(Self { training, spacing: config.timestep_spacing, prediction: config.prediction_type })
    }

    /// The same schedule with another spread of timesteps: Hyper-SDXL wants trailing whatever its base says.
    #[must_use]
    pub fn with_spacing(mut self, spacing: TimestepSpacing) -> Self {
        self.spacing = spacing;
        self
    }

    /// The same schedule with other noise levels in the steps of flow matching; with betas, the samplers choose them.
    #[must_use]
    pub fn with_sigmas(mut self, choice: SigmaChoice) -> Self {
        if let Training::Flow(flow) = &mut self.training {
            flow.set_sigmas(choice);
        }
        self
    }

    /// The same schedule for pictures of this many tokens (patches of the denoiser), on which the shift of some
    /// flow-matching models depends; the noise of betas does not.
    #[must_use]
    pub fn with_tokens(mut self, tokens: usize) -> Self {
        if let Training::Flow(flow) = &mut self.training {
            flow.set_tokens(tokens);
        }
        self
    }

    /// Spacing of timesteps.
    #[must_use]
    pub fn spacing(&self) -> TimestepSpacing {
        self.spacing
    }

    /// The noise process of the training.
    #[must_use]
    pub fn process(&self) -> NoiseProcess {
        match self.training {
            Training::Betas(_) => NoiseProcess::VariancePreserving,
            Training::Flow(_) => NoiseProcess::FlowMatching,
        }
    }

    fn betas(&self) -> Result<&Betas, SamplerError> {
        match &self.training {
            Training::Betas(betas) => Ok(betas),
            Training::Flow(_) => Err(SamplerError::NoSuchLevels { process: self.process().name() }),
        }
    }

    /// The levels of flow matching.
    ///
    /// # Errors
    /// [`SamplerError::NoSuchLevels`] for a schedule of betas.
    pub(super) fn flow(&self) -> Result<&FlowSigmas, SamplerError> {
        match &self.training {
            Training::Flow(flow) => Ok(flow),
            Training::Betas(_) => {
                Err(SamplerError::NoSuchLevels { process: self.process().name() })
            }
        }
    }

    /// T, the number of training timesteps.
    pub fn train_timesteps(&self) -> usize {
        match &self.training {
            Training::Betas(betas) => betas.abar.len(),
            Training::Flow(flow) => flow.train_timesteps(),
        }
    }

    /// Target of the model's prediction.
    pub fn prediction(&self) -> PredictionType {
        self.prediction
    }

    /// The level of timestep `t`: 0 to T−1 of the noise of betas, almost clean at 0 and almost noise at T−1, where σ =
    /// spread/signal between two timesteps of the training is on the straight line between theirs, as
    /// `EulerDiscreteScheduler` has it; 0 to T of flow matching, clean at 0 and noise at T.
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`].
    pub fn level(&self, t: f64) -> Result<Level, SamplerError> {
        match &self.training {
            Training::Betas(betas) => betas.level_among(t, |index| betas.abar[index]),
            Training::Flow(flow) => flow.level(t),
        }
    }

    /// The level of timestep `t` for the solvers in σ, which keep a little signal in pure noise.
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`], [`SamplerError::NoSuchLevels`].
    pub(super) fn solvers_level(&self, t: f64) -> Result<Level, SamplerError> {
        let betas = self.betas()?;
        betas.level_among(t, |index| betas.solvers_abar(index))
    }

    /// σ = spread/signal of every timestep as the solvers have it, ascending.
    ///
    /// # Errors
    /// [`SamplerError::NoSuchLevels`].
    pub(super) fn solvers_sigmas(&self) -> Result<Vec<f32>, SamplerError> {
        let betas = self.betas()?;
        Ok((0..betas.abar.len()).map(|index| sigma_of(betas.solvers_abar(index))).collect())
    }

    /// The quantity with which steps from this level are taken.
    pub(super) fn form(&self, level: Level) -> PredictionForm {
        match self.prediction {
            PredictionType::V | PredictionType::Sample if level.signal < LITTLE_SIGNAL => {
                PredictionForm::Clean
            }
            // Either follows from the velocity and the latent alone, so the one that a step divides by the more of.
            PredictionType::Flow if level.signal < level.spread => PredictionForm::Clean,
            _ => PredictionForm::Noise,
        }
    }

    /// The level after DDIM's last step: clean, or that of timestep 0 with `set_alpha_to_one = false`.
    pub fn final_level(&self) -> Level {
        match &self.training {
            Training::Betas(betas) => betas.final_level,
            Training::Flow(_) => Level::CLEAN,
        }
    }

    /// The `n` timesteps of inference, descending, as diffusers' `set_timesteps` gives them.
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] unless `1 <= n <= T`, [`SamplerError::TimestepRange`] where `steps_offset`
    /// carries one past the end, [`SamplerError::NoSuchLevels`] for flow matching, whose timesteps are no whole numbers.
    pub fn timesteps(&self, n: usize) -> Result<Vec<usize>, SamplerError> {
        self.timesteps_below(self.train_timesteps(), n)
    }

    /// As [`timesteps`](Self::timesteps), among the first `total` of the training, at least one.
    ///
    /// # Errors
    /// As [`timesteps`](Self::timesteps).
    pub(super) fn timesteps_below(
        &self,
        total: usize,
        n: usize,
    ) -> Result<Vec<usize>, SamplerError> {
        let steps_offset = self.betas()?.steps_offset;
        if n == 0 || n > total {
            return Err(SamplerError::StepCount { steps: n, max: total });
        }
        let span = total as f64;
        let timesteps: Vec<usize> = match self.spacing {
            TimestepSpacing::Leading => {
                (0..n).rev().map(|i| i * (total / n) + steps_offset).collect()
            }
            TimestepSpacing::Trailing => {
                // numpy.arange's own increment: the difference of its first two values.
                let increment = (span - self.train_timesteps() as f64 / n as f64) - span;
                // A schedule that begins late may come to its end before its last step.
                (0..n)
                    .map(|i| (span + i as f64 * increment).round_ties_even() as usize)
                    .take_while(|&after| after > 0)
                    .map(|after| after - 1)
                    .collect()
            }
            TimestepSpacing::Linspace if n == 1 => vec![0],
            TimestepSpacing::Linspace => {
                let increment = (span - 1.0) / (n - 1) as f64;
                (0..n).rev().map(|i| (i as f64 * increment).round_ties_even() as usize).collect()
            }
        };
        let max = self.train_timesteps() - 1;
        match timesteps.iter().find(|&&t| t > max) {
            Some(&t) => Err(SamplerError::TimestepRange { t: t as f64, max }),
            None => Ok(timesteps),
        }
    }

    /// The `n` timesteps of a model distilled at `origin` evenly spread ones, as the `set_timesteps` of diffusers'
    /// `scheduling_lcm.py` and `scheduling_tcd.py` choose them: of the origin's `T/origin·i − 1`, noisiest first, every
    /// `origin/n`-th. The config's spacing plays no part.
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] unless `1 <= n <= origin <= T`.
    pub(super) fn distilled_timesteps(
        &self,
        origin: usize,
        n: usize,
    ) -> Result<Vec<f64>, SamplerError> {
        let total = self.train_timesteps();
        if origin > total {
            return Err(SamplerError::StepCount { steps: origin, max: total });
        }
        if n == 0 || n > origin {
            return Err(SamplerError::StepCount { steps: n, max: origin });
        }
        let (stride, increment) = (total / origin, origin as f64 / n as f64);
        let step = |i: usize| (origin - (i as f64 * increment).floor() as usize) * stride - 1;
        Ok((0..n).map(|i| step(i) as f64).collect())
    }

    /// Turns the model's output at a step into the prediction that the step is taken with ([`Step::form`]), in place;
    /// `z` is the latent it looked at. All of this is linear and all regions share `z`, so it may be done on the fused
    /// canvas.
    ///
    /// # Errors
    /// [`SamplerError::Length`].
    pub fn convert(&self, step: &Step, z: &[f32], output: &mut [f32]) -> Result<(), SamplerError> {
        check_len("the model's output", z.len(), output.len())?;
        let (signal, spread) = in_f32(step.level);
        // prediction = from_output·output + from_z·z
        let (from_output, from_z) = match (self.prediction, step.form) {
            (PredictionType::Epsilon, _) | (PredictionType::Sample, PredictionForm::Clean) => {
                return Ok(());
            }
            (PredictionType::V, PredictionForm::Noise) => (signal, spread),
            (PredictionType::V, PredictionForm::Clean) => (-spread, signal),
            (PredictionType::Sample, PredictionForm::Noise) => (-signal / spread, 1.0 / spread),
            (PredictionType::Flow, PredictionForm::Noise) => (signal, 1.0),
            (PredictionType::Flow, PredictionForm::Clean) => (-spread, 1.0),
        };
        output.par_chunks_mut(PIECE).zip(z.par_chunks(PIECE)).for_each(|(output, z)| {
            output.iter_mut().zip(z).for_each(|(o, z)| *o = from_output * *o + from_z * z);
        });
        Ok(())
    }
}

impl Betas {
    fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let betas = betas(config)?;
        let mut abar = cumulative_product(betas.iter().map(|beta| 1.0 - beta));
        if config.rescale_betas_zero_snr {
            abar = rescale_zero_snr(&abar);
        }
        // Without any signal no step leads back to a picture; a stretched schedule alone ends so.
        let last = abar.len() - 1;
        let ends = |t: usize| config.rescale_betas_zero_snr && t == last && t > 0;
        let is_sound = |(t, &abar): (usize, &f32)| abar > 0.0 || abar == 0.0 && ends(t);
        if let Some(t) = abar.iter().enumerate().position(|level| !is_sound(level)) {
            return Err(SamplerError::Betas {
                reason: format!("no signal is left at timestep {t}"),
            });
        }
        let final_level = if config.set_alpha_to_one { Level::CLEAN } else { level_of(abar[0]) };
        let zero_snr = config.rescale_betas_zero_snr;
        Ok(Self { abar, final_level, steps_offset: config.steps_offset, zero_snr })
    }

    fn solvers_abar(&self, index: usize) -> f32 {
        let is_last = index + 1 == self.abar.len();
        if self.zero_snr && is_last { SOLVERS_LAST_ABAR } else { self.abar[index] }
    }

    fn level_among(&self, t: f64, abar: impl Fn(usize) -> f32) -> Result<Level, SamplerError> {
        let max = self.abar.len() - 1;
        if !(0.0..=max as f64).contains(&t) {
            return Err(SamplerError::TimestepRange { t, max });
        }
        let (below, fraction) = (t.floor() as usize, t.fract());
        if fraction == 0.0 {
            return Ok(level_of(abar(below)));
        }
        let sigma = |index: usize| f64::from(sigma_of(abar(index)));
        let sigma = sigma(below) + fraction * (sigma(below + 1) - sigma(below));
        // The reference, too, keeps what it interpolates in f32.
        Ok(level_of((1.0 / (1.0 + sigma * sigma)) as f32))
    }
}

/// Diffuses: `z_t = signal·zL + spread·n`. The noise is handed over in `noise` and replaced by `z_t`, so a
/// band of rows needs no third buffer.
///
/// # Errors
/// [`SamplerError::Length`].
pub fn add_noise(level: Level, zl: &[f32], noise: &mut [f32]) -> Result<(), SamplerError> {
    check_len("the noise", zl.len(), noise.len())?;
    let (signal, spread) = in_f32(level);
    noise.par_chunks_mut(PIECE).zip(zl.par_chunks(PIECE)).for_each(|(n, zl)| {
        n.iter_mut().zip(zl).for_each(|(n, zl)| *n = signal * zl + spread * *n);
    });
    Ok(())
}

/// σ = spread/signal of a training's ᾱ.
fn sigma_of(abar: f32) -> f32 {
    ((1.0 - abar) / abar).sqrt()
}

/// The level of a training's ᾱ.
fn level_of(abar: f32) -> Level {
    Level::variance_preserving(f64::from(abar))
}

/// Signal and spread in the canvas's precision.
fn in_f32(level: Level) -> (f32, f32) {
    (level.signal as f32, level.spread as f32)
}

/// Largest β of the cosine schedule, whose last one would be 1.
const MAX_BETA: f64 = 0.999;

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>, SamplerError> {
    let n = config.num_train_timesteps;
    if n == 0 {
        return Err(SamplerError::Betas { reason: "num_train_timesteps is 0".into() });
    }
    let betas = match (&config.trained_betas, config.beta_schedule) {
        (Some(given), _) if given.len() != n => {
            let reason =
                format!("trained_betas has {} values, num_train_timesteps is {n}", given.len());
            return Err(SamplerError::Betas { reason });
        }
        (Some(given), _) => given.clone(),
        (None, BetaSchedule::Linear) => {
            linspace(config.beta_start as f32, config.beta_end as f32, n)
        }
        (None, BetaSchedule::ScaledLinear) => {
            let ends = (config.beta_start.sqrt() as f32, config.beta_end.sqrt() as f32);
            linspace(ends.0, ends.1, n).into_iter().map(|root| root * root).collect()
        }
        (None, BetaSchedule::SquaredCosine) => {
            // diffusers' `betas_for_alpha_bar`, in f64.
            let abar = |t: f64| ((t + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
            let at = |index: usize| abar(index as f64 / n as f64);
            (0..n).map(|i| (1.0 - at(i + 1) / at(i)).min(MAX_BETA) as f32).collect()
        }
    };
    // Written so that NaN (the root of a negative beta) fails too.
    match betas.iter().position(|&beta| !(beta > 0.0 && beta < 1.0)) {
        Some(t) => Err(SamplerError::Betas {
            reason: format!("beta is {} at timestep {t}, not inside 0 to 1", betas[t]),
        }),
        None => Ok(betas),
    }
}

/// `torch.linspace` in f32: each half is counted from its own end.
fn linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f32;
    (0..n)
        .map(|i| if i < n / 2 { start + step * i as f32 } else { end - step * (n - 1 - i) as f32 })
        .collect()
}

fn cumulative_product(alphas: impl Iterator<Item = f32>) -> Vec<f32> {
    alphas
        .scan(1.0f64, |product, alpha| {
            *product *= f64::from(alpha);
            Some(*product as f32)
        })
        .collect()
}

/// diffusers' `rescale_zero_terminal_snr`: √ᾱ is shifted and stretched so that the first stays and the last is 0.
fn rescale_zero_snr(abar: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = abar.iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scaled: Vec<f32> =
        roots.iter().map(|r| (r - last) * (first / (first - last))).map(|r| r * r).collect();
    // The reference goes back to betas and multiplies them up again; so do we, for the same rounding.
    let ratios = std::iter::once(scaled[0]).chain(scaled.windows(2).map(|pair| pair[1] / pair[0]));
    cumulative_product(ratios.map(|alpha| 1.0 - (1.0 - alpha)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> SchedulerConfig {
        let text = format!(r#"{{"_class_name": "DDIMScheduler", "clip_sample": false {extra}}}"#);
        SchedulerConfig::from_json(&text).unwrap()
    }

    #[test]
    fn models_of_another_noise_process_are_refused_whatever_sampler_is_chosen() {
        for text in [
            r#"{"_class_name": "EDMEulerScheduler", "sigma_max": 80.0}"#,
            r#"{"_class_name": "EDMDPMSolverMultistepScheduler"}"#,
            r#"{"_class_name": "FlowMatchLCMScheduler", "shift": 3.0}"#,
            r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true}"#,
            r#"{"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}"#,
            r#"{"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous",
                "prediction_type": "v_prediction"}"#,
        ] {
            let error = Schedule::new(&SchedulerConfig::from_json(text).unwrap()).unwrap_err();
            assert!(matches!(error, SamplerError::OtherProcess { .. }), "{text}");
        }
    }

    #[test]
    fn betas_that_make_no_schedule_are_refused() {
        for extra in [
            r#", "num_train_timesteps": 0"#,
            r#", "beta_start": -0.1, "beta_schedule": "scaled_linear""#,
            r#", "beta_end": 1.5"#,
            r#", "trained_betas": [0.1, 0.2]"#,
            r#", "beta_start": 0.9, "beta_end": 0.9"#,
            r#", "num_train_timesteps": 1, "rescale_betas_zero_snr": true"#,
        ] {
            assert!(
                matches!(Schedule::new(&config(extra)), Err(SamplerError::Betas { .. })),
                "{extra}"
            );
        }
        let given =
            Schedule::new(&config(r#", "trained_betas": [0.5, 0.5], "num_train_timesteps": 2"#))
                .unwrap();
        let levels = [0.0, 1.0].map(|t| given.level(t).unwrap());
        assert_eq!(levels, [0.5, 0.25].map(Level::variance_preserving));
    }

    #[test]
    fn step_counts_and_timesteps_out_of_range_are_refused() {
        let schedule = Schedule::new(&config(r#", "steps_offset": 1"#)).unwrap();
        assert!(matches!(
            schedule.timesteps(0),
            Err(SamplerError::StepCount { steps: 0, max: 1000 })
        ));
        assert!(matches!(schedule.timesteps(1001), Err(SamplerError::StepCount { .. })));
        assert!(matches!(
            schedule.timesteps(1000),
            Err(SamplerError::TimestepRange { max: 999, .. })
        ));
        for t in [-0.5, 999.5, 1000.0, f64::NAN] {
            assert!(matches!(schedule.level(t), Err(SamplerError::TimestepRange { .. })), "{t}");
        }
        for (origin, n) in [(50, 0), (50, 51), (0, 1), (1001, 1)] {
            let error = schedule.distilled_timesteps(origin, n);
            assert!(matches!(error, Err(SamplerError::StepCount { .. })), "{n} of {origin}");
        }
    }
}
