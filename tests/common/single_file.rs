//! Tiny models of the SDXL, SD 1.5 and SD 2 families as single files (fixtures by
//! tests/make_fixtures/make_single_file_fixtures.py), to be changed and saved again, and what diffusers and
//! transformers compute with them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors as candle_safetensors};
use cupscale::weights::ModelFiles;
use flate2::read::GzDecoder;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    models::{conditioning, denoiser, predict},
    tensors::largest_error,
};

pub fn fixture(name: &str) -> PathBuf {
    super::fixture("single_file").join(name)
}

pub fn expected(family: &str) -> HashMap<String, Tensor> {
    candle_safetensors::load(fixture(&format!("{family}_expected.safetensors")), &Device::Cpu)
        .unwrap()
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

/// The tensors of a safetensors file as they are stored, and its metadata.
#[derive(Clone, Default)]
pub struct Stored {
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub metadata: Option<HashMap<String, String>>,
}

impl Stored {
    pub fn family(name: &str) -> Self {
        let mut bytes = Vec::new();
        let packed = fs::read(fixture(&format!("{name}.safetensors.gz"))).unwrap();
        GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        });
        Self { tensors: tensors.collect(), metadata: None }
    }

    pub fn save(&self, path: &Path) {
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        fs::write(path, safetensors::serialize(views, self.metadata.clone()).unwrap()).unwrap();
    }

    /// The tensors below a prefix, renamed.
    pub fn part(&self, prefix: &str, rename: impl Fn(&str) -> String) -> Self {
        let tensors = self.tensors.iter().filter_map(|(name, tensor)| {
            Some((rename(name.strip_prefix(prefix)?), tensor.clone()))
        });
        Self { tensors: tensors.collect(), metadata: None }
    }

    pub fn without(mut self, prefix: &str) -> Self {
        self.tensors.retain(|name, _| !name.starts_with(prefix));
        self
    }

    pub fn with(mut self, name: &str, shape: &[usize]) -> Self {
        let bytes = vec![0; 2 * shape.iter().product::<usize>()];
        self.tensors.insert(name.to_owned(), (Dtype::F16, shape.to_vec(), bytes));
        self
    }

    /// All f16 tensors in another precision, which holds their values exactly.
    pub fn converted(mut self, to: Dtype) -> Self {
        for (dtype, _, data) in self.tensors.values_mut().filter(|tensor| tensor.0 == Dtype::F16) {
            let values =
                data.chunks(2).map(|two| half::f16::from_le_bytes([two[0], two[1]]).to_f32());
            *data = match to {
                Dtype::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
                _ => values.flat_map(f32::to_le_bytes).collect(),
            };
            *dtype = to;
        }
        self
    }
}

/// A folder with a model in it.
pub struct Place(pub TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn save(&self, name: &str, stored: &Stored) -> PathBuf {
        let path = self.0.path().join(name);
        stored.save(&path);
        path
    }
}

pub fn eps(files: &ModelFiles, expected: &HashMap<String, Tensor>) -> Tensor {
    let denoiser = denoiser(files);
    let (pooled, time_ids) = (expected.get("pooled"), expected.get("time_ids"));
    let conditioning = conditioning(&denoiser, &expected["context"], pooled, time_ids).unwrap();
    let timestep = f64::from(expected["timestep"].to_vec1::<f32>().unwrap()[0]);
    predict(&denoiser, &expected["sample"], timestep, &conditioning)
}

pub fn assert_vae(files: &ModelFiles, expected: &HashMap<String, Tensor>) {
    let vae = files.vae(&Device::Cpu, DType::F32).unwrap();
    let encoded = largest_error(
        vae.encode(&(&expected["image"]).into()).unwrap().tensor().unwrap(),
        &expected["latent"],
    );
    let decoded = largest_error(
        vae.decode(&(&expected["latent"]).into()).unwrap().tensor().unwrap(),
        &expected["decoded"],
    );
    assert!(encoded <= 1e-4 && decoded <= 1e-4, "{encoded:e} {decoded:e}");
}

pub fn assert_unet(files: &ModelFiles, expected: &HashMap<String, Tensor>) {
    let error = largest_error(&eps(files, expected), &expected["eps"]);
    assert!(error <= 1e-4, "{error:e}");
}
