//! Every operation of `backend::ops` against torch (`tests/make_fixtures/make_ops_fixtures.py`).

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::backend::ops::{
    Conv2d, CropRect, GroupNorm, LayerNorm, Linear, Mask, add_gated, attention, attention_parts,
    crop_resize, geglu, gelu, gelu_tanh, modulated_norm, quick_gelu, silu, upsample_nearest_2x,
};
use cupscale::backend::{Activation, MatmulPrecision, Params};
use serde_json::Value;

use crate::common::{
    fixture,
    tensors::{largest_error, values},
};

/// Bound on the largest difference over the largest reference value.
const BOUND: f64 = 1e-5;

struct Fixture {
    tensors: HashMap<String, Tensor>,
    meta: Value,
}

impl Fixture {
    fn load() -> Self {
        let folder = fixture("ops");
        let tensors =
            candle_core::safetensors::load(folder.join("ops.safetensors"), &Device::Cpu).unwrap();
        let meta =
            serde_json::from_str(&fs::read_to_string(folder.join("ops.json")).unwrap()).unwrap();
        Self { tensors, meta }
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// The same, as operations take it.
    fn input(&self, name: &str) -> Activation {
        self.get(name).into()
    }

    /// The cases of one operation and their settings.
    fn cases(&self, operation: &str) -> Vec<(String, &Value)> {
        let prefix = format!("{operation}.");
        let cases: Vec<_> = self
            .meta
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, settings)| (name.clone(), settings))
            .collect();
        assert!(!cases.is_empty());
        cases
    }

    #[track_caller]
    fn assert_equals(&self, name: &str, ours: &Activation) {
        let error = largest_error(ours.tensor().unwrap(), self.get(name));
        assert!(error <= BOUND, "{name}: {error:.2e}");
    }
}

fn number(settings: &Value, name: &str) -> usize {
    settings[name].as_u64().unwrap() as usize
}

#[test]
fn convolutions_equal_torch_for_every_stride_padding_and_odd_size() {
    let fixture = Fixture::load();
    for (name, settings) in fixture.cases("conv") {
        let (stride, padding) = (number(settings, "stride"), number(settings, "padding"));
        let x = &fixture.input(&format!("{name}.x"));
        let weight = fixture.get(&format!("{name}.weight"));
        let bias = fixture.get(&format!("{name}.bias")).clone();
        let conv = Conv2d::new(weight, Some(bias), stride, padding).unwrap();
        fixture.assert_equals(&format!("{name}.y"), &conv.forward(x).unwrap());
        let conv = Conv2d::new(weight, None, stride, padding).unwrap();
        fixture.assert_equals(&format!("{name}.y_no_bias"), &conv.forward(x).unwrap());
    }
}

#[test]
fn a_convolution_of_a_strided_view_equals_that_of_its_copy() {
    let fixture = Fixture::load();
    let x = fixture.input("conv.3x3.x");
    let view = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    let view = view.permute((0, 2, 3, 1)).unwrap();
    assert!(!view.is_contiguous());
    let weight = fixture.get("conv.3x3.weight");
    let conv = Conv2d::new(weight, None, 1, 1).unwrap();
    fixture.assert_equals("conv.3x3.y_no_bias", &conv.forward(&view).unwrap());
}

#[test]
fn a_convolution_refuses_other_channels_and_pictures_below_its_kernel() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let conv = Conv2d::new(&zeros(&[2, 3, 3, 3]), None, 1, 0).unwrap();
    assert!(conv.forward(&zeros(&[1, 5, 5, 4]).into()).is_err());
    assert!(conv.forward(&zeros(&[1, 2, 5, 3]).into()).is_err());
    assert!(conv.forward(&zeros(&[1, 3, 3, 3]).into()).is_ok());
    assert!(Conv2d::new(&zeros(&[2, 3, 3, 1]), None, 1, 0).is_err());
}

