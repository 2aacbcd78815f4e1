//! Networks, each built from its `config.json` in diffusers layout. No file here knows of regions, nor
//! of what a prior means: a cross-attention takes an optional tensor, that is all. All of them take and
//! give activations, so that a memory trace can drive the very same code.

mod clip_layer;
mod decoder_layer;
pub mod denoiser;
pub mod enlarger;
pub mod llava;
pub mod text;
pub mod vae;
