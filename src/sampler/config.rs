//! The `scheduler_config.json` of a diffusers folder.
//!
//! A setting that is missing has the default of the class that wrote the file: `EulerDiscreteScheduler` spreads
//! timesteps over linspace, `PNDMScheduler` ends at timestep 0's level, and only the schedulers that know of `clip_sample` clip.
//! (diffusers' own `DDIMScheduler.from_config` takes DDIM's, and clips the latents of a PNDM model.) Settings that
//! we do not know are passed over, as diffusers does: they belong to other schedulers' steps.

use std::str::FromStr;

use serde::Deserialize;

use super::error::SamplerError;
use super::flow_settings::{FlowSettings, SizeCurve, TimeShift};
use super::level::NoiseProcess;
use super::sigma_choice::SigmaChoice;
use crate::ranges;

/// Shape of β over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β evenly spaced.
    Linear,
    /// √β evenly spaced: that of Stable Diffusion and SDXL.
    ScaledLinear,
    /// ᾱ along a squared cosine (Nichol and Dhariwal 2021), β at most 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// The quantity that the denoiser puts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// The velocity `v = signal·ε − spread·x0` (Salimans and Ho 2022).
    #[serde(rename = "v_prediction")]
    V,
    /// The clean latent x0.
    Sample,
    /// The velocity of flow matching, `v = ε − x0`.
    #[serde(rename = "flow_prediction")]
    Flow,
}

/// Spacing of inference timesteps over the training timesteps ("Common Diffusion Noise Schedules and Sample
/// Steps are Flawed", table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// From the first timestep upwards: the last one is never used.
    Leading,
    /// From the last timestep downwards, as few-step models are trained.
    Trailing,
    /// Both ends included.
    Linspace,
}

impl FromStr for TimestepSpacing {
    type Err = SamplerError;

    fn from_str(name: &str) -> Result<Self, SamplerError> {
        let all = [Self::Leading, Self::Trailing, Self::Linspace];
        let known = || SamplerError::Name { known: all.map(Self::name).join(", ") };
        all.into_iter().find(|spacing| spacing.name() == name).ok_or_else(known)
    }
}

impl TimestepSpacing {
    /// The name that users type, configs hold and messages print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }
}

/// σ after the last step of the samplers that walk by σ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmas {
    /// 0: the clean latent.
    Zero,
    /// σ of timestep 0.
    SigmaMin,
}

