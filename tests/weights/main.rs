//! Weights in every form in which people have them: folders, single files, GGUF, LoRAs, quantized ones.

#[path = "../common/mod.rs"]
mod common;

mod control;
mod files;
mod flux2;
mod flux2_klein;
mod gguf;
mod lora;
mod model;
mod pixart;
mod quantize;
mod sd3;
mod single_file;
mod text_encoder;
mod z_image;
