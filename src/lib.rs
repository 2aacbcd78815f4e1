//! `cupscale`: creative picture upscaling on the device. A few-step diffusion model repaints the
//! enlarged picture region by region, held together by three priors; `cupscale-fast` is its command.
//!
//! An [`Engine`](pipeline::Engine) is a model on a device, ready for any number of jobs;
//! [`upscale`](pipeline::upscale) runs one. The library never prints. A job tells a
//! [`Progress`](pipeline::Progress) how far it is, and `tracing` spans say where the time goes.
//!
//! ```no_run
//! # #[cfg(feature = "embedded-model")]
//! # fn main() -> Result<(), cupscale::pipeline::Error> {
//! use cupscale::{
//!     backend::DeviceSpec,
//!     canvas::SizeSpec,
//!     image::{self, Format, Input, Output},
//!     pipeline::{self, Engine, Settings, Silent, WorkOptions},
//!     weights::{ModelFiles, ModelSource},
//! };
//!
//! let model = ModelFiles::open(ModelSource::Embedded)?;
//! let engine = Engine::load(&model, &DeviceSpec::Auto.open()?)?;
//! let picture = image::decode(&Input::Path("photo.jpg".into()))?;
//! let mut settings = Settings::default();
//! settings.size = SizeSpec::Scale(2.0);
//! let output = Output::Path("out.png".into());
//! let work = WorkOptions::default();
//! let report =
//!     pipeline::upscale(&engine, &picture, &output, Format::Png, &settings, &work, &mut Silent)?;
//! assert_eq!(report.width, 2 * picture.width);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "embedded-model"))]
//! # fn main() {}
//! ```
//!
//! Pictures come from files, streams, bytes or pixels ([`Input`](image::Input), [`Picture`](image::Picture)), and
//! go to files, streams, writers or buffers ([`Output`](image::Output)). `examples/` has a file, a buffer and a
//! folder, each a program of its own.
//!
//! Without its default features the library leaves out what only the program needs (`cli`) and the model of 21 MiB
//! inside it (`embedded-model`). Tensors and devices are [`candle`]'s.
//!
//! Data flows from `pipeline` down to the other modules.

pub mod backend;
pub mod canvas;
pub mod caption;
// What fuzz/ reaches of the inside; in no build but its own.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
// Hidden: not a stable interface. Public because tests/ and benches/ compare every part with its reference.
mod host;
mod lease;
#[doc(hidden)]
pub mod model;
mod new_file;
// Hidden: for the program of this package.
#[doc(hidden)]
pub mod pipe;
pub mod pipeline;
// Hidden for the same reason.
#[doc(hidden)]
pub mod priors;
mod ranges;
pub mod sampler;
// Hidden: for the program of this package.
#[doc(hidden)]
pub mod temporary;
pub mod units;
pub mod weights;

/// The tensor library of this crate's interfaces, in the version that goes with them.
pub use candle_core as candle;
