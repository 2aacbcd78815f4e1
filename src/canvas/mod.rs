//! The canvas: one latent for the whole enlarged picture, and the operations on it (docs/method.md §2).
//!
//! A picture of any size is denoised on ONE latent. It lies in a mapped file ([`Latent`]), is cut into
//! overlapping regions that the model can take ([`RegionGrid`]), and the regions' noise predictions are
//! blended back into one ([`Fuser`]). Its random numbers are a function of place ([`NoiseField`]).
//! All of that is plain arithmetic on `f32` slices: no tensor library, no device, nothing else of ours.
//!
//! Data is channels-last and row-major, as the model's `[B, H, W, C]` activations are:
//! element `(y, x, c)` lies at `(y * width + x) * channels + c`.
//!
//! Every result here is the same bits for any batch size, thread count or order of completion.

mod elementary;
mod error;
pub mod fuse;
pub mod grid;
pub mod latent;
pub mod noise;
pub mod size;
pub mod weights;

pub use error::CanvasError;
pub use fuse::Fuser;
pub use grid::{Region, RegionGrid};
pub use latent::Latent;
pub use noise::NoiseField;
pub use size::{CanvasSize, SizeSpec, target_size};
pub use weights::Fusion;
