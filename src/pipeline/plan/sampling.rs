//! Sampling of a job, resolved from the user's settings, then the model's defaults, then the program's defaults.

use crate::sampler::{
    self, Denoise, SamplerChoice, SamplerKind, Schedule, SchedulerConfig, SigmaChoice, Step,
    TimestepSpacing, Timesteps, Update,
};

use crate::pipeline::{
    error::Error,
    model_defaults::ModelDefaults,
    settings::{Defaults, Settings},
};

/// Sampler, steps and guidance of a job, resolved.
#[derive(Clone, Debug)]
pub struct SamplingPlan {
    /// Sampler.
    pub sampler: SamplerKind,
    /// The share of fresh noise, for a sampler that has one.
    pub eta: Option<f64>,
    /// Spacing of the timesteps, if it has an effect.
    pub spacing: Option<TimestepSpacing>,
    /// Noise levels that the user or the model's maker chose; `None` for those of the scheduler config.
    pub sigmas: Option<SigmaChoice>,
    /// The whole schedule.
    pub timesteps: Timesteps,
    /// Steps of the whole schedule, N.
    pub schedule_steps: usize,
    /// Steps of the schedule that run.
    pub steps_run: usize,
    /// One for each prediction of the denoiser, first (noisiest) to last: the steps that run, some of which are two
    /// predictions where the sampler takes two for a step.
    pub steps: Vec<Step>,
    /// Canvas update of each step.
    pub updates: Vec<Update>,
    /// Standard deviation of the noise that a picture made from noise alone begins with.
    pub initial_noise: f64,
    /// The strength of classifier-free guidance, above 1; `None` without.
    pub guidance: Option<f64>,
    /// The strength of guidance that the model is given, instead of that; `None` for all others.
    pub embedded_guidance: Option<f64>,
    /// Notes for the user: a substituted sampler, a choice without effect.
    pub notes: Vec<String>,
}

impl SamplingPlan {
    /// Resolves the settings for a model with this scheduler config, its schedule, and its maker's defaults.
    ///
    /// # Errors
    /// An invalid choice, a scheduler class without counterpart if no sampler is chosen, or a first step at
    /// pure noise ([`SamplerError::NoSignal`](sampler::SamplerError::NoSignal)).
    pub fn resolve(
        config: &SchedulerConfig,
        schedule: &Schedule,
        model: &ModelDefaults,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let SamplerChoice { kind, note } = match settings.sampler.or(model.sampler) {
            Some(kind) => SamplerChoice { kind, note: None },
            None => config.sampler()?,
        };
        let mut notes = Vec::from_iter(note);

        let models_own = settings.sampler.is_none_or(|chosen| Some(chosen) == model.sampler);
        let eta = settings.eta.or(model.eta.filter(|_| models_own));
        let of_model = model.sigmas.filter(|_| kind.has_sigmas());
        let sigmas = settings.sigmas.or(of_model);
        if let Some(choice) = sigmas {
            kind.check_sigmas(choice)?;
        }
        let config = &sigmas.map_or_else(|| config.clone(), |it| config.clone().with_sigmas(it));
        let sampler = kind.build(config, eta)?;

        let timesteps = timesteps(model, settings);
        let spacing = settings.spacing.or(model.spacing).unwrap_or(schedule.spacing());
        let spacing_counts = kind.has_spacing() && matches!(timesteps, Timesteps::Count(_));
        if settings.spacing.is_some() && !spacing_counts {
            notes.push(match timesteps {
                Timesteps::List(_) => "the spacing has no effect on a list of timesteps".to_owned(),
                Timesteps::Count(_) => format!("the spacing has no effect on {kind}"),
            });
        }
        let schedule = schedule.clone().with_spacing(spacing);
        let schedule = match sigmas {
            Some(choice) => schedule.with_sigmas(choice),
            None => schedule,
        };
        let schedule_steps = timesteps.count();
        let denoise = denoise(model, settings, schedule_steps);
        let steps = match denoise {
            Denoise::Steps(0) => Vec::new(),
            denoise => sampler::plan(&*sampler, &schedule, &timesteps, denoise)?,
        };
        let updates = sampler::updates(&*sampler, &schedule, &steps)?;

        let initial_noise =
            steps.first().map_or(1.0, |first| sampler.initial_noise(&schedule, first));

        let guidance = settings.guidance.or(model.guidance).unwrap_or(Defaults::GUIDANCE);
        let guidance = (guidance > 1.0).then_some(guidance);
        if guidance.is_none() && !settings.negative_prompt.is_empty() {
            notes.push("the negative prompt has no effect without guidance above 1".to_owned());
        }
        Ok(Self {
            sampler: kind,
            eta: eta.or(kind.default_eta()),
            spacing: spacing_counts.then_some(spacing),
            sigmas,
            timesteps,
            schedule_steps,
            steps_run: steps.len().div_ceil(sampler.predictions()),
            steps,
            updates,
            initial_noise,
            guidance,
            embedded_guidance: None,
            notes,
        })
    }

