//! Tensors for tests: numbers out of nothing and out of files, and how far apart they are.

use candle_core::{DType, Device, Tensor};
use cupscale::backend::Activation;
use safetensors::SafeTensors;

/// Numbers in about [-1.7, 1.7] with a variance of one, different for every seed.
pub fn values(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let numbers: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * 1.732
        })
        .collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// The numbers of a tensor of a file, which has it in f32.
pub fn stored(file: &SafeTensors, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// Whatever has values: tensors, and activations outside of a trace.
pub trait Values {
    fn tensor(&self) -> &Tensor;
}

impl Values for Tensor {
    fn tensor(&self) -> &Tensor {
        self
    }
}

impl Values for Activation {
    fn tensor(&self) -> &Tensor {
        Activation::tensor(self).unwrap()
    }
}

/// The numbers of a tensor in f32, in order.
pub fn flat(x: &impl Values) -> Vec<f32> {
    x.tensor().flatten_all().unwrap().to_vec1().unwrap()
}

pub fn bits(x: &impl Values) -> Vec<u32> {
    flat(x).into_iter().map(f32::to_bits).collect()
}

/// Errors of a finite f32 tensor against a reference: the largest difference over the largest reference
/// value, and `‖ours − reference‖ / ‖reference‖`.
#[track_caller]
pub fn relative_errors(ours: &impl Values, reference: &Tensor) -> (f64, f64) {
    let ours = ours.tensor();
    assert_eq!(ours.dims(), reference.dims());
    let reference = reference.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    let (mut largest, mut top, mut squares, mut norm) = (0f64, 0f64, 0f64, 0f64);
    for (a, b) in flat(ours).into_iter().map(f64::from).zip(reference.to_vec1::<f64>().unwrap()) {
        assert!(a.is_finite());
        largest = largest.max((a - b).abs());
        top = top.max(b.abs());
        squares += (a - b).powi(2);
        norm += b.powi(2);
    }
    (largest / top, (squares / norm).sqrt())
}

/// The first of [`relative_errors`].
#[track_caller]
pub fn largest_error(ours: &impl Values, reference: &Tensor) -> f64 {
    relative_errors(ours, reference).0
}

/// The second of [`relative_errors`].
#[track_caller]
pub fn norm_error(ours: &impl Values, reference: &Tensor) -> f64 {
    relative_errors(ours, reference).1
}

#[track_caller]
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
