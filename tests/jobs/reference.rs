//! What jobs by the method's PyTorch form are held against: the samples of `out.png`, and their distance from a reference.

use candle_core::Tensor;

use crate::common::{
    Shell,
    tensors::{flat, largest_difference},
};

/// Width, height and samples in 0..=1 of the output, which has the 16 bits of its input.
pub fn samples(shell: &Shell) -> ((u32, u32), Vec<f32>) {
    let picture = pictures::open(shell.path("out.png"));
    let picture = picture.as_rgb16().expect("a 16-bit input gives a 16-bit output");
    let samples = picture.iter().map(|&value| f32::from(value) / 65535.0).collect();
    (picture.dimensions(), samples)
}

/// Largest difference of the output from the reference, `[H, W, 3]`, relative to the reference's maximum.
pub fn error_of_output(shell: &Shell, reference: &Tensor) -> f32 {
    let (size, ours) = samples(shell);
    let (height, width, _) = reference.dims3().unwrap();
    assert_eq!(size, (width as u32, height as u32));
    let reference = flat(reference);
    let largest = reference.iter().copied().fold(0f32, f32::max);
    largest_difference(&ours, &reference) / largest
}
