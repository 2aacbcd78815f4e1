//! Products with weights that are kept as stored: equal to products with the same weights in f32,
//! and the same bytes whatever the batch and the number of threads.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::backend::{
    Activation, Bytes, MatmulPrecision, ParamSource, Params, Stored, Weight, WeightStorage,
    WeightUse, Working,
    ops::{Conv2d, Linear},
    pack_rows, unpack_rows,
};

use crate::common::{
    on_threads,
    tensors::{bits, flat, largest_error, values},
};

const KEPT: [GgmlDType; 12] = [
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q8_0,
    GgmlDType::Q6K,
    GgmlDType::Q5K,
    GgmlDType::Q4K,
    GgmlDType::Q3K,
    GgmlDType::Q2K,
    GgmlDType::Q5_1,
    GgmlDType::Q5_0,
    GgmlDType::Q4_1,
    GgmlDType::Q4_0,
];

fn pack(rows: &Tensor, dtype: GgmlDType) -> Result<Weight> {
    Weight::pack(rows, dtype, MatmulPrecision::F32)
}

fn forward(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    layer.forward(&x.into())?.into_tensor()
}

fn packed(rows: &Tensor, dtype: GgmlDType, bias: &Tensor) -> Linear {
    Linear::from_weight(pack(rows, dtype).unwrap(), Some(bias.clone())).unwrap()
}

#[test]
fn a_packed_layer_equals_the_dense_layer_of_its_own_weights() {
    // Outputs that are no whole number of panels or strips, and more than one panel.
    for (output, input) in [(330, 256), (17, 1280), (1300, 512)] {
        let rows = values(1, &[output, input]);
        let bias = values(2, &[output]);
        let x = values(3, &[2, 300, input]);
        for dtype in KEPT {
            let bytes = pack_rows(&flat(&rows), dtype, input).unwrap();
            let same = Tensor::from_vec(unpack_rows(dtype, &bytes), (output, input), &Device::Cpu);
            let dense = Linear::new(&same.unwrap(), Some(bias.clone())).unwrap();
            let expected = forward(&dense, &x).unwrap();
            let ours = forward(&packed(&rows, dtype, &bias), &x).unwrap();
            let error = largest_error(&ours, &expected);
            assert!(error <= 1e-6, "{dtype:?} {output}×{input}: {error:.2e}");
        }
    }
}

#[test]
fn finer_formats_are_closer_to_the_weights() {
    let rows = values(1, &[64, 512]);
    let error = |dtype| {
        let bytes = pack_rows(&flat(&rows), dtype, 512).unwrap();
        let squares = |values: &[f32]| values.iter().map(|x| f64::from(x * x)).sum::<f64>();
        let difference: Vec<f32> =
            unpack_rows(dtype, &bytes).iter().zip(flat(&rows)).map(|(a, b)| a - b).collect();
        (squares(&difference) / squares(&flat(&rows))).sqrt()
    };
    for (dtype, bound) in [
        (GgmlDType::F16, 3e-4),
        (GgmlDType::BF16, 3e-3),
        (GgmlDType::Q8_0, 6e-3),
        (GgmlDType::Q6K, 0.025),
        (GgmlDType::Q5K, 0.045),
        (GgmlDType::Q4K, 0.09),
    ] {
        let error = error(dtype);
        assert!(error <= bound, "{dtype:?}: {error:.4}");
        assert!(error >= bound / 10.0, "{dtype:?}: {error:.4}, too good to be true");
    }
}

#[test]
fn a_sample_gives_the_same_bytes_in_any_batch_on_any_number_of_threads() {
    for (output, input, rows) in [(330, 256, 531), (1300, 512, 77), (17, 1280, 1)] {
        let weight = values(1, &[output, input]);
        let bias = values(2, &[output]);
        let x = values(3, &[3, rows, input]);
        for dtype in [GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q4K] {
            let layer = packed(&weight, dtype, &bias);
            let run = |threads, x: &Tensor| on_threads(threads, || forward(&layer, x).unwrap());
            let together = run(2, &x);
            for threads in [1, 2, 5] {
                assert_eq!(bits(&together), bits(&run(threads, &x)), "{dtype:?}");
                for sample in 0..3 {
                    let alone = run(threads, &x.narrow(0, sample, 1).unwrap());
                    let of_batch = together.narrow(0, sample, 1).unwrap();
                    assert_eq!(bits(&alone), bits(&of_batch), "{dtype:?}, sample {sample}");
                }
            }
        }
    }
}

/// One weight for every name, convolutions in f16.
struct Halves;

