//! Weights: from the forms in which users have them to networks. Folders in diffusers layout (the embedded model is
//! one), single files with the training code's names, GGUF files, and parts of a model by themselves become
//! tensors by name ([`ModelFiles`]); LoRAs change the tensors on the way; and a model goes back into a GGUF file,
//! quantized. The rest of the program never opens a weights file.
//!
//! A weight passes through these stages: bytes of a mapped file (`source`), tensors by our names (`tensors`), changes
//! by LoRAs (`lora`), the format in which it is kept (`kept`), and the parameters that a network asks for.
//! `families` knows what differs between kinds of denoisers; `form` is the interface to every form.

mod choice;
mod clip_vocabulary;
mod contents;
mod control;
mod diffusers;
#[cfg(feature = "embedded-model")]
mod embedded;
mod embedding;
mod enlarger;
mod error;
mod families;
mod file_kind;
mod fingerprint;
mod form;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gguf;
mod headers;
pub mod hub;
mod kept;
mod lazy;
mod llava;
mod lora;
mod model;
mod part;
mod part_file;
mod part_folder;
mod quantize;
mod quoted;
mod qwen_vocabulary;
mod read_options;
pub mod registry;
mod replace;
mod safetensors_header;
mod single_file;
mod small_file;
mod source;
mod t5_vocabulary;
mod take;
mod tensors;
mod text_encoder;
mod tokenizer_files;
mod weights_file;
mod with_embedding;

pub use choice::{
    CaptionerChoice, ChoiceError, ChosenModel, ModelChoice, named_enlarger, names_embedded,
};
pub use contents::FileContents;
pub use enlarger::EnlargerFiles;
pub use error::WeightsError;
#[cfg(feature = "mistralrs")]
pub(crate) use fingerprint::folder_fingerprint;
pub use gguf::Summary;
pub use headers::Footprint;
pub use lazy::Lazy;
pub use llava::LlavaFiles;
pub use lora::{LoraError, LoraScale};
pub use model::{Component, ModelFiles};
pub use part::Part;
pub use quantize::QuantType;
pub use source::{EMBEDDED_MODEL, ModelSource};