/// A scheduler's settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "RawSchedulerConfig")]
pub struct SchedulerConfig {
    /// diffusers' class, such as `DDIMScheduler`.
    pub class_name: String,
    /// T, the number of timesteps in training.
    pub num_train_timesteps: usize,
    /// β of the first timestep.
    pub beta_start: f64,
    /// β of the last timestep.
    pub beta_end: f64,
    /// The way from one to the other.
    pub beta_schedule: BetaSchedule,
    /// All betas one by one, in place of the three above.
    pub trained_betas: Option<Vec<f32>>,
    /// Target of the model's prediction.
    pub prediction_type: PredictionType,
    /// The spread of timesteps.
    pub timestep_spacing: TimestepSpacing,
    /// Offset added to every timestep of leading spacing.
    pub steps_offset: usize,
    /// `true` if the last step leads to the clean latent, `false` if to the level of timestep 0.
    pub set_alpha_to_one: bool,
    /// Clipping of x̂0 to ±`clip_sample_range` (DDIM, LCM).
    pub clip_sample: bool,
    /// Bound of that clipping.
    pub clip_sample_range: f64,
    /// Clipping of x̂0 by a quantile of its magnitude, and division by it (DDIM, LCM, DPM-Solver++).
    pub thresholding: bool,
    /// Share of the values that lie below that quantile.
    pub dynamic_thresholding_ratio: f64,
    /// Largest bound of thresholding.
    pub sample_max_value: f64,
    /// Rescaling of the schedule so that its last timestep is pure noise.
    pub rescale_betas_zero_snr: bool,
    /// Number of evenly spread timesteps at which a consistency model was distilled (TCD, LCM).
    pub original_inference_steps: usize,
    /// Factor of the timestep in LCM's boundary condition.
    pub timestep_scaling: f64,
    /// Noise level at which Euler and DPM-Solver end.
    pub final_sigmas_type: FinalSigmas,
    /// Least σ of noise levels that are not the training's (Euler); the training's own where the file does not say.
    pub sigma_min: Option<f64>,
    /// Greatest σ, likewise.
    pub sigma_max: Option<f64>,
    /// Least `ln(signal/spread)` that DPM-Solver goes through.
    pub lambda_min_clipped: Option<f64>,
    /// Karras' noise levels in place of the training's (the solvers in σ); `None` where the file does not say.
    pub use_karras_sigmas: Option<bool>,
    /// Exponential noise levels, likewise.
    pub use_exponential_sigmas: Option<bool>,
    /// Noise levels of the beta distribution, likewise.
    pub use_beta_sigmas: Option<bool>,
    /// Noise levels of Lu et al., likewise.
    pub use_lu_lambdas: Option<bool>,
    /// Noise levels of flow matching, likewise.
    pub use_flow_sigmas: Option<bool>,
    /// The equation that DPM-Solver solves, and its form.
    pub algorithm_type: Option<String>,
    /// The rule of its second order.
    pub solver_type: Option<String>,
    /// Order of the solver.
    pub solver_order: Option<usize>,
    /// x̂0 in place of ε as the quantity that UniPC extrapolates.
    pub predict_x0: Option<bool>,
    /// Steps after which UniPC does not correct.
    pub disable_corrector: Option<Vec<usize>>,
    /// First order in the last step where there are few steps.
    pub lower_order_final: Option<bool>,
    /// First order in the last step in any case.
    pub euler_at_final: Option<bool>,
    /// Interpolation of σ between two timesteps (Euler).
    pub interpolation_type: Option<String>,
    /// Value that Euler passes to the denoiser: the timestep or log σ.
    pub timestep_type: Option<String>,
    /// What belongs to flow matching alone.
    pub flow: FlowSettings,
}

/// The file as it is.
#[derive(Deserialize)]
struct RawSchedulerConfig {
    #[serde(rename = "_class_name")]
    class_name: String,
    num_train_timesteps: Option<usize>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<BetaSchedule>,
    trained_betas: Option<Vec<f32>>,
    prediction_type: Option<PredictionType>,
    timestep_spacing: Option<TimestepSpacing>,
    steps_offset: Option<usize>,
    set_alpha_to_one: Option<bool>,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
    thresholding: Option<bool>,
    dynamic_thresholding_ratio: Option<f64>,
    sample_max_value: Option<f64>,
    rescale_betas_zero_snr: Option<bool>,
    original_inference_steps: Option<usize>,
    timestep_scaling: Option<f64>,
    final_sigmas_type: Option<FinalSigmas>,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    lambda_min_clipped: Option<f64>,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    use_lu_lambdas: Option<bool>,
    use_flow_sigmas: Option<bool>,
    algorithm_type: Option<String>,
    solver_type: Option<String>,
    solver_order: Option<usize>,
    predict_x0: Option<bool>,
    disable_corrector: Option<Vec<usize>>,
    lower_order_final: Option<bool>,
    euler_at_final: Option<bool>,
    interpolation_type: Option<String>,
    timestep_type: Option<String>,
    shift: Option<f64>,
    use_dynamic_shifting: Option<bool>,
    base_shift: Option<f64>,
    max_shift: Option<f64>,
    base_image_seq_len: Option<usize>,
    max_image_seq_len: Option<usize>,
    time_shift_type: Option<TimeShift>,
    shift_terminal: Option<f64>,
    invert_sigmas: Option<bool>,
    stochastic_sampling: Option<bool>,
}

