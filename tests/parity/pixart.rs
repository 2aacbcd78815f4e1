//! PixArt's transformer against diffusers, and its attention prior against literal attention maps. The fixtures are made
//! by `tests/make_fixtures/make_pixart_fixtures.py`; weights and inputs are drawn here from the same formula as there.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::{
    backend::{Activation, Params, Placement, Trace, ops::CropRect},
    model::{
        denoiser::{Conditioning, Denoiser, MicroConditioning, Prior},
        text::TextConditioning,
    },
    priors::attention::AttentionPrior,
};
use serde_json::Value;

use crate::common::{
    drawn::{assert_close, field, sizes, weight},
    fixture,
    tensors::relative_errors,
};

const CASES: [&str; 3] = ["alpha", "sigma", "old_class"];

struct Case {
    description: Value,
    expected: HashMap<String, Tensor>,
    model: Denoiser,
    cond: Conditioning,
    timestep: f64,
}

fn weights(description: &Value) -> HashMap<String, Tensor> {
    let shapes = description["shapes"].as_object().unwrap();
    shapes.iter().map(|(name, shape)| (name.clone(), weight(name, &sizes(shape)))).collect()
}

fn denoiser(description: &Value, params: &Params) -> Denoiser {
    let config = &description["config"];
    let class = config["_class_name"].as_str().unwrap();
    Denoiser::load(class, config, "config.json", params).unwrap()
}

impl Case {
    fn load(name: &str) -> Self {
        Self::load_as(name, DType::F32)
    }

    fn load_as(name: &str, dtype: DType) -> Self {
        let text = fs::read_to_string(fixture(&format!("pixart/{name}.json"))).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        let params = Params::from_tensors(weights(&description), dtype, &Device::Cpu);
        let model = denoiser(&description, &params);
        let context = field("context", &sizes(&description["inputs"]["context"]));
        let rows: Vec<_> = (0..context.dims()[0])
            .map(|row| {
                let length = description["lengths"][row].as_u64().map(|length| length as usize);
                let text = TextConditioning {
                    context: context.narrow(0, row, 1).unwrap().into(),
                    pooled: None,
                    lengths: length.map(|length| vec![length]),
                };
                let target = match description["sizes"].as_array() {
                    Some(rows) => (sizes(&rows[row])[0], sizes(&rows[row])[1]),
                    None => (0, 0),
                };
                let micro = MicroConditioning { original: (1, 2), crop: (3, 4), target };
                model.condition(&text, micro).unwrap()
            })
            .collect();
        let cond = Conditioning::cat(&rows.iter().collect::<Vec<_>>()).unwrap();
        let path = fixture(&format!("pixart/{name}.safetensors"));
        let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let timestep = description["timestep"].as_f64().unwrap();
        Self { description, expected, model, cond, timestep }
    }

    fn input(&self, name: &str) -> Tensor {
        let input = field(name, &sizes(&self.description["inputs"][name]));
        input.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
    }

    fn run(&self, sample: &Tensor, cond: &Conditioning, prior: Prior) -> Tensor {
        let output = self.model.forward(&sample.into(), self.timestep, cond, prior);
        output.unwrap().into_tensor().unwrap()
    }

    fn output(&self) -> Tensor {
        self.run(&self.input("sample"), &self.cond, Prior::None)
    }
}

#[test]
fn the_transformer_of_every_configuration_computes_what_diffusers_computes() {
    for name in CASES {
        let case = Case::load(name);
        let output = case.output();
        assert_close(name, &output, &case.expected["output"], 1e-4);
        let (largest, _) = relative_errors(&output, &case.expected["output"]);
        println!("{name}: {largest:.1e}");
    }
}

#[test]
fn the_composed_forms_that_other_devices_run_compute_the_same_transformer() {
    for name in CASES {
        let output = Case::load_as(name, DType::F64).output();
        assert_eq!(output.dtype(), DType::F64);
        let output = output.to_dtype(DType::F32).unwrap();
        assert_close(name, &output, &Case::load(name).expected["output"], 1e-4);
    }
}

#[test]
fn a_sample_is_the_same_to_the_bit_whatever_stands_beside_it() {
    for name in ["alpha", "sigma"] {
        let case = Case::load(name);
        let (sample, output) = (case.input("sample"), case.output());
        for row in 0..sample.dims()[0] {
            let alone = sample.narrow(0, row, 1).unwrap();
            let alone = case.run(&alone, &case.cond.select(&[row as u32]).unwrap(), Prior::None);
            let together = output.narrow(0, row, 1).unwrap();
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&alone), values(&together), "{name}, row {row}");
        }
    }
}

#[test]
fn recorded_cross_attentions_are_diffusers_cross_attention_outputs_in_visiting_order() {
    let case = Case::load("sigma");
    let mut recorded = Vec::new();
    let sample = case.input("sample");
    case.run(&sample, &case.cond, Prior::Record(&mut recorded));
    let (_, height, width, _) = sample.dims4().unwrap();
    let expected_sizes = case.model.prior_sizes(height, width);
    assert_eq!((recorded.len(), expected_sizes.len()), (4, 4));
    for (index, (layer, (rows, columns))) in recorded.iter().zip(expected_sizes).enumerate() {
        let (_, layer_rows, layer_columns, _) = layer.dims4().unwrap();
        assert_eq!((layer_rows, layer_columns), (rows, columns), "layer {index}");
        let tokens = layer.tensor().unwrap().flatten(1, 2).unwrap();
        let name = format!("recorded.{index}");
        assert_close(&name, &tokens, &case.expected[&name], 1e-4);
    }
}

