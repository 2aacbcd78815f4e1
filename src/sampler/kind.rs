//! The samplers there are by name, and which of them a model gets that names none of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    config::SchedulerConfig, ddim, descriptor::Descriptor, dpmpp_2m, dpmpp_2m_sde, dpmpp_2s,
    dpmpp_3m_sde, dpmpp_sde, error::SamplerError, euler, euler_ancestral, flow_euler, heun,
    interface::Sampler, lcm, level::NoiseProcess, sigma_choice::SigmaChoice, tcd, unipc,
};

/// Defines [`SamplerKind`] from a table of the samplers: a name for the code, and the file of each.
macro_rules! samplers {
    ($($(#[$doc:meta])* $kind:ident: $file:ident,)*) => {
        /// The samplers there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum SamplerKind {
            $($(#[$doc])* $kind,)*
        }

        impl SamplerKind {
            /// All of them.
            pub const ALL: [Self; [$(stringify!($kind)),*].len()] = [$(Self::$kind,)*];

            fn descriptor(self) -> &'static Descriptor {
                match self {
                    $(Self::$kind => &$file::DESCRIPTOR,)*
                }
            }
        }
    };
}

samplers! {
    /// Denoising diffusion implicit models (Song et al. 2021): [`super::Ddim`].
    Ddim: ddim,
    /// Trajectory consistency distillation (Zheng et al. 2024): [`super::Tcd`].
    Tcd: tcd,
    /// Euler's method on the probability-flow equation (Karras et al. 2022): [`super::Euler`].
    Euler: euler,
    /// The same with ancestral noise: [`super::EulerAncestral`].
    EulerAncestral: euler_ancestral,
    /// Heun's method, two predictions for each step (Karras et al. 2022): [`super::Heun`].
    Heun: heun,
    /// Latent consistency models (Luo et al. 2023): [`super::Lcm`].
    Lcm: lcm,
    /// The second-order multistep solver DPM-Solver++ (Lu et al. 2022): [`super::Dpmpp2m`].
    Dpmpp2m: dpmpp_2m,
    /// The same on the stochastic equation: [`super::Dpmpp2mSde`].
    Dpmpp2mSde: dpmpp_2m_sde,
    /// The second-order singlestep solver DPM-Solver++ (Lu et al. 2022): [`super::Dpmpp2s`].
    Dpmpp2s: dpmpp_2s,
    /// The third-order multistep solver DPM-Solver++ on the stochastic equation (Crowson's k-diffusion):
    /// [`super::Dpmpp3mSde`].
    Dpmpp3mSde: dpmpp_3m_sde,
    /// DPM-Solver++ on the stochastic equation, two predictions for each step: [`super::DpmppSde`].
    DpmppSde: dpmpp_sde,
    /// The predictor-corrector UniPC (Zhao et al. 2023): [`super::UniPc`].
    UniPc: unipc,
    /// Euler's method along the velocity of flow matching (Lipman et al. 2023): [`super::FlowEuler`].
    FlowEuler: flow_euler,
}

/// The sampler that a scheduler config leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplerChoice {
    /// The sampler.
    pub kind: SamplerKind,
    /// A line for the user, where it is not quite the sampler that the config names.
    pub note: Option<String>,
}

impl SamplerKind {
    /// The name that users type and that messages print.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.descriptor().name
    }

    /// The names of those that pass, for a message.
    fn names(pass: impl Fn(Self) -> bool, between: &str) -> String {
        let kinds = Self::ALL.into_iter().filter(|&kind| pass(kind));
        kinds.map(Self::name).collect::<Vec<_>>().join(between)
    }

    /// The sampler for a model whose config names diffusers' class `class`.
    ///
    /// Of several samplers of one class it is the first; [`SchedulerConfig::sampler`] tells them apart.
    ///
    /// A class without counterpart gets the sampler that goes through the same noise levels on the same betas, with a
    /// note: each sampler's descriptor names the classes that it stands in for, and why.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedScheduler`] for a class of another kind of model (EDM, …).
    pub fn from_class_name(class: &str) -> Result<SamplerChoice, SamplerError> {
        let find = |is: &dyn Fn(&Descriptor) -> bool| {
            Self::ALL.into_iter().find(|kind| is(kind.descriptor()))
        };
        if let Some(kind) = find(&|descriptor| descriptor.class == class) {
            return Ok(SamplerChoice { kind, note: None });
        }
        match find(&|descriptor| descriptor.stands_in_for.contains(&class)) {
            Some(kind) => {
                let note = Some(format!("the model asks for {class}; running {kind} instead"));
                Ok(SamplerChoice { kind, note })
            }
            None => {
                let known = Self::names(|_| true, ", ");
                Err(SamplerError::UnsupportedScheduler { class: class.to_owned(), known })
            }
        }
    }

    /// The sampler itself. `eta` is the share of fresh noise in each step, 0 (none) to 1; by default
    /// [`SamplerKind::default_eta`].
    ///
    /// # Errors
    /// [`SamplerError::WrongProcess`] for a model of another noise process, [`SamplerError::Eta`],
    /// [`SamplerError::EtaUnused`], and [`SamplerError::UnsupportedSetting`] where the config wants something of this very
    /// sampler that it cannot do.
    pub fn build(
        self,
        config: &SchedulerConfig,
        eta: Option<f64>,
    ) -> Result<Box<dyn Sampler>, SamplerError> {
        let process = config.process()?;
        if process != self.process() {
            let known = Self::names(|kind| kind.process() == process, " or ");
            let (sampler, process) = (self.name(), process.name());
            return Err(SamplerError::WrongProcess { sampler, process, known });
        }
        let default = self.default_eta();
        if eta.is_some() && default.is_none() {
            let known = Self::names(|kind| kind.default_eta().is_some(), " and ");
            return Err(SamplerError::EtaUnused { sampler: self.name(), known });
        }
        (self.descriptor().build)(config, eta.or(default).unwrap_or(0.0))
    }

    /// The noise process of the models that it samples.
    #[must_use]
    pub fn process(self) -> NoiseProcess {
        self.descriptor().process
    }

    /// The share of fresh noise in each step where nobody chooses; `None` for a sampler without that choice.
    #[must_use]
    pub fn default_eta(self) -> Option<f64> {
        self.descriptor().default_eta
    }

    /// `true` if the config's timestep spacing is used: consistency models have their own.
    #[must_use]
    pub fn has_spacing(self) -> bool {
        self.descriptor().has_spacing
    }
}

