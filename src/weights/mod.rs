//! From the forms in which users have weights to tensors by name: folders in diffusers layout, the
//! embedded model, which is one, and GGUF files; and back into a GGUF file, quantized. The rest of
//! the program never opens a weights file.

mod diffusers;
mod embedded;
mod error;
mod form;
mod gguf;
mod model;
mod quantize;
mod source;
mod tensors;

pub use error::WeightsError;
pub use form::Part;
pub use gguf::Summary;
pub use model::{Component, ModelFiles};
pub use quantize::QuantType;
pub use source::{Bytes, ModelSource};
