//! `cupscale`: creative picture upscaling on the device.

pub mod backend;
pub mod canvas;
pub mod caption;
pub mod image;
pub mod model;
pub mod pipeline;
pub mod priors;
pub mod sampler;
pub mod weights;