#[test]
fn a_region_under_the_prior_of_another_pass_is_that_of_literal_attention_maps() {
    let case = Case::load("sigma");
    let (sample, region) = (case.input("sample"), case.input("region"));
    let mut recorded = Vec::new();
    let prompt = case.cond.select(&[1]).unwrap();
    case.run(&sample.narrow(0, 1, 1).unwrap(), &prompt, Prior::Record(&mut recorded));
    let rect = &case.description["rect"];
    let at = |index: usize| rect[index].as_f64().unwrap();
    let rect = CropRect { top: at(0), left: at(1), height: at(2), width: at(3) };
    let (_, height, width, _) = region.dims4().unwrap();
    let grids = case.model.prior_sizes(height, width);
    let layers = AttentionPrior::new(recorded).unwrap().for_regions(&[rect], &grids).unwrap();
    let (caption, region) = (case.cond.select(&[2]).unwrap(), region.narrow(0, 2, 1).unwrap());
    let blend = |weight: f64| case.run(&region, &caption, Prior::Blend { layers: &layers, weight });
    assert_close("region", &blend(0.5), &case.expected["region"], 1e-4);
    assert_close("region alone", &blend(0.0), &case.expected["region_alone"], 1e-4);
    let (apart, _) = relative_errors(&case.expected["region"], &case.expected["region_alone"]);
    assert!(apart > 1e-2, "the fixture could not tell a prior from none: {apart}");
}

#[test]
fn tokens_that_do_not_count_play_no_part_and_lengths_must_fit() {
    let case = Case::load("sigma");
    let context = field("context", &sizes(&case.description["inputs"]["context"]));
    let other = |lengths: Vec<usize>| {
        let beyond = field("other", context.dims());
        let rows = context.dims()[0];
        let parts: Vec<Tensor> = (0..rows)
            .map(|row| {
                let keep = [1, 7, 3][row];
                let own = context.narrow(0, row, 1).unwrap().narrow(1, 0, keep).unwrap();
                let rest = beyond.narrow(0, row, 1).unwrap().narrow(1, keep, 7 - keep).unwrap();
                Tensor::cat(&[own, rest], 1).unwrap()
            })
            .collect();
        let text = TextConditioning {
            context: Tensor::cat(&parts, 0).unwrap().into(),
            pooled: None,
            lengths: Some(lengths),
        };
        let micro = MicroConditioning { original: (1, 1), crop: (0, 0), target: (1, 1) };
        let cond = case.model.condition(&text, micro).unwrap();
        case.model.forward(&(&case.input("sample")).into(), case.timestep, &cond, Prior::None)
    };
    let output = other(vec![1, 7, 3]).unwrap().into_tensor().unwrap();
    assert_close("other padding", &output, &case.output(), 0.0);
    for lengths in [vec![0, 7, 3], vec![1, 8, 3], vec![1, 7]] {
        assert!(other(lengths.clone()).is_err(), "{lengths:?}");
    }
}

#[test]
fn samples_that_do_not_fit_are_errors() {
    let case = Case::load("alpha");
    let fails = |sample: &Tensor, cond: &Conditioning| {
        case.model.forward(&sample.into(), 1.0, cond, Prior::None).is_err()
    };
    let cond = &case.cond;
    assert!(fails(&field("x", &[2, 12, 19, 4]), cond), "half a patch");
    assert!(fails(&field("x", &[1, 12, 20, 4]), cond), "another batch");
    assert!(fails(&field("x", &[2, 12, 20, 8]), cond), "other channels");
    assert!(!fails(&field("x", &[2, 2, 40, 4]), cond));
}

#[test]
fn a_missing_weight_is_named() {
    let description = Case::load("sigma").description;
    let mut weights = weights(&description);
    let name = "transformer_blocks.2.attn2.to_k.bias";
    weights.remove(name).unwrap();
    let params = Params::from_tensors(weights, DType::F32, &Device::Cpu);
    let (config, file) = (&description["config"], "transformer/config.json");
    let error = Denoiser::load("PixArtTransformer2DModel", config, file, &params).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("transformer/config.json: ") && error.contains(name), "{error}");
}

#[test]
fn a_trace_of_the_transformer_runs_on_shapes_with_and_without_priors() {
    let case = Case::load("alpha");
    let trace = Trace::new(Placement::Cpu);
    let text = TextConditioning {
        context: trace.activation((2, 9, 20), DType::F32),
        pooled: None,
        lengths: Some(vec![9, 9]),
    };
    let micro = MicroConditioning { original: (1, 1), crop: (0, 0), target: (1024, 1024) };
    let cond = case.model.condition(&text, micro).unwrap();
    let sample = trace.activation((2, 16, 12, 4), DType::F32);
    let mut layers: Vec<Activation> = Vec::new();
    let run = |prior: Prior| case.model.forward(&sample, 1.0, &cond, prior).unwrap();
    assert_eq!(run(Prior::Record(&mut layers)).dims(), [2, 16, 12, 4]);
    assert_eq!(layers.len(), 3);
    let output = run(Prior::Blend { layers: &layers, weight: 0.5 });
    assert!(output.is_traced() && trace.products() > 0.0);
}
