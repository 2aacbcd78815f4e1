//! Jobs and what they consist of: pictures in and out, the canvas and its noise, VAE tiles, the work folder
//! of a job that was killed, and the method as a whole.

#[path = "../common/mod.rs"]
mod common;

mod canvas;
mod decode;
mod encode;
mod kinds;
mod method;
mod noise;
mod resize;
mod resume;
mod vae_tiles;
