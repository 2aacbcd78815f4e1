//! What the parity tests of transformers share in which text and picture attend to each other: a network of a fixture, called
//! by itself, while it records the attention prior and with one, and the checks that hold for every family.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    backend::{Activation, MatmulPrecision, Params},
    model::{
        denoiser::{Conditioning, Denoiser, MicroConditioning, Prior},
        text::TextConditioning,
    },
    priors::attention::AttentionPrior,
};
use serde_json::Value;

use crate::{
    common::{
        drawn::{assert_close, field, sizes, weight},
        fixture,
        tensors::relative_errors,
    },
    crop_rects,
};

/// Draws an input by its name.
pub type Draw<'a> = &'a dyn Fn(&str) -> Tensor;

/// How the networks of a family are built and called.
pub struct Family {
    /// Folder of its fixtures.
    pub folder: &'static str,
    pub cases: [&'static str; 3],
    pub load: fn(&Value, &Params) -> Denoiser,
    /// The conditions of the described inputs of one kind.
    pub condition: fn(&Denoiser, &Value, Draw<'_>) -> Conditioning,
    /// Error of a whole network that is allowed.
    pub bound: f64,
    /// The same in half precision between attention in parts and as a whole.
    pub rounding: f64,
}

/// A network of a fixture.
pub struct Case<'a> {
    family: &'a Family,
    pub description: Value,
    pub expected: HashMap<String, Tensor>,
    pub model: Denoiser,
    /// of the whole network, in its precision
    rounding: f64,
}

/// What a call takes.
pub struct Inputs {
    pub sample: Tensor,
    pub cond: Conditioning,
}

/// The tensors of a description, drawn by their names.
pub fn weights(description: &Value) -> HashMap<String, Tensor> {
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

/// Conditions of texts without sizes beside them.
pub fn conditions(
    model: &Denoiser,
    context: impl Into<Activation>,
    lengths: Option<Vec<usize>>,
) -> candle_core::Result<Conditioning> {
    let text = TextConditioning { context: context.into(), pooled: None, lengths };
    model.condition(&text, MicroConditioning { original: (1, 1), crop: (0, 0), target: (1, 1) })
}

/// Samples of the layers of a prior for regions of this size.
pub fn drawn_prior(
    model: &Denoiser,
    (height, width): (usize, usize),
    dim: usize,
) -> Vec<Activation> {
    let sizes = model.prior_sizes(height, width).into_iter();
    sizes
        .map(|(height, width)| Activation::from(field("prior", &[1, height, width, dim])))
        .collect()
}

fn bits(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

impl Family {
    pub fn describe(&self, name: &str) -> Value {
        let path = fixture(&format!("{}/{name}.json", self.folder));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    pub fn case(&self, name: &str) -> Case<'_> {
        self.case_as(name, DType::F32, MatmulPrecision::F32)
    }

    pub fn case_as(&self, name: &str, dtype: DType, precision: MatmulPrecision) -> Case<'_> {
        let description = self.describe(name);
        let vb = Params::from_tensors(weights(&description), dtype, &Device::Cpu)
            .with_precision(precision);
        let model = (self.load)(&description["config"], &vb);
        let path = fixture(&format!("{}/{name}.safetensors", self.folder));
        let expected = safetensors::load(path, &Device::Cpu).unwrap();
        let is_exact = dtype != DType::F16 && precision == MatmulPrecision::F32;
        let rounding = if is_exact { 1e-5 } else { self.rounding };
        Case { family: self, description, expected, model, rounding }
    }

    pub fn computes_what_diffusers_computes(&self) {
        for name in self.cases {
            let case = self.case(name);
            let output = case.run(&case.inputs("plain"), Prior::None);
            assert_close(name, &output, &case.expected["output"], self.bound);
        }
    }

    pub fn prior_equals_literal_attention_maps(&self) {
        for name in self.cases {
            let case = self.case(name);
            let expected = &case.expected["blended"];
            assert_close(name, &case.blended(), expected, self.bound);
            let without = case.run(&case.inputs("regions"), Prior::None);
            let (apart, _) = relative_errors(&without, expected);
            assert!(apart > 1e-2, "{name}: the fixture could not tell a prior from none: {apart}");
        }
    }

    pub fn stays_near_the_reference_in_half_precision(&self) {
        for name in self.cases {
            let mut cases = vec![self.case_as(name, DType::F16, MatmulPrecision::F32)];
            if MatmulPrecision::Bf16.is_available() {
                cases.push(self.case_as(name, DType::F32, MatmulPrecision::Bf16));
            }
            for case in cases {
                let output = case.run(&case.inputs("plain"), Prior::None);
                assert_close(name, &output, &case.expected["output"], 3e-2);
                assert_close(name, &case.blended(), &case.expected["blended"], 3e-2);
            }
        }
    }

    /// Each of three regions by itself: as it is, what it records, and with its prior.
    pub fn computes_each_sample_by_itself(&self) {
        for name in self.cases {
            let case = self.case(name);
            let (layers, weight) = case.prior();
            let all = case.inputs("regions");
            let mut recorded = Vec::new();
            let output = case.run(&all, Prior::None);
            case.run(&all, Prior::Record(&mut recorded));
            let blended = case.run(&all, Prior::Blend { layers: &layers, weight });
            for row in 0..3 {
                let alone = all.row(row);
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

    /// Without one of these tensors loading ends, and `load` says which is missing.
    pub fn names_what_is_missing(
        &self,
        case: &str,
        names: &[&str],
        load: impl Fn(&Value, &Params) -> String,
    ) {
        let description = self.describe(case);
        let mut weights = weights(&description);
        for &name in names {
            let tensor = weights.remove(name).unwrap();
            let vb = Params::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
            let error = load(&description["config"], &vb);
            assert!(error.contains(name), "{error}");
            weights.insert(name.to_owned(), tensor);
        }
    }
}

impl Inputs {
    /// Those of one row.
    pub fn row(&self, row: usize) -> Self {
        Self {
            sample: self.sample.narrow(0, row, 1).unwrap(),
            cond: self.cond.select(&[row as u32]).unwrap(),
        }
    }
}

impl Case<'_> {
    pub fn inputs(&self, kind: &str) -> Inputs {
        let of_kind = &self.description["inputs"][kind];
        let input = |name: &str| {
            let place = &of_kind[name];
            field(place[0].as_str().unwrap(), &sizes(&place[1]))
        };
        let sample = input("sample").permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        Inputs { sample, cond: (self.family.condition)(&self.model, of_kind, &input) }
    }

    pub fn run(&self, inputs: &Inputs, prior: Prior) -> Tensor {
        let timestep = self.description["timestep"].as_f64().unwrap();
        let sample = Activation::from(&inputs.sample);
        let output = self.model.forward(&sample, timestep, &inputs.cond, prior).unwrap();
        output.into_tensor().unwrap().to_dtype(DType::F32).unwrap()
    }

    /// The priors of the regions, and their weight.
    pub fn prior(&self) -> (Vec<Activation>, f64) {
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

    pub fn blended(&self) -> Tensor {
        let (layers, weight) = self.prior();
        self.run(&self.inputs("regions"), Prior::Blend { layers: &layers, weight })
    }
}