    /// The same plan for a model that is given the strength of guidance: one prediction of it is what two of another are.
    #[must_use]
    pub fn with_embedded_guidance(self, model: &ModelDefaults, settings: &Settings) -> Self {
        let mut notes = self.notes;
        if !settings.negative_prompt.is_empty() && self.guidance.is_some() {
            let note = "the negative prompt has no effect on a model that is given its guidance";
            notes.push(note.to_owned());
        }
        let strength = settings.guidance.or(model.guidance).unwrap_or(Defaults::GUIDANCE);
        Self { guidance: None, embedded_guidance: Some(strength.max(1.0)), notes, ..self }
    }

    /// The strength of guidance, whichever way it is applied; 1 is none.
    #[must_use]
    pub fn strength(&self) -> f64 {
        self.guidance.or(self.embedded_guidance).unwrap_or(Defaults::GUIDANCE)
    }
}

impl SamplingPlan {
    /// Canvases of history that a run keeps on the disk: 0 for a one-step sampler, else one for each value that a step
    /// reads and one for the value that it writes, so that an interrupted step can be repeated.
    #[must_use]
    pub fn history(&self) -> usize {
        match self.updates.iter().map(|update| update.history.len()).max() {
            None | Some(0) => 0,
            Some(earlier) => earlier + 1,
        }
    }
}

/// The whole schedule. The user's number of steps takes precedence over the model's list.
fn timesteps(model: &ModelDefaults, settings: &Settings) -> Timesteps {
    match (&settings.timesteps, settings.steps, &model.timesteps) {
        (Some(list), _, _) | (None, None, Some(list)) => Timesteps::List(list.clone()),
        (None, steps, _) => {
            Timesteps::Count(steps.or(model.steps).unwrap_or(Defaults::STEPS as usize))
        }
    }
}

