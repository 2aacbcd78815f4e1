//! From the forms in which users have weights to tensors by name: folders in diffusers layout (the
//! embedded model is one), single files with ldm's names, and parts of a model by themselves. The
//! rest of the program never opens a weights file.

mod clip_vocabulary;
mod diffusers;
mod embedded;
mod error;
mod form;
mod ldm;
mod model;
mod part_folder;
mod replace;
mod shapes;
mod single_file;
mod source;
mod tensors;

pub use error::WeightsError;
pub use form::Part;
pub use model::{Component, ModelFiles};
pub use source::{Bytes, ModelSource};
