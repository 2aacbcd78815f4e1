//! Profiles: named rows of defaults between keeping to the input and inventing, and one for speed. A row is for a kind of
//! models, because a share of the steps that is little to one is all that another has.
//!
//! A row changes how much is repainted in steps of the model's own schedule, whatever that is, and never its guidance,
//! sampler or number of steps: those are what the model was made for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::sampler::Denoise;

/// The name of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Close to the input.
    Faithful,
    /// The model's own defaults, and the program's.
    #[default]
    Balanced,
    /// More is invented.
    Creative,
    /// Sooner done.
    Fast,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Faithful, Self::Balanced, Self::Creative, Self::Fast];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Faithful => "faithful",
            Self::Balanced => "balanced",
            Self::Creative => "creative",
            Self::Fast => "fast",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| format!("no profile: {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// What a profile sets for a model; `None` leaves what would be without it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProfileRow {
    /// The profile.
    pub profile: Profile,
    /// Part of the schedule that runs: so many of its steps.
    pub denoise: Option<Denoise>,
    /// Steps of the whole schedule, by which that is counted.
    pub schedule_steps: usize,
    /// Overlap of regions.
    pub overlap: Option<f64>,
    /// λ of the global structure prior.
    pub gsp: Option<f64>,
    /// Share of the regional attention prior.
    pub rap: Option<f64>,
    /// Weight of the regional semantic prior.
    pub rsp: Option<f64>,
    /// Share of the repaint in the output.
    pub blend: Option<f64>,
}

impl ProfileRow {
    /// The row for a model that runs so many steps of so many, with this overlap; `sees_picture` if it is shown the picture
    /// that it repaints, so that it invents little at any strength.
    pub(super) fn of(
        profile: Profile,
        (run, all): (usize, usize),
        overlap: f64,
        sees_picture: bool,
    ) -> Self {
        let row = Self {
            profile,
            denoise: None,
            schedule_steps: all,
            overlap: None,
            gsp: None,
            rap: None,
            rsp: None,
            blend: None,
        };
        let steps = |steps: usize| {
            let steps = steps.clamp(1, all);
            (steps != run).then_some(Denoise::Steps(steps))
        };
        match profile {
            Profile::Balanced => row,
            Profile::Faithful if sees_picture => {
                Self { denoise: steps(run.div_ceil(2)), blend: Some(0.7), ..row }
            }
            Profile::Faithful => Self { denoise: steps(run.div_ceil(2)), gsp: Some(0.5), ..row },
            Profile::Creative => {
                Self { denoise: steps((3 * run).div_ceil(2)), gsp: Some(0.1), ..row }
            }
            Profile::Fast => {
                let quarter = (overlap > 0.25).then_some(0.25);
                Self { denoise: steps((3 * run).div_ceil(4)), overlap: quarter, ..row }
            }
        }
    }
}

/// The profile and what it sets: `faithful: 2 of 8 steps, gsp 0.5`.
impl fmt::Display for ProfileRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, denoise, schedule_steps, overlap, gsp, rap, rsp, blend } = self;
        let numbers =
            [("overlap", overlap), ("gsp", gsp), ("rap", rap), ("rsp", rsp), ("blend", blend)];
        let steps = match denoise {
            Some(Denoise::Steps(run)) => Some(format!("{run} of {schedule_steps} steps")),
            Some(Denoise::Strength(share)) => Some(format!("strength {share}")),
            None => None,
        };
        let numbers = numbers.into_iter();
        let numbers = numbers.filter_map(|(name, value)| Some(format!("{name} {}", (*value)?)));
        let all: Vec<String> = steps.into_iter().chain(numbers).collect();
        match all.as_slice() {
            [] => write!(f, "{profile}: sets nothing"),
            all => write!(f, "{profile}: {}", all.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(profile: Profile, steps: (usize, usize), overlap: f64, sees: bool) -> String {
        ProfileRow::of(profile, steps, overlap, sees).to_string()
    }

    #[test]
    fn rows_are_shares_of_what_a_model_runs_by_itself() {
        use Profile::{Balanced, Creative, Faithful, Fast};
        // Hyper-SDXL, SDXL, and the embedded model.
        for (profile, few, many, own) in [
            (Balanced, "sets nothing", "sets nothing", "sets nothing"),
            (Faithful, "2 of 8 steps, gsp 0.5", "12 of 50 steps, gsp 0.5", "blend 0.7"),
            (Creative, "6 of 8 steps, gsp 0.1", "35 of 50 steps, gsp 0.1", "2 of 4 steps, gsp 0.1"),
            (Fast, "3 of 8 steps, overlap 0.25", "18 of 50 steps, overlap 0.25", "sets nothing"),
        ] {
            assert_eq!(said(profile, (4, 8), 0.5, false), format!("{profile}: {few}"));
            assert_eq!(said(profile, (23, 50), 0.5, false), format!("{profile}: {many}"));
            assert_eq!(said(profile, (1, 4), 0.25, true), format!("{profile}: {own}"));
        }
        // No more than there are, and no less than one.
        assert_eq!(said(Creative, (4, 4), 0.5, false), "creative: gsp 0.1");
        assert_eq!(said(Fast, (1, 1), 0.2, false), "fast: sets nothing");
    }

    #[test]
    fn names_are_read_back_and_others_are_refused_with_a_list() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
        }
        let error = "bold".parse::<Profile>().unwrap_err();
        assert_eq!(error, "no profile: faithful, balanced, creative, fast");
    }
}
