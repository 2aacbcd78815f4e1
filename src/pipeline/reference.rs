//! The reference of blending and colour fixes in tests: `tests/make_fixtures/make_blend_fixtures.py`.

use candle_core::{Device, safetensors};

/// Width of its pictures.
pub const WIDTH: usize = 40;

/// A picture of the reference, `[height, width, 3]` in −1…1.
pub fn tensor(name: &str) -> Vec<f32> {
    let file = include_bytes!("../../tests/fixtures/blend/blend.safetensors");
    let tensors = safetensors::load_buffer(file, &Device::Cpu).unwrap();
    tensors[name].flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks that two pictures differ nowhere by more than this.
pub fn close(ours: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(ours.len(), expected.len());
    let difference = ours.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= bound, "the largest difference is {difference}");
}
