//! The transformer of FLUX.2 against diffusers, and the attention prior of its blocks of both kinds against literal attention
//! maps. The fixtures are made by `tests/make_fixtures/make_flux2_fixtures.py`; weights and inputs are drawn here from the same
//! formula as there, so only outputs are stored.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::{
    backend::{Activation, MatmulPrecision, Params},
    model::denoiser::{
        Conditioning, Denoiser, MicroConditioning, Prior,
        flux2::{Flux2Config, Flux2Transformer},
    },
    model::text::TextConditioning,
    priors::attention::AttentionPrior,
};
use serde_json::Value;

use crate::common::{
    drawn::{assert_close, field, sizes, weight},
    fixture,
    tensors::relative_errors,
};
use crate::crop_rects;

const CASES: [&str; 3] = ["klein", "rare", "text"];

struct Case {
    description: Value,
    expected: HashMap<String, Tensor>,
    model: Denoiser,
    /// products are those of the reference's precision
    is_exact: bool,
}

/// What a call takes.
struct Inputs {
    sample: Tensor,
    cond: Conditioning,
}

fn weights(description: &Value) -> HashMap<String, Tensor> {
    let shapes = description["shapes"].as_object().unwrap().iter();
    shapes.map(|(name, shape)| (name.clone(), weight(name, &sizes(shape)))).collect()
}

fn conditions(
    model: &Denoiser,
    context: impl Into<Activation>,
    lengths: Option<Vec<usize>>,
) -> candle_core::Result<Conditioning> {
    let text = TextConditioning { context: context.into(), pooled: None, lengths };
    model.condition(&text, MicroConditioning { original: (1, 1), crop: (0, 0), target: (1, 1) })
}

impl Case {
    fn load(name: &str) -> Self {
        Self::load_as(name, DType::F32, MatmulPrecision::F32)
    }

    fn load_as(name: &str, dtype: DType, precision: MatmulPrecision) -> Self {
        let text = fs::read_to_string(fixture(&format!("flux2/{name}.json"))).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        let vb = Params::from_tensors(weights(&description), dtype, &Device::Cpu)
            .with_precision(precision);
        let config = Flux2Config::from_value(&description["config"]).unwrap();
        let model = Denoiser::from(Flux2Transformer::load(config, &vb).unwrap());
        let path = fixture(&format!("flux2/{name}.safetensors"));
        let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let is_exact = dtype == DType::F32 && precision == MatmulPrecision::F32;
        Self { description, expected, model, is_exact }
    }

    fn inputs(&self, kind: &str) -> Inputs {
        let of_kind = &self.description["inputs"][kind];
        let input = |name: &str| {
            let place = &of_kind[name];
            field(place[0].as_str().unwrap(), &sizes(&place[1]))
        };
        let sample = input("sample").permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        Inputs { sample, cond: conditions(&self.model, input("context"), None).unwrap() }
    }

    fn run(&self, inputs: &Inputs, prior: Prior) -> Tensor {
        let timestep = self.description["timestep"].as_f64().unwrap();
        let sample = Activation::from(&inputs.sample);
        let output = self.model.forward(&sample, timestep, &inputs.cond, prior).unwrap();
        output.into_tensor().unwrap().to_dtype(DType::F32).unwrap()
    }

    /// The priors of the regions, and their weight.
    fn prior(&self) -> (Vec<Activation>, f64) {
        let low = self.inputs("low");
        let mut layers = Vec::new();
        let plain = self.run(&low, Prior::None);
        let recorded = self.run(&low, Prior::Record(&mut layers));
        // In parts or as a whole, it is the same attention.
        let bound = if self.is_exact { 1e-5 } else { 3e-2 };
        assert_close("while recording", &recorded, &plain, bound);
        let rects = crop_rects(&self.description["rects"]);
        let (_, height, width, _) = self.inputs("regions").sample.dims4().unwrap();
        let sizes = self.model.prior_sizes(height, width);
        assert_eq!(layers.len(), sizes.len());
        let prior = AttentionPrior::new(layers).unwrap();
        let layers = prior.for_regions(&rects, &sizes).unwrap();
        (layers, self.description["weight"].as_f64().unwrap())
    }

    fn blended(&self) -> Tensor {
        let (layers, weight) = self.prior();
        self.run(&self.inputs("regions"), Prior::Blend { layers: &layers, weight })
    }
}

#[test]
fn the_transformer_computes_what_diffusers_computes_for_pictures_of_any_size() {
    for name in CASES {
        let case = Case::load(name);
        let output = case.run(&case.inputs("plain"), Prior::None);
        assert_close(name, &output, &case.expected["output"], 1e-5);
    }
}

#[test]
fn the_prior_of_two_streams_and_of_one_equals_literal_attention_maps() {
    for name in CASES {
        let case = Case::load(name);
        let expected = &case.expected["blended"];
        let blended = case.blended();
        assert_close(name, &blended, expected, 1e-5);
        let without = case.run(&case.inputs("regions"), Prior::None);
        let (apart, _) = relative_errors(&without, expected);
        assert!(apart > 1e-2, "{name}: the fixture could not tell a prior from none: {apart}");
    }
}

