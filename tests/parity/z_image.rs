//! The transformer of Z-Image against diffusers, and the attention prior of its joint attention against literal attention
//! maps. The fixtures are made by `tests/make_fixtures/make_z_image_fixtures.py`; weights and inputs are drawn here from the
//! same formula as there, so only outputs are stored.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::{
    backend::{Activation, MatmulPrecision, Params},
    model::denoiser::{
        Conditioning, Denoiser, MicroConditioning, Prior,
        z_image::{ZImageConfig, ZImageTransformer},
    },
    model::text::TextConditioning,
    priors::attention::AttentionPrior,
    sampler::{SamplerKind, Schedule, SchedulerConfig},
};
use serde_json::Value;

use crate::common::{
    drawn::{assert_close, field, sizes, weight},
    fixture,
    tensors::relative_errors,
};
use crate::crop_rects;

const CASES: [&str; 3] = ["turbo", "plain", "wide"];

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
    context: Tensor,
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
        let text = fs::read_to_string(fixture(&format!("z_image/{name}.json"))).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        let vb = Params::from_tensors(weights(&description), dtype, &Device::Cpu)
            .with_precision(precision);
        let config = ZImageConfig::from_value(&description["config"]).unwrap();
        let model = Denoiser::from(ZImageTransformer::load(config, &vb).unwrap());
        let path = fixture(&format!("z_image/{name}.safetensors"));
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
        let lengths = sizes(&of_kind["lengths"]);
        let cond = conditions(&self.model, input("context"), Some(lengths)).unwrap();
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
fn the_transformer_computes_what_diffusers_computes_for_texts_of_any_lengths() {
    for name in CASES {
        let case = Case::load(name);
        let output = case.run(&case.inputs("plain"), Prior::None);
        assert_close(name, &output, &case.expected["output"], 1e-4);
    }
}

#[test]
fn the_prior_of_one_stream_equals_literal_attention_maps() {
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
fn a_sample_does_not_depend_on_what_stands_beside_it_nor_on_the_length_of_its_text() {
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
fn samples_texts_and_priors_that_do_not_fit_are_errors() {
    let case = Case::load("turbo");
    let fails = |height: usize, width: usize, lengths: Vec<usize>, prior: Prior| {
        let sample = Activation::from(field("sample", &[1, height, width, 4]));
        let cond = conditions(&case.model, field("context", &[1, 110, 20]), Some(lengths)).unwrap();
        case.model.forward(&sample, 500.0, &cond, prior).is_err()
    };
    let text = || vec![9];
    assert!(!fails(24, 4, text(), Prior::None), "the whole table");
    assert!(fails(26, 4, text(), Prior::None) && fails(4, 26, text(), Prior::None));
    assert!(fails(5, 4, text(), Prior::None), "no whole patches");
    assert!(!fails(4, 4, vec![96], Prior::None), "the longest text");
    for lengths in [vec![97], vec![0], vec![], vec![3, 3]] {
        assert!(fails(4, 4, lengths, Prior::None));
    }
    let layers = case
        .model
        .prior_sizes(4, 4)
        .into_iter()
        .map(|(height, width)| Activation::from(field("prior", &[1, height, width, 48])));
    let layers: Vec<_> = layers.collect();
    assert!(!fails(4, 4, text(), Prior::Blend { layers: &layers, weight: 0.5 }));
    assert!(fails(4, 4, text(), Prior::Blend { layers: &layers[1..], weight: 0.5 }), "one too few");
    assert!(fails(4, 6, text(), Prior::Blend { layers: &layers, weight: 0.5 }), "another size");
    let unmasked = conditions(&case.model, field("context", &[1, 7, 20]), None);
    assert!(unmasked.unwrap_err().to_string().contains("lengths"));
    let shape = case.model.shape().unwrap();
    assert_eq!((shape.native, shape.multiple, shape.largest), (24, 2, Some(24)));
}

#[test]
fn steps_are_those_of_the_pipelines_list() {
    let text = fs::read_to_string(fixture("z_image/schedule.json")).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let config = SchedulerConfig::from_json(&table["config"].to_string()).unwrap();
    let even = config.clone().of_even_sigmas();
    let steps = |config: &SchedulerConfig, n: usize| {
        let sampler = SamplerKind::FlowEuler.build(config, None).unwrap();
        sampler.steps(&Schedule::new(config).unwrap(), n).unwrap()
    };
    let mut compared = 0;
    for (n, expected) in table["steps"].as_object().unwrap() {
        let ours = steps(&even, n.parse().unwrap());
        let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(ours.len(), expected.len());
        for (step, t) in ours.iter().zip(&expected) {
            assert!((step.t - t).abs() <= 1e-3, "{n}: {} for {t}", step.t);
            assert!((step.level.spread * 1000.0 - t).abs() <= 1e-3);
            compared += 1;
        }
    }
    assert_eq!(compared, 70);
    // The scheduler by itself ends nearer to the picture.
    assert!(steps(&config, 8)[7].t + 50.0 < steps(&even, 8)[7].t);
}

#[test]
fn a_missing_weight_is_named() {
    let case = Case::load("turbo");
    let config = ZImageConfig::from_value(&case.description["config"]).unwrap();
    let mut weights = weights(&case.description);
    for name in ["cap_pad_token", "layers.2.attention.norm_k.weight", "t_embedder.mlp.2.bias"] {
        let tensor = weights.remove(name).unwrap();
        let vb = Params::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
        let error = ZImageTransformer::load(config.clone(), &vb).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        weights.insert(name.to_owned(), tensor);
    }
}
