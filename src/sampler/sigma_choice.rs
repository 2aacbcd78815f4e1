//! The noise levels that a user may choose by name; configurations, schedules and samplers share the word.

use std::str::FromStr;

use serde::Deserialize;

use super::error::SamplerError;

/// A user's choice of the noise levels that a solver walks through, whatever the config says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaChoice {
    /// Those of the training at the timesteps.
    Simple,
    /// Karras' (2022).
    Karras,
    /// Evenly in ln σ.
    Exponential,
    /// At quantiles of a beta distribution.
    Beta,
}

impl SigmaChoice {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Simple, Self::Karras, Self::Exponential, Self::Beta];

    /// The name that users type and that messages print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
            Self::Beta => "beta",
        }
    }
}

impl FromStr for SigmaChoice {
    type Err = SamplerError;

    fn from_str(name: &str) -> Result<Self, SamplerError> {
        let known = || SamplerError::Name { known: Self::ALL.map(Self::name).join(", ") };
        Self::ALL.into_iter().find(|choice| choice.name() == name).ok_or_else(known)
    }
}
