//! Words for regions: the text side of the Regional Semantic Prior (METHOD.md §5).
//!
//! A [`Captioner`] is given every region of the enlarged low-resolution picture and the user's prompt, and
//! returns one caption per region: the text that conditions the model there. Engines are exchangeable:
//!
//! | name | module | what it does |
//! |---|---|---|
//! | `attributes` | [`attributes`] | measures colours, light and texture; needs no model |
//! | `none` | [`none`] | every region gets the prompt of the whole picture |
//! | `llava` | `llava` (feature `llava`) | asks a LLaVA model, all regions in one batch |
//! | `mistralrs` | [`worker`], `mistralrs` (feature `mistralrs`) | asks a vision model of mistral.rs, in a process of its own |
//! | `file` | [`mod@file`] | reads captions a person (or another engine) wrote, see [`document`] |
//!
//! An engine gets all regions at once, as a [`RegionSource`], so that it may batch them as it likes; pixels
//! are produced on demand, so that nobody has to hold the whole enlarged picture. A region that cannot be
//! captioned falls back to the prompt and says why ([`Caption::fallback`]); only what spoils the whole job is
//! a [`CaptionError`]. What a costly engine has said is kept in the [`cache`].
//!
//! ```
//! use cupscale::caption::{CaptionContext, Captioner, GridSpec, Pixels, Rect, RegionImage, RegionPlace};
//! use cupscale::caption::attributes::Attributes;
//!
//! # fn main() -> Result<(), cupscale::caption::CaptionError> {
//! let rect = Rect { x: 0, y: 0, width: 8, height: 8 };
//! let regions = vec![RegionImage {
//!     place: RegionPlace { row: 0, col: 0, rect },
//!     pixels: Pixels::new(8, 8, [40, 90, 200].repeat(64))?,
//! }];
//! let grid = GridSpec { rows: 1, cols: 1, region: 8, overlap: 0, width: 8, height: 8 };
//! let context = CaptionContext { prompt: "an old harbour at dusk", grid };
//! let captions = Attributes.caption(&regions, &context, &mut |_done, _total| ())?;
//! assert_eq!(
//!     captions.regions[0].text,
//!     "an old harbour at dusk, a dim, flat, even area in bright blue"
//! );
//! # Ok(())
//! # }
//! ```

pub mod attributes;
pub mod cache;
pub mod document;
mod error;
pub mod file;
#[cfg(feature = "llava")]
pub mod llava;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod none;
pub mod wording;
pub mod worker;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use error::CaptionError;

/// The captioners that need nothing but the program, by the name users give them.
pub const EMBEDDED: [&str; 2] = ["attributes", "none"];

/// The embedded captioner called `name`.
///
/// # Errors
/// [`CaptionError::Unknown`] if `name` is not one of [`EMBEDDED`].
pub fn embedded(name: &str) -> Result<Box<dyn Captioner>, CaptionError> {
    match name {
        "attributes" => Ok(Box::new(attributes::Attributes)),
        "none" => Ok(Box::new(none::PromptOnly)),
        _ => Err(CaptionError::Unknown { name: name.into() }),
    }
}

/// Something that gives each region of a picture its text.
pub trait Captioner {
    /// What users call it: `attributes`, `none`, `file`, ….
    fn name(&self) -> &str;

    /// The model behind it, for the record in the captions file.
    fn model(&self) -> Option<&str> {
        None
    }

    /// What that model was told to do, for the record in the captions file.
    fn instruction(&self) -> Option<&str> {
        None
    }

    /// One caption for each region, in the order of `regions`.
    ///
    /// A region for which there is no caption gets the prompt, with the reason in [`Caption::fallback`].
    /// Engines call `progress` with (regions done, regions in all), in whatever steps they work.
    ///
    /// # Errors
    /// Only what keeps the engine from working at all.
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: Progress<'_>,
    ) -> Result<Captions, CaptionError>;
}

