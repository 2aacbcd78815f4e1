//! `cupscale`: creative picture upscaling on the device. A few-step diffusion model repaints the
//! enlarged picture region by region, held together by three priors; `cupscale-fast` is its command.
//!
//! ```no_run
//! use cupscale::{
//!     backend::DeviceSpec,
//!     canvas::SizeSpec,
//!     image::{self, Format, Input, Output},
//!     pipeline::{self, Engine, Settings, Silent, Work},
//!     weights::{ModelFiles, ModelSource},
//! };
//!
//! # fn main() -> Result<(), pipeline::Error> {
//! let model = ModelFiles::open(ModelSource::Embedded)?;
//! let engine = Engine::load(&model, &DeviceSpec::Auto.open()?)?;
//! let picture = image::decode(&Input::Path("photo.jpg".into()))?;
//! let settings = Settings { size: SizeSpec::Scale(2.0), ..Settings::default() };
//! let output = Output::Path("out.png".into());
//! let work = Work::default();
//! let report =
//!     pipeline::upscale(&engine, &picture, &output, Format::Png, &settings, &work, &mut Silent)?;
//! assert_eq!(report.width, 2 * picture.width);
//! # Ok(())
//! # }
//! ```
//!
//! A program whose global allocator is [`backend::Allocator`] takes the memory that is planned, and is faster on
//! the CPU.
//!
//! A job runs in [`pipeline`]; each other module is one room of it, named after what it holds.

pub mod backend;
pub mod canvas;
pub mod caption;
pub mod image;
pub mod model;
pub mod pipeline;
pub mod priors;
pub mod sampler;
pub mod units;
pub mod weights;
