//! Weights and inputs that fixtures do not store: both sides draw them from one formula (`field` and `weight` of
//! `tests/make_fixtures/make_unet_fixtures.py`).

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::tensors::relative_errors;

/// Uniform in [-1, 1): SplitMix64 keyed by FNV-1a of the name, as in the Python script.
pub fn field(name: &str, shape: &[usize]) -> Tensor {
    let key = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (1..=count as u64)
        .map(|index| {
            let mut z = key.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn weight(name: &str, shape: &[usize]) -> Tensor {
    let unit = field(name, shape);
    if shape.len() > 1 {
        let fan_in: usize = shape[1..].iter().product();
        let scale = (3.0 / fan_in as f64).sqrt() as f32;
        unit.broadcast_mul(&Tensor::new(scale, &Device::Cpu).unwrap()).unwrap()
    } else if name.ends_with(".weight") {
        ((unit * 0.25).unwrap() + 1.0).unwrap()
    } else {
        (unit * 0.25).unwrap()
    }
}

#[track_caller]
pub fn assert_close(what: &str, ours: &Tensor, reference: &Tensor, bound: f64) {
    let (largest, l2) = relative_errors(ours, reference);
    assert!(largest <= bound && l2 <= bound, "{what}: max {largest:.2e}, L2 {l2:.2e} > {bound:e}");
}

pub fn sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect()
}
