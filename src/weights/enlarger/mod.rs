//! Enlarging networks as users have them: safetensors with the names of basicsr, of ESRGAN or of its old code, and pairs of
//! files of ncnn. Opening one reads its header or its graph, and finds out what network it is; nothing else says.

mod names;
mod ncnn;

use std::{path::Path, sync::Arc};

use candle_core::{DType, Device};

use super::headers::Footprint;
use super::kept::{Keeping, KeptWeights};
use super::read_options::ReadOptions;
use super::source::{Bytes, has_extension, refuse_foreign};
use super::tensors::{TensorMap, TensorName};
use super::{ModelSource, WeightsError};
use crate::backend::MatmulPrecision;
use crate::model::enlarger::{Enlarger, EnlargerConfig};

/// The architecture and the arrays of a pair of files of ncnn.
#[cfg(fuzzing)]
pub(super) fn ncnn_places(
    param: &[u8],
    bin: &[u8],
) -> Result<(EnlargerConfig, Vec<super::tensors::TensorInfo>), String> {
    ncnn::places(param, bin)
}

/// File of a model's own network, in the folder of the model.
const OWN_FILE: &str = "first.safetensors";

/// A network that is recognised: its architecture, and its tensors by the names of basicsr.
type Recognised = (EnlargerConfig, Vec<TensorName>);

/// An enlarging network, of which nothing but the header has been read.
#[derive(Clone, Debug)]
pub struct EnlargerFiles {
    name: String,
    config: EnlargerConfig,
    tensors: Arc<TensorMap>,
    options: ReadOptions,
}

impl EnlargerFiles {
    /// Opens a safetensors file, or a pair of files of ncnn, of which either is named.
    ///
    /// # Errors
    /// A file that is missing, damaged or pickled; a network that is none of those that are known.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = path.display().to_string();
        if !path.exists() {
            return Err(WeightsError::NotFound(path.to_owned()));
        }
        let refuse = |reason: String| Err(WeightsError::Contents { file: file.clone(), reason });
        if path.is_dir() {
            return refuse("a folder; name the file of the enlarging network in it".to_owned());
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if has_extension(path, &["param", "bin"]) {
            let pair = ["param", "bin"].map(|extension| path.with_extension(extension));
            if let Some(missing) = pair.iter().find(|file| !file.is_file()) {
                if has_extension(path, &["bin"]) {
                    // What is no half of a pair may be a pickle.
                    refuse_foreign(path)?;
                }
                return refuse(format!("{} is missing beside it", missing.display()));
            }
            let (config, tensors) = ncnn::open(&pair)?;
            return Ok(Self::of(name, config, tensors, pair.into()));
        }
        refuse_foreign(path)?;
        let bytes =
            Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
        Self::of_safetensors(name, file, bytes, vec![path.to_owned()])
    }

    /// The network that a model in diffusers layout has of its own, `first.safetensors` beside its `model_index.json`, if it has one.
    ///
    /// # Errors
    /// A file that cannot be read; a network that is none of those that are known.
    pub(super) fn of_model(source: &ModelSource) -> Result<Option<Self>, WeightsError> {
        if !source.contains(OWN_FILE) {
            return Ok(None);
        }
        let name = format!("{}'s own", source.short_name());
        let paths = source.path().map(|folder| folder.join(OWN_FILE)).into_iter().collect();
        Self::of_safetensors(name, source.full_name(OWN_FILE), source.map(OWN_FILE)?, paths)
            .map(Some)
    }

    fn of_safetensors(
        name: String,
        file: String,
        bytes: Bytes,
        paths: Vec<std::path::PathBuf>,
    ) -> Result<Self, WeightsError> {
        let mut all = TensorMap::default();
        all.add_safetensors(file.clone(), bytes)?;
        let (config, names) =
            names::recognise(&all).map_err(|reason| WeightsError::Contents { file, reason })?;
        Ok(Self::of(name, config, all.renamed(names), paths))
    }

    fn of(
        name: String,
        config: EnlargerConfig,
        tensors: TensorMap,
        paths: Vec<std::path::PathBuf>,
    ) -> Self {
        let options = ReadOptions::new(paths);
        Self { name, config, tensors: Arc::new(tensors), options }
    }

    /// `true` if there is an enlarging network at this path.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        has_extension(path, &["param", "bin", "safetensors", "sft"]) && Self::open(path).is_ok()
    }

    /// The same network under the name that users know it by.
    #[must_use]
    pub fn with_name(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// Its name: that of the file without its extension, unless it has another.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its architecture.
    #[must_use]
    pub fn config(&self) -> &EnlargerConfig {
        &self.config
    }

    /// Its files.
    #[must_use]
    pub fn paths(&self) -> &[std::path::PathBuf] {
        &self.options.paths
    }

    /// Digest that changes with any of its files.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.options.fingerprint(std::iter::empty())
    }

    /// The network with its weights, in f32.
    ///
    /// # Errors
    /// A tensor that is missing, or of another shape or type than the others imply.
    pub fn load(&self, device: &Device) -> Result<Enlarger, WeightsError> {
        self.load_with(&self.options, device)
    }

    /// The network without its weights' values, and what these will take.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn without_values(&self, device: &Device) -> Result<(Enlarger, Footprint), WeightsError> {
        self.options.without_values(|options| self.load_with(&options, device))
    }

    fn load_with(&self, options: &ReadOptions, device: &Device) -> Result<Enlarger, WeightsError> {
        let keeping = Keeping { as_stored: false, rules: None };
        let weights = KeptWeights::new(Arc::clone(&self.tensors), None, keeping);
        let params = options.params(weights, DType::F32, device, MatmulPrecision::F32);
        Ok(Enlarger::load(self.config, &params)?)
    }

    /// The first tensor with a value that is not finite, and its file.
    #[must_use]
    pub fn find_non_finite(&self) -> Option<String> {
        self.tensors.find_non_finite()
    }
}
