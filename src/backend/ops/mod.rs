//! The operations that every model here is made of. Each has a composed form out of candle's own
//! tensor functions, which runs on any device and is the reference in tests; where it pays, a
//! kernel stands behind the same function (`cpu`, for f32). No model file calls a convolution, a norm or an
//! attention in any other way, so a kernel changes no model.
//!
//! Activations are channels-last: pictures `[B, H, W, C]`, tokens `[B, N, C]`; the former reshaped
//! to `[B, H·W, C]` is the same memory.

mod activation;
mod attention;
mod combine;
mod conv2d;
mod cpu;
mod crop_resize;
mod embedding;
mod linear;
pub mod memory;
mod moments;
mod norm;
mod products;
mod weight;

pub use activation::{geglu, gelu, quick_gelu, silu, swiglu};
pub use attention::{Mask, attention};
pub use combine::{add, join};
pub use conv2d::{Conv2d, upsample_nearest_2x};
pub(crate) use cpu::add_product;
pub use crop_resize::{CropRect, crop_resize};
pub use embedding::Embedding;
pub use linear::Linear;
pub use moments::GroupMoments;
pub use norm::{GroupNorm, LayerNorm, RmsNorm};
pub use products::Products;
pub use weight::{Weight, pack_rows};
