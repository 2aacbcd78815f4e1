//! The transformer of Stable Diffusion 3 against diffusers, and the attention prior of its joint attention against literal
//! attention maps. The fixtures are made by `tests/make_fixtures/make_sd3_fixtures.py`; weights and inputs are drawn here
//! from the same formula as there, so only outputs are stored.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::{
    backend::{Activation, MatmulPrecision, Params},
    model::denoiser::{
        Conditioning, Denoiser, Prior,
        sd3::{Sd3Config, Sd3Transformer},
    },
    priors::attention::AttentionPrior,
};
use serde_json::Value;

use crate::common::{
    drawn::{assert_close, field, sizes, weight},
    fixture,
    models::conditioning,
    tensors::relative_errors,
};
use crate::crop_rects;

/// The forms of Stable Diffusion 3, 3.5 large and 3.5 medium.
const CASES: [&str; 3] = ["sd3", "large", "medium"];

struct Case {
    description: Value,
    expected: HashMap<String, Tensor>,
    model: Denoiser,
    /// of the whole network, in its precision
    rounding: f64,
}

/// What a call takes.
struct Inputs {
    sample: Tensor,
    cond: Conditioning,
}

fn weights(description: &Value) -> HashMap<String, Tensor> {
    let shapes = description["shapes"].as_object().unwrap().iter();
    shapes
        .map(|(name, shape)| {
            let shape = sizes(shape);
            // A table of positions is no matrix.
            let is_table = name == "pos_embed.pos_embed";
            let tensor = if is_table { field(name, &shape) } else { weight(name, &shape) };
            (name.clone(), tensor)
        })
        .collect()
}

impl Case {
    fn load(name: &str) -> Self {
        Self::load_as(name, DType::F32, MatmulPrecision::F32)
    }

    fn load_as(name: &str, dtype: DType, precision: MatmulPrecision) -> Self {
        let text = fs::read_to_string(fixture(&format!("sd3/{name}.json"))).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        let vb = Params::from_tensors(weights(&description), dtype, &Device::Cpu)
            .with_precision(precision);
        let config = Sd3Config::from_value(&description["config"]).unwrap();
        let model = Denoiser::from(Sd3Transformer::load(config, &vb).unwrap());
        let path = fixture(&format!("sd3/{name}.safetensors"));
        let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let is_exact = dtype != DType::F16 && precision == MatmulPrecision::F32;
        let rounding = if is_exact { 1e-5 } else { 1e-2 };
        Self { description, expected, model, rounding }
    }

    fn inputs(&self, kind: &str) -> Inputs {
        let input = |name: &str| {
            let place = &self.description["inputs"][kind][name];
            field(place[0].as_str().unwrap(), &sizes(&place[1]))
        };
        let sample = input("sample").permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let (context, pooled) = (input("context"), input("pooled"));
        let cond = conditioning(&self.model, &context, Some(&pooled), None).unwrap();
        Inputs { sample, cond }
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
        assert_close("while recording", &recorded, &plain, self.rounding);
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
fn the_transformer_of_every_form_computes_what_diffusers_computes() {
    for name in CASES {
        let case = Case::load(name);
        let output = case.run(&case.inputs("plain"), Prior::None);
        assert_close(name, &output, &case.expected["output"], 1e-4);
    }
}

#[test]
fn the_prior_of_joint_attention_equals_literal_attention_maps() {
    for name in CASES {
        let case = Case::load(name);
        let expected = &case.expected["blended"];
        assert_close(name, &case.blended(), expected, 1e-4);
        let without = case.run(&case.inputs("regions"), Prior::None);
        let (apart, _) = relative_errors(&without, expected);
        assert!(apart > 1e-2, "{name}: the fixture could not tell a prior from none: {apart}");
    }
}

#[test]
fn the_composed_forms_that_other_devices_run_compute_the_same_transformer() {
    // The CPU kernels take f32 alone: in f64 every operation goes its composed way. (The norms of queries and keys are
    // candle's everywhere, which has none in f64.)
    let case = Case::load_as("sd3", DType::F64, MatmulPrecision::F32);
    let output = case.run(&case.inputs("plain"), Prior::None);
    assert_close("plain", &output, &case.expected["output"], 1e-4);
    assert_close("blended", &case.blended(), &case.expected["blended"], 1e-4);
}

#[test]
fn products_in_bf16_and_half_precision_stay_near_the_reference() {
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
    let case = Case::load("medium");
    let both = case.inputs("plain");
    let output = case.run(&both, Prior::None);
    let alone = Inputs {
        sample: both.sample.narrow(0, 1, 1).unwrap(),
        cond: both.cond.select(&[1]).unwrap(),
    };
    let alone = case.run(&alone, Prior::None);
    let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(bits(&alone), bits(&output.narrow(0, 1, 1).unwrap()));
}

#[test]
fn samples_and_priors_that_do_not_fit_are_errors() {
    let case = Case::load("sd3");
    let cond = case.inputs("low").cond;
    let fails = |height: usize, width: usize, prior: Prior| {
        let sample = Activation::from(field("sample", &[1, height, width, 4]));
        case.model.forward(&sample, 500.0, &cond, prior).is_err()
    };
    assert!(!fails(26, 4, Prior::None), "the whole table");
    assert!(fails(28, 4, Prior::None) && fails(4, 28, Prior::None), "beyond the table");
    assert!(fails(5, 4, Prior::None), "no whole patches");
    let layers = case
        .model
        .prior_sizes(4, 4)
        .into_iter()
        .map(|(height, width)| Activation::from(field("prior", &[1, height, width, 32])));
    let layers: Vec<_> = layers.collect();
    assert!(!fails(4, 4, Prior::Blend { layers: &layers, weight: 0.5 }));
    assert!(fails(4, 4, Prior::Blend { layers: &layers[1..], weight: 0.5 }), "one too few");
    assert!(fails(4, 6, Prior::Blend { layers: &layers, weight: 0.5 }), "another size");
    let text = field("context", &[1, 7, 20]);
    let error = conditioning(&case.model, &text, None, None).unwrap_err().to_string();
    assert!(error.contains("pooled"), "{error}");
    let shape = case.model.shape().unwrap();
    assert_eq!((shape.native, shape.multiple, shape.largest), (16, 2, Some(26)));
}

#[test]
fn a_missing_weight_is_named() {
    let case = Case::load("large");
    let config = Sd3Config::from_value(&case.description["config"]).unwrap();
    let mut weights = weights(&case.description);
    for name in ["pos_embed.pos_embed", "transformer_blocks.0.attn.norm_added_k.weight"] {
        let tensor = weights.remove(name).unwrap();
        let vb = Params::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
        let error = Sd3Transformer::load(config.clone(), &vb).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        weights.insert(name.to_owned(), tensor);
    }
}
