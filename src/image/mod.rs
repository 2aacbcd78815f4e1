//! Pictures in and out: decode, resize, encode row by row, colour, alpha and metadata.
//!
//! [`decode`] gives a [`Picture`] of gamma-encoded f32 RGB in [0, 1], upright, with its alpha, colour
//! profile, EXIF, XMP and resolution beside it. [`Resizer`] enlarges it band by band, and [`Encoder`]
//! takes the output band by band, so that nothing holds a whole output, except an [`Output::Buffer`].
//!
//! ```no_run
//! use cupscale::image::{self, Encoder, EncodeOptions, Format, Input, Output};
//!
//! # fn main() -> image::Result<()> {
//! let picture = image::decode(&Input::Path("photo.jpg".into()))?;
//! let (width, height) = (picture.width * 2, picture.height * 2);
//! let options = EncodeOptions::like(&picture);
//! let mut writer = Encoder::create(&Output::Path("out.png".into()), Format::Png, width, height, options)?;
//! let rgb = picture.resizer(width, height)?;
//! let alpha = picture.alpha_resizer(width, height)?;
//! for y in (0..height).step_by(64) {
//!     let rows = y..(y + 64).min(height);
//!     let alpha_rows = alpha.as_ref().map(|a| a.rows(rows.clone()));
//!     writer.write_rows(&rgb.rows(rows), alpha_rows.as_deref())?;
//! }
//! writer.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! This room imports nothing from the others.

mod above_white;
mod alpha;
mod assemble;
mod canny;
mod colour;
mod comparison;
mod decode;
mod encode;
mod error;
mod foreign;
mod format;
mod gaussian;
mod input;
mod light;
pub(crate) mod metadata;
mod output;
mod picture;
mod pixels;
mod plane;
mod primaries;
mod read_options;
mod resize;
mod screen;
mod sink;
mod source;

pub use canny::canny;
pub(crate) use colour::ScreenColours;
pub use colour::profile_name;
pub use comparison::{Comparison, Detail};
pub use decode::{InputKind, Opened, decode, decode_bytes, kind_of, open};
pub use encode::{DEFAULT_QUALITY, EncodeOptions, Encoder, PictureWriter};
pub use error::{ImageError, Result, Warning};
pub use format::{Format, UnknownFormat};
pub use gaussian::{blur_radius, blurred};
pub use input::Input;
pub use light::Light;
pub use metadata::{ColourChunk, DEFAULT_MAX_METADATA, Metadata, Text, read_settings, settings_in};
pub use output::{Buffer, Output, OutputWriter, Stream};
pub use picture::{MAX_PIXELS, Picture, PictureShape};
pub use pixels::{PixelFormat, PixelRows, UnknownPixelFormat};
pub use plane::Plane;
pub(crate) use plane::{MEMORY_BYTES, PlaneBuilder, Scratch};
pub use read_options::ReadOptions;
pub(crate) use resize::RowResizer;
pub use resize::{Filter, Resizer};
