//! Jobs and what they consist of: pictures in and out, the canvas and its noise, VAE tiles, the work folder
//! of a job that was killed, the method as a whole, and diffusers' own pipelines.

#[path = "../common/mod.rs"]
mod common;

mod canvas;
mod control;
mod decode;
mod devices;
mod encode;
mod everyday;
mod families;
mod first;
mod flux2_klein;
mod generate;
mod inputs;
mod kept;
mod kills;
mod kinds;
mod light;
mod mask;
mod method;
mod noise;
mod pipeline;
mod pixart;
mod plain_places;
mod prompt;
mod reference;
mod resize;
mod resume;
mod sd3;
mod vae_disk;
mod vae_tiles;
mod z_image;
