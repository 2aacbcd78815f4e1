//! The networks, each built from its `config.json` in diffusers layout. No file here knows of
//! regions or priors: a cross-attention takes an optional `prior` tensor, that is all.

mod clip_layer;
pub mod llava;
pub mod text;
pub mod unet;
pub mod vae;
