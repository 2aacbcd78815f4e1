//! From the forms in which users have weights to tensors by name: folders in diffusers layout (the
//! embedded model is one), single files with ldm's names, GGUF files, and parts of a model by themselves;
//! LoRAs change the tensors on the way; and back into a GGUF file, quantized. The rest of the program
//! never opens a weights file.

mod clip_vocabulary;
mod diffusers;
#[cfg(feature = "embedded-model")]
mod embedded;
mod error;
mod fingerprint;
mod form;
mod gguf;
mod headers;
pub mod hub;
mod kept;
mod lazy;
mod ldm;
mod llava;
mod lora;
mod model;
mod part_file;
mod part_folder;
mod quantize;
pub mod registry;
mod replace;
mod shapes;
mod single_file;
mod source;
mod tensors;

pub use error::WeightsError;
#[cfg(feature = "mistralrs")]
pub(crate) use fingerprint::folder_fingerprint;
pub use form::Part;
pub use gguf::Summary;
pub use headers::Footprint;
pub use lazy::Lazy;
pub use llava::LlavaFiles;
pub use lora::LoraError;
pub use model::{Component, ModelFiles};
pub use quantize::QuantType;
pub use source::{Bytes, ModelSource};