impl SamplerKind {
    /// `true` if it walks through noise levels that may be others than the training's.
    #[must_use]
    pub fn has_sigmas(self) -> bool {
        self.descriptor().has_sigmas
    }

    /// Refuses noise levels that the sampler cannot walk through.
    ///
    /// # Errors
    /// [`SamplerError::SigmasUnused`].
    pub fn check_sigmas(self, choice: SigmaChoice) -> Result<(), SamplerError> {
        if self.has_sigmas() || choice == SigmaChoice::Simple {
            return Ok(());
        }
        let known = Self::names(|kind| kind.has_sigmas(), ", ");
        Err(SamplerError::SigmasUnused { sampler: self.name(), sigmas: choice.name(), known })
    }
}

impl SchedulerConfig {
    /// The sampler that the config names, or one in its place ([`SamplerKind::from_class_name`]), with a note where
    /// it leaves out a setting. A caller whose user chose a sampler need not ask: the schedule of betas is the same
    /// for all.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedScheduler`].
    pub fn sampler(&self) -> Result<SamplerChoice, SamplerError> {
        let class = &self.class_name;
        let is_own = |kind: &SamplerKind| {
            kind.descriptor().class == class && (kind.descriptor().is_asked_by)(self)
        };
        let SamplerChoice { kind, note } = match SamplerKind::ALL.into_iter().find(is_own) {
            Some(kind) => SamplerChoice { kind, note: None },
            None => SamplerKind::from_class_name(class)?,
        };
        let without = |setting| {
            format!("the model asks for {class} with {setting}; running {kind} without it")
        };
        Ok(SamplerChoice {
            kind,
            note: note.or_else(|| (kind.descriptor().left_out)(self).map(without)),
        })
    }
}

impl FromStr for SamplerKind {
    type Err = SamplerError;

    fn from_str(name: &str) -> Result<Self, SamplerError> {
        let known = || SamplerError::Name { known: Self::names(|_| true, ", ") };
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(known)
    }
}

