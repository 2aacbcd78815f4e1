//! The `scheduler_config.json` of a diffusers folder.
//!
//! A setting that is missing has the default of diffusers' `DDIMScheduler`, whatever class wrote the file, as
//! `DDIMScheduler.from_config` does it. Settings that we do not know are passed over, as diffusers does: they
//! belong to other schedulers' steps.

use serde::Deserialize;

use super::{SamplerError, SamplerKind};

/// Shape of β over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β evenly spaced.
    Linear,
    /// √β evenly spaced: that of Stable Diffusion and SDXL.
    ScaledLinear,
}

/// What the UNet's output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// The velocity `v = √ā·ε − √(1−ā)·x0` (Salimans and Ho 2022).
    #[serde(rename = "v_prediction")]
    V,
    /// The clean latent x0.
    Sample,
}

/// How inference timesteps are spread over the training timesteps ("Common Diffusion Noise Schedules and Sample
/// Steps are Flawed", table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// From the first timestep upwards: the last one is never used.
    Leading,
    /// From the last timestep downwards: what few-step models are trained for.
    Trailing,
    /// Both ends included.
    Linspace,
}

/// A scheduler's settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SchedulerConfig {
    /// diffusers' class, such as `DDIMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// T, the number of timesteps in training.
    #[serde(default = "default_timesteps")]
    pub num_train_timesteps: usize,
    /// β of the first timestep.
    #[serde(default = "default_beta_start")]
    pub beta_start: f64,
    /// β of the last timestep.
    #[serde(default = "default_beta_end")]
    pub beta_end: f64,
    /// The way from one to the other.
    #[serde(default = "default_beta_schedule")]
    pub beta_schedule: BetaSchedule,
    /// All betas one by one, in place of the three above.
    #[serde(default)]
    pub trained_betas: Option<Vec<f32>>,
    /// What the model predicts.
    #[serde(default = "default_prediction_type")]
    pub prediction_type: PredictionType,
    /// The spread of timesteps.
    #[serde(default = "default_timestep_spacing")]
    pub timestep_spacing: TimestepSpacing,
    /// Added to every timestep of leading spacing.
    #[serde(default)]
    pub steps_offset: usize,
    /// Whether ᾱ after the last step is 1, or else ᾱ₀.
    #[serde(default = "default_true")]
    pub set_alpha_to_one: bool,
    /// Whether x̂0 is clipped: for models of pixels, not of latents.
    #[serde(default = "default_true")]
    pub clip_sample: bool,
    /// Whether x̂0 is clipped by its quantiles: likewise.
    #[serde(default)]
    pub thresholding: bool,
    /// Whether the schedule is stretched so that its last timestep is pure noise.
    #[serde(default)]
    pub rescale_betas_zero_snr: bool,
}

fn default_timesteps() -> usize {
    1000
}
fn default_beta_start() -> f64 {
    0.0001
}
fn default_beta_end() -> f64 {
    0.02
}
fn default_beta_schedule() -> BetaSchedule {
    BetaSchedule::Linear
}
fn default_prediction_type() -> PredictionType {
    PredictionType::Epsilon
}
fn default_timestep_spacing() -> TimestepSpacing {
    TimestepSpacing::Leading
}
fn default_true() -> bool {
    true
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`SamplerError::Config`] with the place and the values that would do.
    pub fn from_json(text: &str) -> Result<Self, SamplerError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The sampler that the config names. A caller whose user chose a sampler need not ask: the schedule of
    /// betas is the same for all.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedScheduler`].
    pub fn sampler(&self) -> Result<SamplerKind, SamplerError> {
        SamplerKind::from_class_name(&self.class_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_settings_have_the_defaults_of_diffusers_ddim() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        assert_eq!(
            (config.beta_start, config.beta_end, config.num_train_timesteps),
            (0.0001, 0.02, 1000)
        );
        assert_eq!(config.beta_schedule, BetaSchedule::Linear);
        assert_eq!(config.timestep_spacing, TimestepSpacing::Leading);
        assert_eq!(config.prediction_type, PredictionType::Epsilon);
        assert!(config.clip_sample && config.set_alpha_to_one && !config.rescale_betas_zero_snr);
        assert_eq!(config.sampler().unwrap(), SamplerKind::Ddim);
    }

    #[test]
    fn the_config_of_sdxl_is_read_and_its_euler_class_is_refused_by_name() {
        let text = r#"{"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0",
            "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false,
            "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        assert_eq!((config.beta_schedule, config.steps_offset), (BetaSchedule::ScaledLinear, 1));
        let error = config.sampler().unwrap_err().to_string();
        assert!(error.contains("\"EulerDiscreteScheduler\" is not supported"), "{error}");
    }

    #[test]
    fn unknown_words_are_answered_with_the_words_that_would_do() {
        let text = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}"#;
        let error = SchedulerConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains("`sigmoid`") && error.contains("`scaled_linear`"), "{error}");
        let error = SchedulerConfig::from_json("{}").unwrap_err().to_string();
        assert!(error.contains("_class_name"), "{error}");
    }
}
