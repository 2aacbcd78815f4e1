//! Words for regions: the text side of the Regional Semantic Prior (docs/method.md §5).
//!
//! A [`Captioner`] is opened for a picture; its [`CaptionSession`] is given every region of the enlarged
//! low-resolution picture and the user's prompt, and returns one caption per region: the text that conditions the
//! model there. Captioners are exchangeable:
//!
//! | name | module | method |
//! |---|---|---|
//! | `attributes` | [`attributes`] | measures colours, light and texture; needs no model |
//! | `none` | [`none`] | every region gets the prompt of the whole picture |
//! | `llava` | [`llava`] | asks a LLaVA model, all regions in one batch |
//! | `mistralrs` | [`worker`], `mistralrs` (feature `mistralrs`) | asks a vision model of mistral.rs, in a process of its own |
//! | `file` | [`mod@file`] | reads captions a person (or another engine) wrote, see [`document`] |
//!
//! A captioner gets all regions at once, as a [`RegionSource`], so that it may batch them as it likes; pixels
//! are produced on demand, so that nobody has to hold the whole enlarged picture. A region that cannot be
//! captioned falls back to the prompt, with the reason ([`Caption::fallback`]); only a failure of the whole job is
//! a [`CaptionError`]. Captioners with a model are a [`vision::VisionModel`] behind a
//! [`vision::VisionSession`]; the [`cache`] is a decorator around any of them.
//!
//! ```
//! use cupscale::caption::{
//!     CaptionContext, CaptionSession, GridSpec, Pixels, Rect, RegionImage, RegionPlace,
//! };
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
mod captioner;
pub mod document;
mod error;
pub mod file;
mod key;
pub mod llava;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod none;
mod region;
mod text;
pub mod vision;
pub mod wording;
pub mod worker;

pub use captioner::{
    CaptionBatch, CaptionMemory, CaptionNeeds, CaptionRequest, CaptionSession, Captioner,
    RegionProgress, SessionContext,
};
pub use error::CaptionError;
pub use region::{CaptionContext, GridSpec, Pixels, Rect, RegionImage, RegionPlace, RegionSource};
pub use text::{Caption, Captions, join_prompt};