impl RawSchedulerConfig {
    /// Those of flow matching; each class of it has the same defaults.
    fn flow(&self) -> FlowSettings {
        FlowSettings {
            shift: self.shift.unwrap_or(1.0),
            use_dynamic_shifting: self.use_dynamic_shifting.unwrap_or(false),
            base_shift: self.base_shift.unwrap_or(0.5),
            max_shift: self.max_shift.unwrap_or(1.15),
            base_image_seq_len: self.base_image_seq_len.unwrap_or(256),
            max_image_seq_len: self.max_image_seq_len.unwrap_or(4096),
            size_curve: SizeCurve::Line,
            time_shift_type: self.time_shift_type.unwrap_or(TimeShift::Exponential),
            shift_terminal: self.shift_terminal,
            invert_sigmas: self.invert_sigmas.unwrap_or(false),
            stochastic_sampling: self.stochastic_sampling.unwrap_or(false),
            whole_range: false,
        }
    }
}

impl From<RawSchedulerConfig> for SchedulerConfig {
    fn from(written: RawSchedulerConfig) -> Self {
        let class = written.class_name.as_str();
        // The arguments of each class's `__init__` in diffusers 0.42 (`src/diffusers/schedulers`).
        let (beta_start, beta_end) = match class {
            "TCDScheduler"
            | "LCMScheduler"
            | "HeunDiscreteScheduler"
            | "KDPM2DiscreteScheduler"
            | "KDPM2AncestralDiscreteScheduler"
            | "DPMSolverSDEScheduler" => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        let beta_schedule = match class {
            "TCDScheduler" | "LCMScheduler" => BetaSchedule::ScaledLinear,
            _ => BetaSchedule::Linear,
        };
        let timestep_spacing = match class {
            "DDIMScheduler" | "DDPMScheduler" | "PNDMScheduler" | "TCDScheduler"
            | "LCMScheduler" => TimestepSpacing::Leading,
            _ => TimestepSpacing::Linspace,
        };
        let clip_sample = matches!(class, "DDIMScheduler" | "DDPMScheduler");
        let prediction_type = if is_flow(class) {
            PredictionType::Flow
        } else {
            written.prediction_type.unwrap_or(PredictionType::Epsilon)
        };
        Self {
            flow: written.flow(),
            num_train_timesteps: written.num_train_timesteps.unwrap_or(1000),
            beta_start: written.beta_start.unwrap_or(beta_start),
            beta_end: written.beta_end.unwrap_or(beta_end),
            beta_schedule: written.beta_schedule.unwrap_or(beta_schedule),
            trained_betas: written.trained_betas,
            prediction_type,
            timestep_spacing: written.timestep_spacing.unwrap_or(timestep_spacing),
            steps_offset: written.steps_offset.unwrap_or(0),
            set_alpha_to_one: written.set_alpha_to_one.unwrap_or(class != "PNDMScheduler"),
            clip_sample: written.clip_sample.unwrap_or(clip_sample),
            clip_sample_range: written.clip_sample_range.unwrap_or(1.0),
            thresholding: written.thresholding.unwrap_or(false),
            dynamic_thresholding_ratio: written.dynamic_thresholding_ratio.unwrap_or(0.995),
            sample_max_value: written.sample_max_value.unwrap_or(1.0),
            rescale_betas_zero_snr: written.rescale_betas_zero_snr.unwrap_or(false),
            original_inference_steps: written.original_inference_steps.unwrap_or(50),
            timestep_scaling: written.timestep_scaling.unwrap_or(10.0),
            final_sigmas_type: written.final_sigmas_type.unwrap_or(FinalSigmas::Zero),
            sigma_min: written.sigma_min,
            sigma_max: written.sigma_max,
            lambda_min_clipped: written.lambda_min_clipped,
            use_karras_sigmas: written.use_karras_sigmas,
            use_exponential_sigmas: written.use_exponential_sigmas,
            use_beta_sigmas: written.use_beta_sigmas,
            use_lu_lambdas: written.use_lu_lambdas,
            use_flow_sigmas: written.use_flow_sigmas,
            algorithm_type: written.algorithm_type,
            solver_type: written.solver_type,
            solver_order: written.solver_order,
            predict_x0: written.predict_x0,
            disable_corrector: written.disable_corrector,
            lower_order_final: written.lower_order_final,
            euler_at_final: written.euler_at_final,
            interpolation_type: written.interpolation_type,
            timestep_type: written.timestep_type,
            class_name: written.class_name,
        }
    }
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`SamplerError::Config`] with the values that would do, or [`SamplerError::Range`].
    pub fn from_json(text: &str) -> Result<Self, SamplerError> {
        let file: serde_json::Value = serde_json::from_str(text)?;
        ranges::check(&file)?;
        Ok(serde_json::from_value(file)?)
    }

