//! Everything numeric against the original implementations, on fixtures by tests/make_fixtures; and the
//! CPU's kernels, and those of a GPU that is there, against the composed forms.

#[path = "../common/mod.rs"]
mod common;

mod gpu;
mod img2img;
mod llava;
mod ops;
mod ops_decoder;
mod ops_determinism;
mod ops_packed;
mod pixart;
mod qwen3;
mod sampler;
mod sd3;
mod t5;
mod text;
mod unet;
mod vae;
mod z_image;
