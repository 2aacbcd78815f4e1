//! Captions: a region's text, or the prompt with the reason for the fallback.

use std::fmt;

use super::{CaptionContext, RegionPlace, RegionSource};

/// Bytes of a caption, an answer or a prompt in a question at most. Text encoders take some 75 tokens, vision models
/// answer with a sentence; whatever is longer comes from a broken file or a model that does not stop.
pub(super) const LONGEST: usize = 16 << 10;

/// The beginning of a text: `limit` bytes at most, and whole characters.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// The text that conditions one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The region.
    pub place: RegionPlace,
    /// The whole text condition; it is empty only if there is no prompt to fall back to.
    pub text: String,
    /// Reason for falling back to the prompt, if this region should have had a caption of its own.
    pub fallback: Option<String>,
}

impl Caption {
    /// The caption `text` of the region at `place`.
    pub fn new(place: RegionPlace, text: String) -> Self {
        Self { place, text, fallback: None }
    }

    /// The prompt, for a region that failed for `reason`.
    pub fn fallback(
        place: RegionPlace,
        context: &CaptionContext<'_>,
        reason: impl fmt::Display,
    ) -> Self {
        Self { place, text: context.prompt.trim().to_owned(), fallback: Some(reason.to_string()) }
    }
}

/// Result of a captioner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captions {
    /// One for each region, in the order given.
    pub regions: Vec<Caption>,
    /// Notes for the user that concern all captions, one line each.
    pub notes: Vec<String>,
}

impl Captions {
    /// Collects the results of regions, in the order of `regions`; regions without a caption get the prompt.
    ///
    /// # Errors
    /// The first reason, if all failed.
    pub(super) fn from_results(
        results: impl IntoIterator<Item = Result<String, String>>,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
    ) -> Result<Self, String> {
        let mut first = None;
        let made: Vec<Caption> = (results.into_iter().enumerate())
            .map(|(index, result)| {
                let place = regions.place(index);
                result.map_or_else(
                    |reason| {
                        first.get_or_insert_with(|| reason.clone());
                        Caption::fallback(place, context, reason)
                    },
                    |text| Caption::new(place, text),
                )
            })
            .collect();
        match first {
            Some(reason) if made.iter().all(|caption| caption.fallback.is_some()) => Err(reason),
            _ => Ok(made.into()),
        }
    }
}

impl From<Vec<Caption>> for Captions {
    fn from(regions: Vec<Caption>) -> Self {
        Self { regions, notes: Vec::new() }
    }
}

/// The prompt of the whole picture, if there is one, in front of what is special to a region:
/// "an old harbour at dusk, a dim, smooth area in deep blue".
pub fn join_prompt(prompt: &str, caption: &str) -> String {
    let prompt = prompt.trim().trim_end_matches(|c: char| c.is_whitespace() || ",.;".contains(c));
    match (prompt, caption.trim()) {
        ("", caption) => caption.to_owned(),
        (prompt, "") => prompt.to_owned(),
        (prompt, caption) => format!("{prompt}, {caption}"),
    }
}
