//! Sampling defaults of a model, as its maker recommends them.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    ranges,
    sampler::{Denoise, PredictionType, SamplerKind, SigmaChoice, TimestepSpacing},
    weights::registry::RunDefaults,
};

use super::profile::Profile;

/// Sampling defaults of a model beyond its scheduler config; the user's settings override all of them.
///
/// Read from JSON with the keys `profile`, `prediction_type`, `sampler`, `timestep_spacing`, `sigmas`, `timesteps`, `steps`, `strength` or
/// `denoise_steps`, `guidance`, `eta`, `native_size`, `overlap`, `first_share`, `sharpen`, `grain`, `fidelity`, `coherence` and `texture`; other keys are ignored. A model's own stand
/// under the key `cupscale` of its `model_index.json`; a manifest's take precedence.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub struct ModelDefaults {
    /// Profile, whose row goes before the defaults here and before the program's.
    pub profile: Option<Profile>,
    /// Target of the prediction, where it is not that of the scheduler config: another denoiser was put in.
    pub prediction: Option<PredictionType>,
    /// Sampler.
    pub sampler: Option<SamplerKind>,
    /// Spacing of the timesteps.
    pub spacing: Option<TimestepSpacing>,
    /// Noise levels of the steps; used only with samplers that have a choice.
    pub sigmas: Option<SigmaChoice>,
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
    /// Overlap of regions in 0..=0.9, as a share of the region's side.
    pub overlap: Option<f64>,
    /// Share of the first network's picture that stays in the repaint, in 0..=1.
    pub first_share: Option<f64>,
    /// How much stronger the finest detail gets, in 0..=2.
    pub sharpen: Option<f64>,
    /// Standard deviation of the grain in levels of 255, in 0..=20.
    pub grain: Option<f64>,
    /// How far the output, reduced again, is the input, in 0..=1.
    pub fidelity: Option<f64>,
    /// How far lines are drawn along those of the input, in 0..=1.
    pub coherence: Option<f64>,
    /// How far texture without lines is noise of the input's roughness, in 0..=1.
    pub texture: Option<f64>,
}

/// The JSON before validation.
#[derive(Deserialize)]
struct RawModelDefaults {
    profile: Option<Profile>,
    prediction_type: Option<PredictionType>,
    sampler: Option<SamplerKind>,
    timestep_spacing: Option<TimestepSpacing>,
    sigmas: Option<SigmaChoice>,
    timesteps: Option<Vec<usize>>,
    steps: Option<usize>,
    strength: Option<f64>,
    denoise_steps: Option<usize>,
    guidance: Option<f64>,
    eta: Option<f64>,
    native_size: Option<usize>,
    overlap: Option<f64>,
    first_share: Option<f64>,
    sharpen: Option<f64>,
    grain: Option<f64>,
    fidelity: Option<f64>,
    coherence: Option<f64>,
    texture: Option<f64>,
}

impl TryFrom<Value> for ModelDefaults {
    type Error = String;

    fn try_from(written: Value) -> Result<Self, String> {
        ranges::check(&written).map_err(|error| error.to_string())?;
        let written = RawModelDefaults::deserialize(written).map_err(|error| error.to_string())?;
        let RawModelDefaults {
            profile,
            prediction_type: prediction,
            sampler,
            timestep_spacing,
            sigmas,
            timesteps,
            steps,
            guidance,
            eta,
            native_size,
            overlap,
            first_share,
            sharpen,
            grain,
            fidelity,
            coherence,
            texture,
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
        must(
            overlap.is_none_or(|overlap| (0.0..=0.9).contains(&overlap)),
            "`overlap` must be 0 to 0.9",
        )?;
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
        Ok(Self {
            profile,
            prediction,
            sampler,
            spacing,
            sigmas,
            timesteps,
            steps,
            denoise,
            guidance,
            eta,
            native_size,
            overlap,
            first_share,
            sharpen,
            grain,
            fidelity,
            coherence,
            texture,
        })
    }
}

impl TryFrom<&RunDefaults> for ModelDefaults {
    type Error = String;

