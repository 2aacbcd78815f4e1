//! Sampling defaults of a model, as its maker recommends them.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    ranges,
    sampler::{Denoise, SamplerKind, TimestepSpacing},
};

/// Sampling defaults of a model beyond its scheduler config; the user's settings override all of them.
///
/// Read from JSON with the keys `sampler`, `timestep_spacing`, `timesteps`, `steps`, `strength` or
/// `denoise_steps`, `guidance`, `eta` and `native_size`; other keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub struct ModelDefaults {
    /// Sampler.
    pub sampler: Option<SamplerKind>,
    /// Spacing of the timesteps.
    pub spacing: Option<TimestepSpacing>,
    /// Explicit timesteps, highest first; takes precedence over `steps`.
    pub timesteps: Option<Vec<usize>>,
    /// Steps of the whole schedule, N ≥ 1.
    pub steps: Option<usize>,
    /// Part of the schedule that runs.
    pub denoise: Option<Denoise>,
    /// Guidance scale, at least 0; 1 and below disables guidance.
    pub guidance: Option<f64>,
    /// Share of fresh noise in 0..=1; used only with the model's own sampler.
    pub eta: Option<f64>,
    /// Side of the training pictures in pixels, for a configuration without it.
    pub native_size: Option<usize>,
}

/// The JSON before validation.
#[derive(Deserialize)]
struct RawModelDefaults {
    sampler: Option<SamplerKind>,
    timestep_spacing: Option<TimestepSpacing>,
    timesteps: Option<Vec<usize>>,
    steps: Option<usize>,
    strength: Option<f64>,
    denoise_steps: Option<usize>,
    guidance: Option<f64>,
    eta: Option<f64>,
    native_size: Option<usize>,
}

impl TryFrom<Value> for ModelDefaults {
    type Error = String;

    fn try_from(written: Value) -> Result<Self, String> {
        ranges::check(&written).map_err(|error| error.to_string())?;
        let written = RawModelDefaults::deserialize(written).map_err(|error| error.to_string())?;
        let RawModelDefaults {
            sampler,
            timestep_spacing,
            timesteps,
            steps,
            guidance,
            eta,
            native_size,
            ..
        } = written;
        let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        must(steps != Some(0), "`steps` must be at least 1")?;
        must(
            timesteps.as_ref().is_none_or(|t| !t.is_empty() && t.is_sorted_by(|a, b| a > b)),
            "`timesteps` must be a list that goes down",
        )?;
        must(
            guidance.is_none_or(|guidance| guidance >= 0.0 && guidance.is_finite()),
            "`guidance` must be 0 or above",
        )?;
        must(eta.is_none_or(|eta| (0.0..=1.0).contains(&eta)), "`eta` must be 0 to 1")?;
        let denoise = match (written.strength, written.denoise_steps) {
            (Some(_), Some(_)) => return Err("`strength` or `denoise_steps`, not both".to_owned()),
            (Some(strength), None) => {
                must(strength > 0.0 && strength <= 1.0, "`strength` must be above 0, at most 1")?;
                Some(Denoise::Strength(strength))
            }
            (None, Some(run)) => {
                must(run > 0, "`denoise_steps` must be at least 1")?;
                Some(Denoise::Steps(run))
            }
            (None, None) => None,
        };
        let spacing = timestep_spacing;
        Ok(Self { sampler, spacing, timesteps, steps, denoise, guidance, eta, native_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_defaults_that_make_no_sense_say_which_key() {
        for (text, key) in [
            (r#"{"sampler": "dpm"}"#, "dpm"),
            (r#"{"steps": 0}"#, "steps"),
            (r#"{"timesteps": [1, 2]}"#, "timesteps"),
            (r#"{"timesteps": []}"#, "timesteps"),
            (r#"{"strength": 1.5}"#, "strength"),
            (r#"{"strength": 0.5, "denoise_steps": 4}"#, "not both"),
            (r#"{"denoise_steps": 0}"#, "denoise_steps"),
            (r#"{"guidance": -1}"#, "guidance"),
            (r#"{"eta": 2}"#, "eta"),
            (r#"{"steps": 4000000000}"#, "`steps` is 4000000000, not from 0 to 100000"),
            (r#"{"native_size": 1e9}"#, "native_size"),
        ] {
            let error = serde_json::from_str::<ModelDefaults>(text).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
        assert_eq!(serde_json::from_str::<ModelDefaults>("{}").unwrap(), ModelDefaults::default());
    }
}