    /// The config as diffusers' pipelines of Stable Diffusion 1 and 2 take it: they neither clip latents nor begin
    /// leading timesteps at 0, whatever the file says (`StableDiffusionPipeline.__init__`).
    #[must_use]
    pub fn of_stable_diffusion(self) -> Self {
        Self { clip_sample: false, steps_offset: 1, ..self }
    }

    /// The config as diffusers' pipelines of newer flow-matching models take it: they hand the scheduler sigmas that divide
    /// the whole range evenly (`get_default_z_image_sigmas`).
    #[must_use]
    pub fn of_even_sigmas(self) -> Self {
        Self { flow: FlowSettings { whole_range: true, ..self.flow }, ..self }
    }

    /// The config as diffusers' pipelines of models take it whose shift by the picture's size was measured: with even sigmas
    /// and a shift that follows from the number of steps as well (`compute_empirical_mu`).
    #[must_use]
    pub fn of_measured_shift(self) -> Self {
        let even = self.of_even_sigmas();
        Self { flow: FlowSettings { size_curve: SizeCurve::Measured, ..even.flow }, ..even }
    }

    /// The config with these noise levels in the place of those that it asks for.
    #[must_use]
    pub fn with_sigmas(self, choice: SigmaChoice) -> Self {
        let is = |wanted| Some(choice == wanted);
        Self {
            use_karras_sigmas: is(SigmaChoice::Karras),
            use_exponential_sigmas: is(SigmaChoice::Exponential),
            use_beta_sigmas: is(SigmaChoice::Beta),
            use_lu_lambdas: Some(false),
            ..self
        }
    }

    /// The noise process of the model's training: betas, at timesteps that index them, or flow matching. Models of EDM
    /// and the like have neither; their schedulers show it by their class, or by passing log σ to the model.
    ///
    /// # Errors
    /// [`SamplerError::OtherProcess`].
    pub fn process(&self) -> Result<NoiseProcess, SamplerError> {
        const OTHERS: [&str; 5] = ["EDM", "CosineDPM", "CMStochastic", "ScoreSde", "SCM"];
        let class = self.class_name.as_str();
        let refuse = |kind| Err(SamplerError::OtherProcess { class: class.to_owned(), kind });
        let continuous = self.timestep_type.as_deref() == Some("continuous")
            && self.prediction_type == PredictionType::V;
        if continuous || OTHERS.iter().any(|other| class.starts_with(other)) {
            return refuse("EDM, consistency or score matching");
        }
        if is_flow(class) {
            return Ok(NoiseProcess::FlowMatching);
        }
        if class.starts_with("FlowMatch") {
            return refuse("a distilled flow");
        }
        if self.use_flow_sigmas == Some(true) || self.prediction_type == PredictionType::Flow {
            return refuse("flow matching with a solver of betas");
        }
        Ok(NoiseProcess::VariancePreserving)
    }
}

