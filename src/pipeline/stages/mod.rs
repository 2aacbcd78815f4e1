//! Stages of a job, one file each, and what the two stages of the VAE share.

pub mod condition;
pub mod decode;
pub mod denoise;
pub mod encode;
pub mod statistics;
