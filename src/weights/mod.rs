//! From the forms in which users have weights to tensors by name: folders in diffusers layout, the
//! embedded model, which is one, and GGUF files; LoRAs change the tensors on the way; and back into a
//! GGUF file, quantized. The rest of the program never opens a weights file.

mod diffusers;
mod embedded;
mod error;
mod form;
mod gguf;
pub mod hub;
mod kept;
mod ldm;
mod lora;
mod model;
mod quantize;
pub mod registry;
mod source;
mod tensors;

pub use error::WeightsError;
pub use form::Part;
pub use gguf::Summary;
pub use lora::LoraError;
pub use model::{Component, ModelFiles};
pub use quantize::QuantType;
pub use source::{Bytes, ModelSource};