/// `true` for the classes that walk through the plain levels of flow matching, whose models always predict the velocity.
fn is_flow(class: &str) -> bool {
    ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"].contains(&class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{SamplerChoice, SamplerKind};

    #[test]
    fn the_stock_config_of_sdxl_is_read_and_leads_to_euler() {
        let text = r#"{"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0",
            "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false,
            "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        assert_eq!((config.beta_schedule, config.steps_offset), (BetaSchedule::ScaledLinear, 1));
        let SamplerChoice { kind, note } = config.sampler().unwrap();
        assert_eq!((kind, note), (SamplerKind::Euler, None));
        assert!(kind.build(&config, None).is_ok());
    }

    #[test]
    fn the_stock_config_of_sd_1_5_is_not_clipped_and_ends_where_pndm_does() {
        let text = r#"{"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "num_train_timesteps": 1000, "skip_prk_steps": true, "steps_offset": 1,
            "trained_betas": null}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        assert!(!config.clip_sample && !config.set_alpha_to_one);
        assert_eq!(config.timestep_spacing, TimestepSpacing::Leading);
        assert_eq!(config.sampler().unwrap().kind, SamplerKind::Ddim);
    }

    #[test]
    fn numbers_of_many_digits_are_the_nearest_f64() {
        for text in ["0.092030920993190389", "0.097541038898074246", "0.024732489209496226"] {
            let config = format!(r#"{{"_class_name": "DDIMScheduler", "beta_end": {text}}}"#);
            let config = SchedulerConfig::from_json(&config).unwrap();
            assert_eq!(config.beta_end.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn the_pipelines_of_stable_diffusion_neither_clip_nor_begin_at_0() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        assert_eq!((config.clip_sample, config.steps_offset), (true, 0));
        let config = config.of_stable_diffusion();
        assert_eq!((config.clip_sample, config.steps_offset), (false, 1));
    }

    #[test]
    fn unknown_words_are_answered_with_the_words_that_would_do_and_numbers_with_their_range() {
        let text = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}"#;
        let error = SchedulerConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains("`sigmoid`") && error.contains("`scaled_linear`"), "{error}");
        for (timesteps, reason) in
            [(1_u64 << 31, "2147483648"), (1_u64 << 62, "4611686018427387904")]
        {
            let text = format!(
                r#"{{"_class_name": "DDIMScheduler", "num_train_timesteps": {timesteps}}}"#
            );
            let error = SchedulerConfig::from_json(&text).unwrap_err().to_string();
            let expected = format!("`num_train_timesteps` is {reason}, not from 0 to 100000");
            assert!(error.ends_with(&expected), "{error}");
        }
        let error = SchedulerConfig::from_json("{}").unwrap_err().to_string();
        assert!(error.contains("_class_name"), "{error}");
    }

    #[test]
    fn the_stock_config_of_a_transformer_leads_to_dpm_solver_with_nothing_left_out() {
        let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.22.0.dev0",
            "algorithm_type": "dpmsolver++", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
            "dynamic_thresholding_ratio": 0.995, "euler_at_final": false, "lambda_min_clipped": null,
            "lower_order_final": true, "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "sample_max_value": 1.0, "solver_order": 2, "solver_type": "midpoint", "steps_offset": 0,
            "thresholding": false, "timestep_spacing": "linspace", "trained_betas": null,
            "use_karras_sigmas": false, "use_lu_lambdas": false, "variance_type": null}"#;
        let choice = SchedulerConfig::from_json(text).unwrap().sampler().unwrap();
        assert_eq!(choice, SamplerChoice { kind: SamplerKind::Dpmpp2m, note: None });
    }

    #[test]
    fn the_stock_config_of_stable_diffusion_3_is_one_of_flow_matching() {
        let text = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler",
            "_diffusers_version": "0.29.0.dev0", "num_train_timesteps": 1000, "shift": 3.0}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        assert_eq!((config.flow.shift, config.prediction_type), (3.0, PredictionType::Flow));
        assert_eq!(config.process().unwrap(), NoiseProcess::FlowMatching);
        let choice = config.sampler().unwrap();
        assert_eq!(choice, SamplerChoice { kind: SamplerKind::FlowEuler, note: None });
    }
}