impl ParamSource for Halves {
    fn get(&self, _: &str, shape: &Shape, dtype: DType, _: &Device) -> Result<Tensor> {
        values(7, shape.dims()).to_dtype(DType::F16)?.to_dtype(dtype)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        let stored = Stored { format: GgmlDType::F16, in_file: false, keep: true };
        let storage = WeightStorage::choose(weight_use, shape, Some(stored), working)?;
        let weight = self.get(name, shape, storage.numbers(), &working.device)?;
        Weight::new(&weight, weight_use, storage)
    }
}

#[test]
fn a_convolution_kept_in_f16_equals_that_in_f32_to_the_bit() {
    let params = Params::new(Arc::new(Halves), DType::F32, &Device::Cpu);
    for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0)] {
        let weight = params.get((50, 24, kernel, kernel), "weight").unwrap();
        let bias = params.get(50, "bias").unwrap();
        let dense = Conv2d::new(&weight, Some(bias), stride, padding).unwrap();
        let kept = Conv2d::load(24, 50, kernel, stride, padding, &params).unwrap();
        let x = Activation::from(values(9, &[2, 37, 29, 24]));
        let of = |conv: &Conv2d| bits(conv.forward(&x).unwrap().tensor().unwrap());
        assert_eq!(of(&kept), of(&dense));
    }
    // 24·(9 + 9 + 1) weights of two bytes for 50 outputs in two panels of 32; of the other calls, f32.
    let f32s = 50 * 24 * (9 + 9 + 1) + 6 * 50;
    assert_eq!(params.bytes_kept(), 2 * 64 * 24 * (9 + 9 + 1) + 4 * f32s);
}

#[test]
fn rows_at_odd_addresses_are_taken_all_the_same() {
    let rows = values(1, &[20, 256]);
    let stored = pack_rows(&flat(&rows), GgmlDType::Q8_0, 256).unwrap();
    let mut shifted = vec![0u8; 3];
    shifted.extend(&stored);
    let x = values(3, &[5, 256]);
    let from = |bytes: Vec<u8>, start: usize| {
        let range = start..bytes.len();
        let storage = WeightStorage::InMemory(GgmlDType::Q8_0, MatmulPrecision::F32);
        let weight = Weight::stored(Bytes::Heap(bytes.into()), range, storage, (20, 256)).unwrap();
        assert_eq!((weight.bytes(), weight.dims()), (stored.len(), (20, 256)));
        bits(&forward(&Linear::from_weight(weight, None).unwrap(), &x).unwrap())
    };
    assert_eq!(from(stored.clone(), 0), from(shifted, 3));
}

#[test]
fn weights_that_cannot_be_kept_are_refused() {
    let rows = |input| values(1, &[4, input]);
    assert!(pack(&rows(100), GgmlDType::Q8_0).is_err());
    assert!(pack(&rows(96), GgmlDType::Q4K).is_err());
    assert!(pack(&rows(256), GgmlDType::Q8K).is_err());
    assert!(pack(&values(1, &[256]), GgmlDType::F16).is_err());
    let infinite = (rows(256) / 0.0).unwrap();
    assert!(pack(&infinite, GgmlDType::Q8_0).is_err());
    let packed = |length: usize, range| {
        let bytes = Bytes::Heap(vec![0; length].into());
        let storage = WeightStorage::InMemory(GgmlDType::F16, MatmulPrecision::F32);
        Weight::stored(bytes, range, storage, (2, 8))
    };
    assert!(packed(32, 0..32).is_ok());
    assert!(packed(32, 0..31).is_err());
    assert!(packed(32, 4..36).is_err());
    let layer = Linear::from_weight(packed(32, 0..32).unwrap(), None).unwrap();
    assert!(forward(&layer, &values(1, &[3, 9])).is_err());
    assert!(forward(&layer, &values(1, &[3, 8]).to_dtype(DType::F64).unwrap()).is_err());
}

#[test]
fn values_that_are_not_finite_stay_visible() {
    let layer = packed(&values(1, &[40, 256]), GgmlDType::Q4K, &values(2, &[40]));
    let mut x = flat(&values(3, &[7, 256]));
    x[300] = f32::NAN;
    let x = Tensor::from_vec(x, (7, 256), &Device::Cpu).unwrap();
    let y: Vec<Vec<f32>> = forward(&layer, &x).unwrap().to_vec2().unwrap();
    assert!(y[1].iter().all(|value| value.is_nan()));
    assert!(y[0].iter().all(|value| value.is_finite()));
}
