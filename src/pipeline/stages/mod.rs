//! Stages of a job, one file each: caption, condition, encode, denoise, decode, write; and what some of them share. A stage
//! sees the [`Context`](context::Context) of its job and nothing else of a model.

mod canvased;
pub mod caption;
pub mod condition;
pub mod context;
mod control;
pub mod decode;
pub mod denoise;
pub mod encode;
pub mod enlarge;
mod layerwise;
mod predict;
mod preview;
pub mod resized;
mod shared_maps;
mod statistics;
#[cfg(test)]
mod testing;
mod tiles;
mod whole_colours;
pub mod write;