fn norm_vars(fixture: &Fixture, name: &str) -> Params {
    let tensors = ["weight", "bias"]
        .map(|part| (part.to_owned(), fixture.get(&format!("{name}.{part}")).clone()));
    Params::from_tensors(HashMap::from(tensors), DType::F32, &Device::Cpu)
}

#[test]
fn group_norm_equals_torch_even_far_from_zero() {
    let fixture = Fixture::load();
    for (name, settings) in fixture.cases("group_norm") {
        let x = &fixture.input(&format!("{name}.x"));
        let (_, _, _, channels) = x.dims4().unwrap();
        let (groups, eps) = (number(settings, "groups"), settings["eps"].as_f64().unwrap());
        let norm = GroupNorm::load(groups, channels, eps, &norm_vars(&fixture, &name)).unwrap();
        fixture.assert_equals(&format!("{name}.y"), &norm.forward(x).unwrap());
        fixture.assert_equals(&format!("{name}.y_silu"), &norm.forward_silu(x).unwrap());
    }
}

#[test]
fn layer_norm_equals_torch() {
    let fixture = Fixture::load();
    let norm = LayerNorm::load(21, 1e-5, &norm_vars(&fixture, "layer_norm")).unwrap();
    fixture.assert_equals("layer_norm.y", &norm.forward(&fixture.input("layer_norm.x")).unwrap());
}

#[test]
fn attention_equals_torch_for_every_mask_head_count_and_odd_length() {
    let fixture = Fixture::load();
    for (name, settings) in fixture.cases("attention") {
        let [q, k, v] = ["q", "k", "v"].map(|part| fixture.input(&format!("{name}.{part}")));
        let causal = settings["causal"].as_bool().unwrap();
        let mask = if causal { Mask::Causal } else { Mask::None };
        let y =
            attention(&q, &k, &v, number(settings, "heads"), mask, MatmulPrecision::F32).unwrap();
        fixture.assert_equals(&format!("{name}.y"), &y);
    }
}

#[test]
fn the_parts_of_two_sets_of_keys_are_those_of_the_whole_attention() {
    // The scores of the second set are small, usual, and so large that little is left of the first.
    for (scale, queries) in [(0.1, 3), (1.0, 67), (12.0, 130)] {
        let of = |seed, tokens| values(seed, &[2, tokens, 48]);
        let (q, keys) = (of(1, queries), [of(2, 131), (of(3, 19) * scale).unwrap()]);
        let vs = [of(4, 131), of(5, 19)];
        // In f64 it is composed of two calls of attention, with zeros in the place of the other set's values.
        let [exact, ours] = [DType::F64, DType::F32].map(|dtype| {
            let [q, k1, v1, k2, v2] = [&q, &keys[0], &vs[0], &keys[1], &vs[1]]
                .map(|x| Activation::from(x.to_dtype(dtype).unwrap()));
            let sets = [[&k1, &v1], [&k2, &v2]];
            attention_parts(&q, sets, 3, MatmulPrecision::F32).unwrap()
        });
        let joined = |pair: &[Tensor; 2]| Activation::from(Tensor::cat(pair, 1).unwrap());
        let whole = attention(
            &(&q).into(),
            &joined(&keys),
            &joined(&vs),
            3,
            Mask::None,
            MatmulPrecision::F32,
        );
        let sum = ours[0].add(&ours[1]).unwrap();
        let error = largest_error(&sum, whole.unwrap().tensor().unwrap());
        assert!(error <= 1e-5, "{scale}: the sum is {error:e} from the whole");
        for (ours, exact) in ours.iter().zip(&exact) {
            let exact = exact.tensor().unwrap().to_dtype(DType::F32).unwrap();
            let difference = (ours.tensor().unwrap() - &exact).unwrap().abs().unwrap();
            let largest = difference.flatten_all().unwrap().max(0).unwrap();
            assert!(largest.to_scalar::<f32>().unwrap() <= 1e-5, "{scale}: {largest}");
        }
    }
    let x = Activation::from(values(1, &[1, 4, 48]));
    let none = Activation::from(values(1, &[1, 0, 48]));
    assert!(attention_parts(&x, [[&x, &x], [&none, &none]], 3, MatmulPrecision::F32).is_err());
    assert!(attention_parts(&x, [[&x, &x], [&x, &x]], 5, MatmulPrecision::F32).is_err());
}

