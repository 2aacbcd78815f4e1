//! Everything numeric against the original implementations, on fixtures by tests/make_fixtures; and the
//! CPU's kernels, and those of a GPU that is there, against the composed forms.

#[path = "../common/mod.rs"]
mod common;

mod control;
mod enlarger;
mod flux2;
mod flux2_klein;
mod gpu;
mod img2img;
mod llava;
mod ops;
mod ops_decoder;
mod ops_determinism;
mod ops_packed;
mod pixart;
mod prompt;
mod qwen3;
mod sampler;
mod sd3;
mod t5;
mod text;
mod transformer;
mod unet;
mod vae;
mod z_image;

/// Places of regions in a picture, as fixtures write them: top, left, height and width as shares of it.
fn crop_rects(rects: &serde_json::Value) -> Vec<cupscale::backend::ops::CropRect> {
    let rect = |rect: &serde_json::Value| {
        let at = |index: usize| rect[index].as_f64().unwrap();
        cupscale::backend::ops::CropRect { top: at(0), left: at(1), height: at(2), width: at(3) }
    };
    rects.as_array().unwrap().iter().map(rect).collect()
}
