//! From the forms in which users have weights to tensors by name: folders in diffusers layout, and
//! the embedded model, which is one. The rest of the program never opens a weights file.

mod embedded;
mod error;
pub mod hub;
mod model;
pub mod registry;
mod source;
mod tensors;

pub use error::WeightsError;
pub use model::{Component, LoadedModel, ModelFiles, load_model};
pub use source::{Bytes, ModelSource};
