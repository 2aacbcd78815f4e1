//! From the forms in which users have weights to tensors by name: folders in diffusers layout, and
//! the embedded model, which is one; LoRAs change the tensors on the way. The rest of the program never opens a weights file.

mod diffusers;
mod embedded;
mod error;
mod form;
pub mod hub;
mod ldm;
mod lora;
mod model;
pub mod registry;
mod source;
mod tensors;

pub use error::WeightsError;
pub use form::Part;
pub use lora::LoraError;
pub use model::{Component, ModelFiles};
pub use source::{Bytes, ModelSource};
