//! Weights in every form in which people have them: folders, single files, GGUF, LoRAs, quantized ones.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod control;
mod distilled;
mod enlarger;
mod files;
mod flux2;
mod flux2_klein;
mod gguf;
mod guided;
mod lora;
mod model;
mod pixart;
mod quantize;
mod qwen3;
mod sd3;
mod single_file;
mod text_encoder;
mod z_image;