impl<'de> Deserialize<'de> for SamplerKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(|error| D::Error::custom(format!("sampler {name:?} is {error}")))
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_its_sampler_or_a_stand_in_with_a_note_or_an_error_that_names_the_samplers() {
        for (class, kind) in [
            ("DDIMScheduler", SamplerKind::Ddim),
            ("TCDScheduler", SamplerKind::Tcd),
            ("EulerDiscreteScheduler", SamplerKind::Euler),
            ("LCMScheduler", SamplerKind::Lcm),
            ("DPMSolverMultistepScheduler", SamplerKind::Dpmpp2m),
            ("EulerAncestralDiscreteScheduler", SamplerKind::EulerAncestral),
            ("HeunDiscreteScheduler", SamplerKind::Heun),
            ("DPMSolverSinglestepScheduler", SamplerKind::Dpmpp2s),
            ("DPMSolverSDEScheduler", SamplerKind::DpmppSde),
            ("UniPCMultistepScheduler", SamplerKind::UniPc),
            ("FlowMatchEulerDiscreteScheduler", SamplerKind::FlowEuler),
        ] {
            let own = SamplerKind::from_class_name(class).unwrap();
            assert_eq!(own, SamplerChoice { kind, note: None });
        }
        for (class, kind) in [
            ("PNDMScheduler", SamplerKind::Ddim),
            ("DEISMultistepScheduler", SamplerKind::Euler),
            ("FlowMatchHeunDiscreteScheduler", SamplerKind::FlowEuler),
        ] {
            let stand_in = SamplerKind::from_class_name(class).unwrap();
            assert_eq!(stand_in.kind, kind);
            let note = format!("the model asks for {class}; running {kind} instead");
            assert_eq!(stand_in.note, Some(note));
        }
        let error = SamplerKind::from_class_name("EDMEulerScheduler").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("\"EDMEulerScheduler\""), "{error}");
        assert!(error.contains("(ddim, tcd, euler, euler-a, heun, lcm, dpmpp-2m, dpmpp-2m-sde, dpmpp-2s, dpmpp-3m-sde, dpmpp-sde, unipc, flow-euler)"), "{error}");
    }

    #[test]
    fn eta_belongs_to_ddim_and_tcd_and_is_a_share() {
        for kind in SamplerKind::ALL {
            let text = format!(r#"{{"_class_name": "{}"}}"#, kind.descriptor().class);
            let config = SchedulerConfig::from_json(&text).unwrap();
            assert!(kind.build(&config, None).is_ok());
            let has_eta = kind.default_eta().is_some();
            assert_eq!(kind.build(&config, Some(0.5)).is_ok(), has_eta, "{kind}");
            for eta in [-0.1, 1.1, f64::NAN] {
                assert!(kind.build(&config, Some(eta)).is_err(), "{kind} at {eta}");
            }
        }
    }

    #[test]
    fn samplers_that_walk_by_timestep_refuse_other_noise_levels_by_name() {
        for kind in SamplerKind::ALL {
            assert!(kind.check_sigmas(SigmaChoice::Simple).is_ok());
            let by_timestep = [SamplerKind::Ddim, SamplerKind::Tcd, SamplerKind::Lcm];
            for choice in [SigmaChoice::Karras, SigmaChoice::Exponential, SigmaChoice::Beta] {
                let checked = kind.check_sigmas(choice);
                assert_eq!(checked.is_err(), by_timestep.contains(&kind), "{kind}");
                let Err(error) = checked else { continue };
                assert!(error.is_wrong_choice());
                let error = error.to_string();
                let begins = format!("the sampler {kind} has no {} sigmas: ", choice.name());
                assert!(error.starts_with(&begins) && error.contains("dpmpp-2m"), "{error}");
            }
        }
        assert!("normal".parse::<SigmaChoice>().unwrap_err().to_string().contains("karras"));
    }

    #[test]
    fn a_sampler_for_another_noise_process_is_refused_with_those_that_would_do() {
        for (class, kind, known) in [
            ("FlowMatchEulerDiscreteScheduler", SamplerKind::Ddim, "flow-euler"),
            (
                "DDIMScheduler",
                SamplerKind::FlowEuler,
                "ddim or tcd or euler or euler-a or heun or lcm or dpmpp-2m or dpmpp-2m-sde or dpmpp-2s or dpmpp-3m-sde or dpmpp-sde or unipc",
            ),
        ] {
            let text = format!(r#"{{"_class_name": "{class}"}}"#);
            let config = SchedulerConfig::from_json(&text).unwrap();
            let error = kind.build(&config, None).unwrap_err();
            assert!(error.is_wrong_choice());
            let error = error.to_string();
            assert!(error.contains(kind.name()) && error.ends_with(known), "{error}");
        }
    }

    #[test]
    fn settings_that_our_samplers_lack_are_left_out_with_a_note() {
        let note = |class: &str, setting: &str| {
            let text = format!(r#"{{"_class_name": "{class}", {setting}}}"#);
            let config = SchedulerConfig::from_json(&text).unwrap();
            let choice = config.sampler().unwrap();
            assert!(choice.kind.build(&config, None).is_ok(), "{text}");
            choice.note
        };
        for (class, setting, name) in [
            (
                "DPMSolverMultistepScheduler",
                r#""algorithm_type": "dpmsolver""#,
                "an algorithm_type of its own",
            ),
            (
                "DPMSolverSinglestepScheduler",
                r#""algorithm_type": "sde-dpmsolver++""#,
                "an algorithm_type of its own",
            ),
            ("UniPCMultistepScheduler", r#""predict_x0": false"#, "predict_x0 = false"),
            ("UniPCMultistepScheduler", r#""solver_order": 3"#, "a solver_order of its own"),
            ("DPMSolverMultistepScheduler", r#""solver_order": 3"#, "a solver_order of its own"),
        ] {
            let kind = SamplerKind::from_class_name(class).unwrap().kind;
            let expected =
                format!("the model asks for {class} with {name}; running {kind} without it");
            assert_eq!(note(class, setting), Some(expected));
        }
        for (class, setting) in [
            ("EulerDiscreteScheduler", r#""use_karras_sigmas": true, "clip_sample": true"#),
            ("EulerDiscreteScheduler", r#""interpolation_type": "log_linear""#),
            ("DDIMScheduler", r#""clip_sample": true, "use_karras_sigmas": true"#),
            ("LCMScheduler", r#""thresholding": true"#),
            ("DPMSolverMultistepScheduler", r#""algorithm_type": "sde-dpmsolver++""#),
            ("UniPCMultistepScheduler", r#""solver_type": "bh1", "disable_corrector": [0]"#),
            ("HeunDiscreteScheduler", r#""clip_sample": true, "use_beta_sigmas": true"#),
            ("TCDScheduler", r#""thresholding": true, "clip_sample": true"#),
            ("DPMSolverMultistepScheduler", r#""use_lu_lambdas": true, "thresholding": true"#),
            ("DPMSolverMultistepScheduler", r#""solver_type": "heun", "solver_order": 1"#),
        ] {
            assert_eq!(note(class, setting), None);
        }
        // A config of another class has a note of its own, which is enough.
        let stand_in = note("DEISMultistepScheduler", r#""use_karras_sigmas": true"#).unwrap();
        assert!(stand_in.ends_with("running euler instead"), "{stand_in}");
    }

    #[test]
    fn one_class_is_several_samplers_by_its_algorithm() {
        let class = "DPMSolverMultistepScheduler";
        for (algorithm, kind, noted) in [
            ("dpmsolver++", SamplerKind::Dpmpp2m, false),
            ("dpmsolver", SamplerKind::Dpmpp2m, true),
            ("sde-dpmsolver++", SamplerKind::Dpmpp2mSde, false),
            ("sde-dpmsolver", SamplerKind::Dpmpp2mSde, true),
        ] {
            let text = format!(r#"{{"_class_name": "{class}", "algorithm_type": "{algorithm}"}}"#);
            let choice = SchedulerConfig::from_json(&text).unwrap().sampler().unwrap();
            assert_eq!((choice.kind, choice.note.is_some()), (kind, noted), "{algorithm}");
        }
    }

    #[test]
    fn noise_levels_that_are_all_the_same_make_no_steps_of_a_solver() {
        let settings = r#""use_karras_sigmas": true, "sigma_min": 2, "sigma_max": 2"#;
        let text = format!(r#"{{"_class_name": "DPMSolverMultistepScheduler", {settings}}}"#);
        let config = SchedulerConfig::from_json(&text).unwrap();
        let schedule = crate::sampler::Schedule::new(&config).unwrap();
        for kind in [SamplerKind::Dpmpp2m, SamplerKind::Dpmpp2mSde, SamplerKind::DpmppSde] {
            let sampler = kind.build(&config, None).unwrap();
            let steps = sampler.steps(&schedule, 20).unwrap();
            let error = crate::sampler::updates(&*sampler, &schedule, &steps).unwrap_err();
            assert!(matches!(error, SamplerError::NoStep { .. }), "{kind}: {error}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused_by_name() {
        for (kind, setting, name) in [
            (SamplerKind::Euler, r#""interpolation_type": "cubic""#, "interpolation_type"),
            (SamplerKind::Euler, r#""use_karras_sigmas": true, "sigma_min": 0"#, "sigma_min"),
            (
                SamplerKind::Dpmpp2m,
                r#""use_karras_sigmas": true, "use_beta_sigmas": true"#,
                "more than one of use_karras_sigmas",
            ),
        ] {
            let text = format!(r#"{{"_class_name": "DDIMScheduler", {setting}}}"#);
            let config = SchedulerConfig::from_json(&text).unwrap();
            let error = kind.build(&config, None).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let text = r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        let schedule = crate::sampler::Schedule::new(&config).unwrap();
        let sampler = SamplerKind::Euler.build(&config, None).unwrap();
        let error = sampler.through(&schedule, &[999.0, 500.0]).unwrap_err().to_string();
        assert!(error.contains("use_karras_sigmas"), "{error}");
    }
}
