//! The samplers there are by name, and which of them a model gets that names none of them.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use super::{Ddim, Euler, Lcm, Sampler, SamplerError, SchedulerConfig, Tcd};

/// The samplers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// Denoising diffusion implicit models (Song et al. 2021): [`Ddim`].
    Ddim,
    /// Trajectory consistency distillation (Zheng et al. 2024): [`Tcd`].
    Tcd,
    /// Euler's method on the probability-flow equation (Karras et al. 2022): [`Euler`].
    Euler,
    /// Latent consistency models (Luo et al. 2023): [`Lcm`].
    Lcm,
}

/// The sampler that a scheduler config leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The sampler.
    pub kind: SamplerKind,
    /// What the user should know, where it is not the sampler that the config names.
    pub note: Option<String>,
}

impl SamplerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ddim, Self::Tcd, Self::Euler, Self::Lcm];

    /// The name that users type and that messages print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Tcd => "tcd",
            Self::Euler => "euler",
            Self::Lcm => "lcm",
        }
    }

    /// The names of all of them, for a message.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The sampler for a model whose config names diffusers' class `class`.
    ///
    /// Solvers of higher order have no counterpart: they combine earlier predictions, which a canvas of regions would
    /// have to store and fuse as well, for little gain in a run of a few steps. Such a model gets the one-step
    /// method that goes through the same noise levels, on the same betas:
    /// - PNDM's transfer from one timestep to the next *is* DDIM's (Liu et al. 2022), at the same timesteps and with the
    ///   same ᾱ at the end, DDPM is DDIM with η = 1, and the parallel ones solve the same equations in another order:
    ///   these become DDIM;
    /// - the solvers in σ (DPM-Solver++, UniPC, DEIS, Heun, LMS, the ancestral ones, …) integrate the equation that Euler's
    ///   method integrates, down to σ = 0: they become Euler.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedScheduler`] for a class of another kind of model (flow matching, …).
    pub fn from_class_name(class: &str) -> Result<Choice, SamplerError> {
        let (kind, named) = match class {
            "DDIMScheduler" => (Self::Ddim, true),
            "TCDScheduler" => (Self::Tcd, true),
            "EulerDiscreteScheduler" => (Self::Euler, true),
            "LCMScheduler" => (Self::Lcm, true),
            "PNDMScheduler"
            | "DDPMScheduler"
            | "DDIMParallelScheduler"
            | "DDPMParallelScheduler" => (Self::Ddim, false),
            "DEISMultistepScheduler"
            | "DPMSolverMultistepScheduler"
            | "DPMSolverSDEScheduler"
            | "DPMSolverSinglestepScheduler"
            | "EulerAncestralDiscreteScheduler"
            | "HeunDiscreteScheduler"
            | "KDPM2AncestralDiscreteScheduler"
            | "KDPM2DiscreteScheduler"
            | "LMSDiscreteScheduler"
            | "SASolverScheduler"
            | "UniPCMultistepScheduler" => (Self::Euler, false),
            _ => return Err(SamplerError::UnsupportedScheduler { class: class.to_owned() }),
        };
        let note = (!named).then(|| format!("the model asks for {class}; running {kind} instead"));
        Ok(Choice { kind, note })
    }

    /// The sampler itself. `eta` is the share of fresh noise in each step, 0 (none) to 1; by default DDIM's is 0 and
    /// TCD's 0.3.
    ///
    /// # Errors
    /// [`SamplerError::Eta`], [`SamplerError::EtaUnused`], and [`SamplerError::UnsupportedSetting`] where the
    /// config wants something of this very sampler that it cannot do.
    pub fn build(
        self,
        config: &SchedulerConfig,
        eta: Option<f64>,
    ) -> Result<Box<dyn Sampler>, SamplerError> {
        if eta.is_some() && self.default_eta().is_none() {
            return Err(SamplerError::EtaUnused { sampler: self });
        }
        Ok(match self {
            Self::Ddim => Box::new(Ddim::new(eta.unwrap_or(Ddim::DEFAULT_ETA))?),
            Self::Tcd => Box::new(Tcd::new(config, eta.unwrap_or(Tcd::DEFAULT_ETA))?),
            Self::Euler => Box::new(Euler::new(config)),
            Self::Lcm => Box::new(Lcm::new(config)?),
        })
    }

    /// The share of fresh noise in each step where nobody chooses; `None` for a sampler without that choice.
    #[must_use]
    pub fn default_eta(self) -> Option<f64> {
        match self {
            Self::Ddim => Some(Ddim::DEFAULT_ETA),
            Self::Tcd => Some(Tcd::DEFAULT_ETA),
            Self::Euler | Self::Lcm => None,
        }
    }

    /// Whether the config's spread of timesteps plays a part: consistency models have their own.
    #[must_use]
    pub fn has_spacing(self) -> bool {
        matches!(self, Self::Ddim | Self::Euler)
    }
}

impl FromStr for SamplerKind {
    type Err = SamplerError;

    fn from_str(name: &str) -> Result<Self, SamplerError> {
        let known = || SamplerError::Name { known: Self::names() };
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(known)
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
        ] {
            let own = SamplerKind::from_class_name(class).unwrap();
            assert_eq!(own, Choice { kind, note: None });
        }
        for (class, kind) in [
            ("PNDMScheduler", SamplerKind::Ddim),
            ("DPMSolverMultistepScheduler", SamplerKind::Euler),
        ] {
            let stand_in = SamplerKind::from_class_name(class).unwrap();
            assert_eq!(stand_in.kind, kind);
            let note = format!("the model asks for {class}; running {kind} instead");
            assert_eq!(stand_in.note, Some(note));
        }
        let error = SamplerKind::from_class_name("FlowMatchEulerDiscreteScheduler").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("\"FlowMatchEulerDiscreteScheduler\""), "{error}");
        assert!(error.contains("(ddim, tcd, euler, lcm)"), "{error}");
    }

    #[test]
    fn eta_belongs_to_ddim_and_tcd_and_is_a_share() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        for kind in SamplerKind::ALL {
            assert!(kind.build(&config, None).is_ok());
            let has_eta = kind.default_eta().is_some();
            assert_eq!(kind.build(&config, Some(0.5)).is_ok(), has_eta, "{kind}");
            for eta in [-0.1, 1.1, f64::NAN] {
                assert!(kind.build(&config, Some(eta)).is_err(), "{kind} at {eta}");
            }
            assert_eq!(kind.build(&config, None).unwrap().kind(), kind);
        }
    }
}