/// Part of a schedule of `n` steps that runs. A model's count refers to its own number of steps; for another number
/// its share is kept.
fn denoise(model: &ModelDefaults, settings: &Settings, n: usize) -> Denoise {
    let models = || {
        let own = model.timesteps.as_ref().map_or(model.steps, |list| Some(list.len()));
        match (model.denoise, own.unwrap_or(Defaults::STEPS as usize)) {
            (Some(Denoise::Steps(run)), own) if own != n => {
                Some(Denoise::Strength((run as f64 / own as f64).min(1.0)))
            }
            (denoise, _) => denoise,
        }
    };
    settings.denoise.or_else(models).unwrap_or(Denoise::Strength(Defaults::STRENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{NoiseProcess, SamplerError};

    fn resolve(config: &str, model: &str, settings: &Settings) -> Result<SamplingPlan, Error> {
        let config = SchedulerConfig::from_json(config).unwrap();
        let schedule = Schedule::new(&config).unwrap();
        SamplingPlan::resolve(&config, &schedule, &serde_json::from_str(model).unwrap(), settings)
    }

    fn timesteps_run(sampling: &SamplingPlan) -> Vec<f64> {
        sampling.steps.iter().map(|step| step.t).collect()
    }

    const DDIM: &str = r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#;
    const EULER: &str = r#"{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading",
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}"#;
    /// Hyper-SDXL's unified LoRA as a manifest has it.
    const TCD: &str = r#"{"sampler": "tcd", "eta": 0.5, "steps": 8, "denoise_steps": 3, "guidance": 0,
        "name": "not ours"}"#;

    #[test]
    fn where_nobody_says_anything_the_scheduler_config_and_the_defaults_hold() {
        let plain = resolve(EULER, "{}", &Settings::default()).unwrap();
        assert_eq!((plain.sampler, plain.eta, plain.guidance), (SamplerKind::Euler, None, None));
        assert_eq!(plain.spacing, Some(TimestepSpacing::Leading));
        assert_eq!(timesteps_run(&plain), [376.0, 251.0, 126.0, 1.0]);
        assert_eq!(plain.notes, [""; 0]);
        let ddim = resolve(DDIM, "{}", &Settings::default()).unwrap();
        assert_eq!((ddim.sampler, ddim.eta), (SamplerKind::Ddim, Some(0.0)));
        assert!(ddim.updates.iter().all(|update| !update.needs_noise()));
    }

    #[test]
    fn the_models_values_go_before_the_defaults_and_the_users_before_both() {
        let model = resolve(EULER, TCD, &Settings::default()).unwrap();
        assert_eq!((model.sampler, model.eta), (SamplerKind::Tcd, Some(0.5)));
        assert_eq!((model.schedule_steps, model.spacing), (8, None));
        assert_eq!(timesteps_run(&model), [379.0, 259.0, 139.0]);

        let user = Settings {
            sampler: Some(SamplerKind::Ddim),
            spacing: Some(TimestepSpacing::Trailing),
            steps: Some(50),
            denoise: Some(Denoise::Steps(22)),
            guidance: Some(5.0),
            ..Settings::default()
        };
        let user = resolve(EULER, TCD, &user).unwrap();
        // The eta was meant for TCD.
        assert_eq!((user.sampler, user.eta), (SamplerKind::Ddim, Some(0.0)));
        assert_eq!((user.schedule_steps, user.steps.len(), user.guidance), (50, 22, Some(5.0)));
        assert_eq!(user.steps[0].t, 439.0);
    }

    #[test]
    fn a_model_of_flow_matching_begins_at_its_share_of_the_steps_and_takes_its_own_sampler_alone() {
        let flow = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#;
        let settings = Settings { steps: Some(28), ..Settings::default() };
        let plan = resolve(flow, "{}", &settings).unwrap();
        assert_eq!(
            (plan.sampler, plan.spacing, plan.steps.len()),
            (SamplerKind::FlowEuler, None, 13)
        );
        // diffusers' `StableDiffusion3Img2ImgPipeline` at the same strength.
        assert!((plan.steps[0].t - 707.2785).abs() < 1e-3, "{}", plan.steps[0].t);
        let all = Settings { denoise: Some(Denoise::Strength(1.0)), ..settings.clone() };
        assert_eq!(resolve(flow, "{}", &all).unwrap().steps[0].t, 1000.0);
        let other = Settings { sampler: Some(SamplerKind::Euler), ..settings };
        let error = resolve(flow, "{}", &other).unwrap_err();
        assert!(matches!(error, Error::Sampler(SamplerError::WrongProcess { .. })), "{error}");
    }

    #[test]
    fn a_step_of_two_predictions_is_one_of_the_steps_that_run() {
        for sampler in [SamplerKind::Heun, SamplerKind::DpmppSde] {
            let settings = Settings { sampler: Some(sampler), ..Settings::default() };
            let plan = resolve(EULER, "{}", &settings).unwrap();
            assert_eq!((plan.schedule_steps, plan.steps_run, plan.steps.len()), (8, 4, 7));
            assert_eq!((plan.steps[0].t, plan.steps[6].t), (376.0, 1.0));
            assert_eq!(plan.history(), 2);
        }
        let unipc = Settings { sampler: Some(SamplerKind::UniPc), ..Settings::default() };
        let plan = resolve(EULER, "{}", &unipc).unwrap();
        assert_eq!((plan.steps_run, plan.steps.len(), plan.history()), (4, 4, 3));
    }

    #[test]
    fn noise_levels_are_the_users_then_the_makers_then_those_of_the_config() {
        let karras = EULER.replace("steps_offset", r#"use_karras_sigmas": true, "steps_offset"#);
        let levels = |config: &str, model: &str, sigmas: Option<SigmaChoice>| {
            let plan = resolve(config, model, &Settings { sigmas, ..Settings::default() }).unwrap();
            (plan.sigmas, plan.steps.iter().map(|step| step.level).collect::<Vec<_>>())
        };
        let (simple, beta) = (Some(SigmaChoice::Simple), Some(SigmaChoice::Beta));
        let (none, of_training) = levels(EULER, "{}", None);
        let (_, of_karras) = levels(&karras, "{}", None);
        assert_eq!(none, None);
        assert_ne!(of_training, of_karras);
        let chosen = Some(SigmaChoice::Karras);
        assert_eq!(levels(EULER, "{}", chosen), (chosen, of_karras.clone()));
        assert_eq!(levels(&karras, "{}", simple), (simple, of_training.clone()));
        let own = r#"{"sigmas": "beta"}"#;
        let (said, of_beta) = levels(EULER, own, None);
        assert_eq!(said, beta);
        assert!(of_beta != of_training && of_beta != of_karras);
        assert_eq!(levels(EULER, own, chosen).1, of_karras);
        // What the maker chose for a sampler that the user does not take is left out; what the user chose is refused.
        let ddim = Settings { sampler: Some(SamplerKind::Ddim), ..Settings::default() };
        assert_eq!(resolve(EULER, own, &ddim).unwrap().sigmas, None);
        let error = resolve(EULER, "{}", &Settings { sigmas: beta, ..ddim }).unwrap_err();
        assert!(matches!(error, Error::Sampler(SamplerError::SigmasUnused { .. })), "{error}");
        let flow = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#;
        let said = flow.replace("3.0", r#"3.0, "use_beta_sigmas": true"#);
        assert_eq!(levels(flow, "{}", beta).1, levels(&said, "{}", None).1);
        assert_ne!(levels(flow, "{}", beta).1, levels(flow, "{}", None).1);
    }

    #[test]
    fn a_models_count_of_steps_stays_a_share_of_another_schedule() {
        let settings = Settings { steps: Some(16), ..Settings::default() };
        assert_eq!(resolve(EULER, TCD, &settings).unwrap().steps.len(), 6);
        let settings = Settings { steps: Some(1), ..Settings::default() };
        assert_eq!(resolve(EULER, TCD, &settings).unwrap().steps.len(), 1);
    }

    #[test]
    fn a_list_of_timesteps_is_the_schedule_unless_the_user_counts_steps() {
        let one_step = r#"{"sampler": "lcm", "timesteps": [800]}"#;
        let own = resolve(EULER, one_step, &Settings::default()).unwrap();
        assert_eq!((timesteps_run(&own), own.steps[0].last), (vec![800.0], true));
        assert!(!own.updates[0].needs_noise());
        let counted = Settings { steps: Some(2), ..Settings::default() };
        assert_eq!(timesteps_run(&resolve(EULER, one_step, &counted).unwrap()), [499.0]);
        let listed = Settings { timesteps: Some(vec![700, 300]), ..Settings::default() };
        assert_eq!(timesteps_run(&resolve(EULER, one_step, &listed).unwrap()), [300.0]);
    }

    #[test]
    fn a_model_that_is_given_its_guidance_has_no_second_prediction() {
        let own = r#"{"sampler": "lcm", "steps": 4, "guidance": 8}"#;
        let defaults = serde_json::from_str(own).unwrap();
        let given = |settings: &Settings| {
            let plan = resolve(EULER, own, settings).unwrap();
            plan.with_embedded_guidance(&defaults, settings)
        };
        let plan = given(&Settings::default());
        assert_eq!(
            (plan.guidance, plan.embedded_guidance, plan.strength()),
            (None, Some(8.0), 8.0)
        );
        let plan = given(&Settings { guidance: Some(0.0), ..Settings::default() });
        assert_eq!((plan.guidance, plan.embedded_guidance), (None, Some(1.0)));
        let negative = Settings { negative_prompt: "blurry".to_owned(), ..Settings::default() };
        let plan = given(&negative);
        assert!(plan.notes[0].contains("given its guidance"), "{:?}", plan.notes);
        assert_eq!(resolve(EULER, own, &Settings::default()).unwrap().strength(), 8.0);
    }

    #[test]
    fn stand_ins_and_choices_without_effect_are_noted() {
        let pndm = r#"{"_class_name": "PNDMScheduler"}"#;
        let stand_in = resolve(pndm, "{}", &Settings::default()).unwrap();
        assert_eq!(stand_in.notes, ["the model asks for PNDMScheduler; running ddim instead"]);
        let chosen = Settings { sampler: Some(SamplerKind::Ddim), ..Settings::default() };
        assert!(resolve(pndm, "{}", &chosen).unwrap().notes.is_empty());
        let idle = Settings {
            sampler: Some(SamplerKind::Lcm),
            spacing: Some(TimestepSpacing::Trailing),
            negative_prompt: "blurry".to_owned(),
            ..Settings::default()
        };
        let notes = resolve(DDIM, "{}", &idle).unwrap().notes;
        assert!(
            notes[0].contains("the spacing") && notes[1].contains("without guidance"),
            "{notes:?}"
        );
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_runs() {
        let zero_snr = r#"{"_class_name": "DDIMScheduler", "clip_sample": false, "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": true}"#;
        let velocity = zero_snr.replace("true}", r#"true, "prediction_type": "v_prediction"}"#);
        let all = Settings { denoise: Some(Denoise::Strength(1.0)), ..Settings::default() };
        let process = NoiseProcess::VariancePreserving;
        for sampler in SamplerKind::ALL.into_iter().filter(|kind| kind.process() == process) {
            let settings = Settings { sampler: Some(sampler), ..all.clone() };
            assert!(resolve(&velocity, "{}", &settings).is_ok(), "{sampler}");
            // The solvers in σ keep a little signal there.
            let others = [SamplerKind::Ddim, SamplerKind::Tcd, SamplerKind::Lcm];
            if !others.contains(&sampler) {
                assert!(resolve(zero_snr, "{}", &settings).is_ok(), "{sampler}");
                continue;
            }
            let error = resolve(zero_snr, "{}", &settings).unwrap_err();
            assert!(
                matches!(&error, Error::Sampler(SamplerError::NoSignal { t }) if *t == 999.0),
                "{sampler}: {error}"
            );
            let settings = Settings { denoise: None, ..settings };
            assert!(resolve(zero_snr, "{}", &settings).is_ok());
        }
        let eta = Settings { eta: Some(0.5), ..Settings::default() };
        assert!(resolve(EULER, "{}", &eta).is_err());
        let unknown = r#"{"_class_name": "IPNDMScheduler"}"#;
        assert!(resolve(unknown, "{}", &Settings::default()).is_err());
        assert!(resolve(unknown, r#"{"sampler": "euler"}"#, &Settings::default()).is_ok());
    }
}
