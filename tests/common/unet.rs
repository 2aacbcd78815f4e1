//! UNets of the fixtures in `tests/fixtures/unet`: their tensors, drawn from the scripts' formula, and what they are called
//! with.

use std::{collections::HashMap, fs};

use candle_core::{Device, Tensor, safetensors};
use serde_json::Value;

use super::{
    drawn::{field, sizes, weight},
    fixture,
    models::conditioning,
};
use cupscale::model::denoiser::{Conditioning, Denoiser, Prior};

/// A UNet, its inputs, and what diffusers computes.
pub struct UNetCase {
    pub description: Value,
    pub expected: HashMap<String, Tensor>,
    /// `[B, h, w, C]`
    pub sample: Tensor,
    pub timestep: f64,
}

/// A tensor's name in diffusers, that of the original code where the fixture has it, and its shape.
type Named = (String, Option<String>, Vec<usize>);

impl UNetCase {
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(fixture(&format!("unet/{name}.json"))).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        let shape = sizes(&description["inputs"]["sample"]);
        let sample = field("sample", &shape).permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let path = fixture(&format!("unet/{name}.safetensors"));
        let expected = safetensors::load(path, &Device::Cpu).unwrap();
        let timestep = description["timestep"].as_f64().unwrap();
        Self { description, expected, sample, timestep }
    }

    fn named(&self) -> Vec<Named> {
        if let Some(shapes) = self.description["shapes"].as_object() {
            return shapes.iter().map(|(name, shape)| (name.clone(), None, sizes(shape))).collect();
        }
        let kinds = self.description["kinds"].as_array().unwrap();
        let modules = self.description["modules"].as_array().unwrap().iter();
        let tensors = modules.flat_map(|module| {
            let [ours, theirs] = [0, 1].map(|at| module[at].as_str().unwrap());
            let kind = &kinds[module[2].as_u64().unwrap() as usize];
            kind.as_array().unwrap().iter().map(move |tensor| {
                let name = |place, at: usize| format!("{place}.{}", tensor[at].as_str().unwrap());
                (name(ours, 0), Some(name(theirs, 1)), sizes(&tensor[2]))
            })
        });
        tensors.collect()
    }

    /// The tensors with diffusers' names.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let named = self.named().into_iter();
        named.map(|(ours, _, shape)| (ours.clone(), weight(&ours, &shape))).collect()
    }

    /// The tensors with the names of the original code behind a prefix.
    pub fn original(&self, prefix: &str) -> HashMap<String, Tensor> {
        let named = self.named().into_iter();
        named
            .map(|(ours, theirs, shape)| {
                (format!("{prefix}{}", theirs.unwrap()), weight(&ours, &shape))
            })
            .collect()
    }

    pub fn conditions(&self, denoiser: &Denoiser) -> Conditioning {
        let input = |name: &str| {
            let shape = &self.description["inputs"][name];
            (!shape.is_null()).then(|| field(name, &sizes(shape)))
        };
        let time_ids = self.description["time_ids"].as_array().map(|rows| {
            let numbers: Vec<f32> = rows
                .iter()
                .flat_map(|row| row.as_array().unwrap())
                .map(|id| id.as_f64().unwrap() as f32)
                .collect();
            Tensor::from_vec(numbers, (rows.len(), 6), &Device::Cpu).unwrap()
        });
        let (context, pooled) = (input("context").unwrap(), input("pooled"));
        let conditions =
            conditioning(denoiser, &context, pooled.as_ref(), time_ids.as_ref()).unwrap();
        match self.description["guidance"].as_f64() {
            None => conditions,
            Some(scale) => {
                assert!(denoiser.embeds_guidance());
                denoiser.with_guidance(&conditions, scale).unwrap()
            }
        }
    }

    /// What a UNet computes of the inputs.
    pub fn run(
        &self,
        denoiser: &Denoiser,
        conditions: &Conditioning,
        prior: Prior,
    ) -> candle_core::Result<Tensor> {
        let sample = (&self.sample).into();
        denoiser.forward(&sample, self.timestep, conditions, prior)?.into_tensor()
    }
}