#[test]
fn products_in_bf16_and_the_composed_forms_of_half_precision_stay_near_the_reference() {
    for name in CASES {
        let mut cases = vec![Case::load_as(name, DType::F16, MatmulPrecision::F32)];
        if MatmulPrecision::Bf16.is_available() {
            cases.push(Case::load_as(name, DType::F32, MatmulPrecision::Bf16));
        }
        for case in cases {
            let output = case.run(&case.inputs("plain"), Prior::None);
            assert_close(name, &output, &case.expected["output"], 3e-2);
            assert_close(name, &case.blended(), &case.expected["blended"], 3e-2);
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_what_stands_beside_it() {
    let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for name in CASES {
        let case = Case::load(name);
        let (layers, weight) = case.prior();
        let all = case.inputs("regions");
        let mut recorded = Vec::new();
        let output = case.run(&all, Prior::None);
        case.run(&all, Prior::Record(&mut recorded));
        let blended = case.run(&all, Prior::Blend { layers: &layers, weight });
        for row in 0..3 {
            let alone = Inputs {
                sample: all.sample.narrow(0, row, 1).unwrap(),
                cond: all.cond.select(&[row as u32]).unwrap(),
            };
            let own = |x: &Tensor| bits(&x.narrow(0, row, 1).unwrap());
            assert_eq!(bits(&case.run(&alone, Prior::None)), own(&output), "{name}: {row}");
            let mut of_one = Vec::new();
            case.run(&alone, Prior::Record(&mut of_one));
            for (one, all) in of_one.iter().zip(&recorded) {
                assert_eq!(bits(one.tensor().unwrap()), own(all.tensor().unwrap()));
            }
            let layers: Vec<_> = layers.iter().map(|x| x.narrow(0, row, 1).unwrap()).collect();
            let one = case.run(&alone, Prior::Blend { layers: &layers, weight });
            assert_eq!(bits(&one), own(&blended), "{name}: {row}");
        }
    }
}

#[test]
fn half_precision_stays_within_its_range_where_a_block_would_leave_it() {
    let text = fs::read_to_string(fixture("flux2/klein.json")).unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let mut weights = weights(&description);
    // Some hundred of them in a row are more than f16 has.
    for name in [
        "transformer_blocks.0.ff_context.linear_out.weight",
        "single_transformer_blocks.0.attn.to_out.weight",
    ] {
        let large = (&weights[name] * 2e4).unwrap();
        weights.insert(name.to_owned(), large);
    }
    let vb = Params::from_tensors(weights, DType::F16, &Device::Cpu);
    let config = Flux2Config::from_value(&description["config"]).unwrap();
    let model = Denoiser::from(Flux2Transformer::load(config, &vb).unwrap());
    let cond = conditions(&model, field("context", &[1, 9, 36]), None).unwrap();
    let sample = Activation::from(field("sample", &[1, 6, 10, 16]));
    let output = model.forward(&sample, 700.0, &cond, Prior::None).unwrap().into_tensor().unwrap();
    let values =
        output.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values.iter().all(|value| value.is_finite()));
}

#[test]
fn samples_texts_and_priors_that_do_not_fit_are_errors() {
    let case = Case::load("klein");
    let fails = |sample: [usize; 4], rows: usize, prior: Prior| {
        let sample = Activation::from(field("sample", &sample));
        let cond = conditions(&case.model, field("context", &[rows, 7, 36]), None).unwrap();
        case.model.forward(&sample, 500.0, &cond, prior).is_err()
    };
    assert!(!fails([1, 1, 1, 16], 1, Prior::None), "the smallest");
    assert!(fails([1, 4, 4, 15], 1, Prior::None), "other channels");
    assert!(fails([1, 4, 4, 16], 2, Prior::None), "a text too many");
    let wide = conditions(&case.model, field("context", &[1, 7, 37]), None).unwrap();
    let sample = Activation::from(field("sample", &[1, 4, 4, 16]));
    assert!(case.model.forward(&sample, 500.0, &wide, Prior::None).is_err());
    let layers = case
        .model
        .prior_sizes(4, 3)
        .into_iter()
        .map(|(height, width)| Activation::from(field("prior", &[1, height, width, 48])));
    let layers: Vec<_> = layers.collect();
    assert_eq!(layers.len(), 5);
    let blend = |layers| Prior::Blend { layers, weight: 0.5 };
    assert!(!fails([1, 4, 3, 16], 1, blend(&layers)));
    assert!(fails([1, 4, 3, 16], 1, blend(&layers[1..])), "one too few");
    assert!(fails([1, 3, 4, 16], 1, blend(&layers)), "another size");
    // All tokens count.
    let context = || field("context", &[1, 7, 36]);
    assert!(conditions(&case.model, context(), Some(vec![7])).is_ok());
    assert!(conditions(&case.model, context(), Some(vec![6])).is_err());
    let shape = case.model.shape().unwrap();
    assert_eq!((shape.native, shape.multiple, shape.largest, shape.channels), (64, 1, None, 16));
    assert!(Case::load("rare").model.shape().unwrap().sees_low_resolution);
}

#[test]
fn a_missing_weight_is_named() {
    let case = Case::load("klein");
    let config = Flux2Config::from_value(&case.description["config"]).unwrap();
    let mut weights = weights(&case.description);
    for name in [
        "single_stream_modulation.linear.weight",
        "transformer_blocks.1.attn.norm_added_k.weight",
        "single_transformer_blocks.2.attn.to_qkv_mlp_proj.weight",
    ] {
        let tensor = weights.remove(name).unwrap();
        let vb = Params::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
        let error = Flux2Transformer::load(config.clone(), &vb).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        weights.insert(name.to_owned(), tensor);
    }
}