/// Called with (regions done, regions in all).
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// What an engine knows of the job besides its regions.
#[derive(Clone, Copy, Debug)]
pub struct CaptionContext<'a> {
    /// The user's prompt for the whole picture; may be empty.
    pub prompt: &'a str,
    /// The grid that the regions belong to.
    pub grid: GridSpec,
}

/// The region grid of a job, in output pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridSpec {
    /// Regions from top to bottom.
    pub rows: u32,
    /// Regions from left to right.
    pub cols: u32,
    /// Side of a region.
    pub region: u32,
    /// Least overlap of neighbouring regions.
    pub overlap: u32,
    /// Width of the output picture.
    pub width: u32,
    /// Height of the output picture.
    pub height: u32,
}

/// A rectangle in output pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

/// Where a region lies: in the grid, counted from 0 at the top left, and in the output picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionPlace {
    /// Row of the grid.
    pub row: u32,
    /// Column of the grid.
    pub col: u32,
    /// Where in the output picture.
    pub rect: Rect,
}

/// sRGB pixels of a region, 8 bits a channel, interleaved, row-major; at least one pixel.
///
/// They need not have the size of the region's rectangle: an engine sees what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Pixels {
    /// Takes `rgb`, `height` × `width` × 3.
    ///
    /// # Errors
    /// [`CaptionError::Pixels`] if the length does not fit the size or a side is 0.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, CaptionError> {
        check_size(width, height, rgb.len())?;
        Ok(Self { width, height, rgb })
    }

    /// Rounds `rgb`, `height` × `width` × 3 in 0.0..=1.0, to 8 bits; what lies outside is clamped, and NaN
    /// reads as 0.
    ///
    /// # Errors
    /// [`CaptionError::Pixels`] if the length does not fit the size or a side is 0.
    pub fn from_f32(width: usize, height: usize, rgb: &[f32]) -> Result<Self, CaptionError> {
        check_size(width, height, rgb.len())?;
        // `as u8` saturates and turns NaN into 0.
        let rgb = rgb.iter().map(|v| (v * 255.0 + 0.5) as u8).collect();
        Ok(Self { width, height, rgb })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `height` × `width` × 3.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

fn check_size(width: usize, height: usize, len: usize) -> Result<(), CaptionError> {
    let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
    if len == 0 || expected != Some(len) {
        return Err(CaptionError::Pixels { width, height, len });
    }
    Ok(())
}

/// All regions of a job. Pixels are asked for when they are needed, in any order, possibly never.
pub trait RegionSource {
    /// How many regions there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where region `index` < [`len`](Self::len) lies.
    fn place(&self, index: usize) -> RegionPlace;

    /// The pixels of region `index` < [`len`](Self::len).
    ///
    /// # Errors
    /// Whatever keeps this one region from being shown; the job goes on without it.
    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A region with its pixels, for callers that hold them anyway.
#[derive(Clone, Debug)]
pub struct RegionImage {
    /// Where it lies.
    pub place: RegionPlace,
    /// What it shows.
    pub pixels: Pixels,
}

impl RegionSource for Vec<RegionImage> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn place(&self, index: usize) -> RegionPlace {
        self[index].place
    }

    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Cow::Borrowed(&self[index].pixels))
    }
}

/// The text that conditions one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The region.
    pub place: RegionPlace,
    /// The whole text condition; it is empty only if there is no prompt to fall back to.
    pub text: String,
    /// Why `text` is the prompt, if this region should have had a caption of its own.
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

/// What a captioner returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captions {
    /// One for each region, in the order given.
    pub regions: Vec<Caption>,
    /// What the user should know about all of them, one line each.
    pub notes: Vec<String>,
}

impl Captions {
    /// Of regions that were each captioned or failed for a reason, in the order of `regions`: those that
    /// failed get the prompt.
    ///
    /// # Errors
    /// The first reason, if all failed.
    fn from_results(
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