    /// What a manifest says of runs, without its LoRAs.
    fn try_from(run: &RunDefaults) -> Result<Self, String> {
        serde_json::to_value(run).map_err(|error| error.to_string()).and_then(Self::try_from)
    }
}

impl ModelDefaults {
    /// These defaults, and `others` where these say nothing. Those of one schedule go together: a share of the steps
    /// means nothing for another number of them.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let scheduled = self.timesteps.is_some() || self.steps.is_some() || self.denoise.is_some();
        let (timesteps, steps, denoise) = if scheduled {
            (self.timesteps, self.steps, self.denoise)
        } else {
            (others.timesteps, others.steps, others.denoise)
        };
        Self {
            profile: self.profile.or(others.profile),
            prediction: self.prediction.or(others.prediction),
            sampler: self.sampler.or(others.sampler),
            spacing: self.spacing.or(others.spacing),
            sigmas: self.sigmas.or(others.sigmas),
            timesteps,
            steps,
            denoise,
            guidance: self.guidance.or(others.guidance),
            // Its meaning is the sampler's.
            eta: if self.sampler.is_some() { self.eta } else { self.eta.or(others.eta) },
            native_size: self.native_size.or(others.native_size),
            overlap: self.overlap.or(others.overlap),
            first_share: self.first_share.or(others.first_share),
            sharpen: self.sharpen.or(others.sharpen),
            grain: self.grain.or(others.grain),
            fidelity: self.fidelity.or(others.fidelity),
            coherence: self.coherence.or(others.coherence),
            texture: self.texture.or(others.texture),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_defaults_that_make_no_sense_say_which_key() {
        for (text, key) in [
            (r#"{"sampler": "dpm"}"#, "dpm"),
            (r#"{"sigmas": "normal"}"#, "normal"),
            (r#"{"steps": 0}"#, "steps"),
            (r#"{"timesteps": [1, 2]}"#, "timesteps"),
            (r#"{"timesteps": []}"#, "timesteps"),
            (r#"{"strength": 1.5}"#, "strength"),
            (r#"{"strength": 0.5, "denoise_steps": 4}"#, "not both"),
            (r#"{"denoise_steps": 0}"#, "denoise_steps"),
            (r#"{"guidance": -1}"#, "guidance"),
            (r#"{"eta": 2}"#, "eta"),
            (r#"{"overlap": 0.95}"#, "overlap"),
            (r#"{"first_share": 1.5}"#, "first_share"),
            (r#"{"sharpen": 2.5}"#, "sharpen"),
            (r#"{"grain": -1}"#, "grain"),
            (r#"{"fidelity": 1.5}"#, "fidelity"),
            (r#"{"coherence": -0.5}"#, "coherence"),
            (r#"{"texture": 2}"#, "texture"),
            (r#"{"steps": 4000000000}"#, "`steps` is 4000000000, not from 0 to 100000"),
            (r#"{"native_size": 1e9}"#, "native_size"),
        ] {
            let error = serde_json::from_str::<ModelDefaults>(text).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
        assert_eq!(serde_json::from_str::<ModelDefaults>("{}").unwrap(), ModelDefaults::default());
    }

    #[test]
    fn a_manifest_goes_before_the_models_own_file_and_schedules_stay_whole() {
        let read = |text| serde_json::from_str::<ModelDefaults>(text).unwrap();
        let own =
            r#"{"sampler": "ddim", "eta": 0.5, "steps": 4, "denoise_steps": 1, "overlap": 0.25}"#;
        assert_eq!(read("{}").or(read(own)), read(own));
        assert_eq!(
            read(r#"{"steps": 8, "overlap": 0, "sigmas": "beta"}"#).or(read(own)),
            read(r#"{"sampler": "ddim", "eta": 0.5, "steps": 8, "overlap": 0, "sigmas": "beta"}"#)
        );
        let (first, second) = (r#"{"sharpen": 0.2}"#, r#"{"sharpen": 0.6, "grain": 1.25}"#);
        assert_eq!(read(first).or(read(second)), read(r#"{"sharpen": 0.2, "grain": 1.25}"#));
        assert_eq!(read("{}").or(read(second)), read(second));
        assert_ne!(read(first), read("{}"));
        assert_eq!(
            read(r#"{"sampler": "tcd", "guidance": 2}"#).or(read(own)),
            read(
                r#"{"sampler": "tcd", "guidance": 2, "steps": 4, "denoise_steps": 1, "overlap": 0.25}"#
            )
        );
    }
}