#[test]
fn attention_refuses_heads_that_do_not_divide_the_width() {
    let x = Activation::from(Tensor::zeros((1, 4, 10), DType::F32, &Device::Cpu).unwrap());
    assert!(attention(&x, &x, &x, 3, Mask::None, MatmulPrecision::F32).is_err());
    assert!(attention(&x, &x, &x, 0, Mask::None, MatmulPrecision::F32).is_err());
}

#[test]
fn pointwise_operations_equal_torch() {
    let fixture = Fixture::load();
    let x = &fixture.input("pointwise.x");
    fixture.assert_equals("pointwise.silu", &silu(x).unwrap());
    fixture.assert_equals("pointwise.gelu", &gelu(x).unwrap());
    fixture.assert_equals("pointwise.gelu_tanh", &gelu_tanh(x).unwrap());
    fixture.assert_equals("pointwise.quick_gelu", &quick_gelu(x).unwrap());
    fixture.assert_equals("pointwise.geglu", &geglu(x).unwrap());
    assert!(geglu(&x.narrow(2, 0, 5).unwrap()).is_err());
}

#[test]
fn norms_and_sums_with_numbers_of_each_sample_equal_torch() {
    let fixture = Fixture::load();
    let [x, y, scale, shift, gate] = ["x", "y", "scale", "shift", "gate"]
        .map(|name| fixture.input(&format!("modulated.{name}")));
    let normed = modulated_norm(&x, &scale, &shift, 1e-6).unwrap();
    fixture.assert_equals("modulated.norm", &normed);
    fixture.assert_equals("modulated.gated", &add_gated(&x, &y, &gate).unwrap());
    let other = gate.narrow(0, 0, 2).unwrap();
    assert!(modulated_norm(&x, &scale, &other, 1e-6).is_err());
    assert!(add_gated(&x, &y, &other).is_err());
}

#[test]
fn linear_layers_equal_torch_on_any_number_of_dimensions() {
    let fixture = Fixture::load();
    let (x, weight) = (&fixture.input("linear.x"), fixture.get("linear.weight"));
    let linear = Linear::new(weight, Some(fixture.get("linear.bias").clone())).unwrap();
    fixture.assert_equals("linear.y", &linear.forward(x).unwrap());
    let rows = linear.forward(&x.reshape((42, 19)).unwrap()).unwrap();
    fixture.assert_equals("linear.y", &rows.reshape((2, 3, 7, 13)).unwrap());
    let linear = Linear::new(weight, None).unwrap();
    fixture.assert_equals("linear.y_no_bias", &linear.forward(x).unwrap());
}

#[test]
fn upsampling_equals_torch_nearest() {
    let fixture = Fixture::load();
    let y = upsample_nearest_2x(&fixture.input("upsample.x")).unwrap();
    fixture.assert_equals("upsample.y", &y);
}

#[test]
fn crop_resize_equals_torch_grid_sample() {
    let fixture = Fixture::load();
    let x = &fixture.input("crop_resize.x");
    for (index, crop) in fixture.meta["crop_resize"].as_array().unwrap().iter().enumerate() {
        let at = |index: usize| crop[index].as_f64().unwrap();
        let rect = CropRect { top: at(0), left: at(1), height: at(2), width: at(3) };
        let y = crop_resize(x, rect, at(4) as usize, at(5) as usize).unwrap();
        fixture.assert_equals(&format!("crop_resize.{index}"), &y);
    }
}
