//! LLaVA models in the forms in which people have them: folders of transformers (one `config.json`,
//! safetensors whole or in shards, the files of its processor), and pairs of GGUF files of llama.cpp.
//! Transformers 4 and 5 write the same tensors by different names; here they have those of the
//! published checkpoints (transformers 4). How weights are read, rounded and kept is the same as for a diffusion
//! model ([`ReadOptions`]).
//!
//! Source of the names: transformers `conversion_mapping.py`, entries `llava` and `llava_next`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::families::FAMILIES;
use super::file_kind::FileKind;
use super::gguf::llama_cpp::{LlamaCppFile, LlamaCppModel};
use super::headers::Footprint;
use super::kept::{Keeping, KeptWeights};
use super::part::Part;
use super::part_folder::{PartFolder, read_json};
use super::quantize::Rules;
use super::read_options::ReadOptions;
use super::source::{has_extension, refuse_foreign};
use super::tensors::{Take, TensorMap};
use super::{ModelSource, QuantType, WeightsError};
use crate::backend::MatmulPrecision;
use crate::model::llava::{Llava, LlavaConfig, LlavaParts, LlavaTokenizer, PromptFormat};

/// A LLaVA model that has been found; its tensors have not been read.
#[derive(Clone, Debug)]
pub struct LlavaFiles {
    /// path by which the user named it, for messages
    name: String,
    options: ReadOptions,
    config: LlavaConfig,
    preprocessor: Value,
    chat_template: Option<String>,
    tokenizer: LlavaTokenizer,
    tensors: Arc<TensorMap>,
    prompt_format: Option<PromptFormat>,
}

impl LlavaFiles {
    /// Reads the description of a model: in a folder of transformers; in a folder with a pair of GGUF
    /// files; or in a GGUF file with a decoder, beside which the other one lies.
    ///
    /// # Errors
    /// No model there, or one whose description is missing, cannot be read, or is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        refuse_foreign(path)?;
        if path.is_dir() {
            return if path.join(CONFIG).is_file() || gguf_files(path)?.is_empty() {
                Self::open_folder(path)
            } else {
                Self::open_gguf_folder(path)
            };
        }
        if !path.is_file() {
            return Err(WeightsError::NotFound(path.into()));
        }
        let decoder = LlamaCppFile::open(path)?;
        let vision = vision_beside(path)?;
        Self::new_gguf(path.display().to_string(), &decoder, &vision)
    }

    /// `true` if a path holds such a model, or the decoder of one, as far as its description tells.
    #[must_use]
    pub(super) fn is_at(path: &Path) -> bool {
        let is_decoder = |file: &Path| LlamaCppFile::open(file).is_ok_and(|it| it.is_decoder());
        if path.is_file() {
            return FileKind::of_file(path) == Some(FileKind::Gguf) && is_decoder(path);
        }
        let source = ModelSource::Path(path.into());
        if source.contains(CONFIG) {
            let config = read_json(&source, CONFIG).unwrap_or_default();
            return config["model_type"].as_str().is_some_and(|it| it.starts_with("llava"));
        }
        gguf_files(path).is_ok_and(|files| files.iter().any(|file| is_decoder(file)))
    }

    /// GGUF file with the vision tower that lies beside a decoder's.
    ///
    /// # Errors
    /// None there, or several.
    pub(super) fn vision_beside(decoder: &Path) -> Result<PathBuf, WeightsError> {
        Ok(vision_beside(decoder)?.path().to_owned())
    }

    /// Reads the description of a model in two GGUF files: a decoder, and the vision tower with the
    /// projector ("mmproj").
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_gguf(decoder: &Path, vision: &Path) -> Result<Self, WeightsError> {
        let name = decoder.display().to_string();
        Self::new_gguf(name, &LlamaCppFile::open(decoder)?, &LlamaCppFile::open(vision)?)
    }

    fn open_gguf_folder(folder: &Path) -> Result<Self, WeightsError> {
        let towers = files_of_kind(folder, LlamaCppFile::is_vision)?;
        let decoders = files_of_kind(folder, |file| !file.is_vision())?;
        let vision = only_one(folder, VISION, towers)?;
        let decoder = only_one(folder, "a decoder", decoders)?;
        Self::new_gguf(folder.display().to_string(), &decoder, &vision)
    }

    fn new_gguf(
        name: String,
        decoder: &LlamaCppFile,
        vision: &LlamaCppFile,
    ) -> Result<Self, WeightsError> {
        let model = LlamaCppModel::new(decoder, vision)?;
        let fail = |error| WeightsError::from_llava(error, &name);
        let mut config = LlavaConfig::from_json(&model.config, &Value::Null).map_err(fail)?;
        config.decoder.rope_interleaved = true;
        let tokenizer =
            LlavaTokenizer::from_json(model.tokenizer.to_string().as_bytes()).map_err(fail)?;
        Ok(Self {
            options: ReadOptions::new(vec![decoder.path().to_owned(), vision.path().to_owned()]),
            config,
            preprocessor: model.preprocessor,
            chat_template: model.chat_template,
            tokenizer,
            tensors: Arc::new(model.tensors),
            name,
            prompt_format: None,
        })
    }

    fn open_folder(path: &Path) -> Result<Self, WeightsError> {
        let name = path.display().to_string();
        let source = ModelSource::Path(path.into());
        if !source.contains(CONFIG) {
            return Err(missing(&name, "the configuration", CONFIG));
        }
        let optional = |file: &str| {
            if source.contains(file) { read_json(&source, file) } else { Ok(Value::Null) }
        };
        let config = read_json(&source, CONFIG)?;
        let config = LlavaConfig::from_json(&config, &optional("generation_config.json")?)
            .map_err(|error| WeightsError::from_llava(error, &source.full_name(CONFIG)))?;
        let processor = optional("processor_config.json")?;
        let preprocessor = match optional("preprocessor_config.json")? {
            // Transformers 5 writes one file for the whole processor.
            Value::Null => processor.get("image_processor").cloned().unwrap_or_default(),
            preprocessor => preprocessor,
        };
        let mut chat_template = None;
        if source.contains(TEMPLATE) {
            chat_template = Some(String::from_utf8_lossy(&source.read(TEMPLATE)?).into_owned());
        }
        for file in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
            if chat_template.is_none() {
                let template = optional(file)?.get("chat_template").cloned();
                chat_template = template.and_then(|text| Some(text.as_str()?.to_owned()));
            }
        }
        let tensors = folder_tensors(&source)?;
        if !source.contains(TOKENIZER) {
            return Err(missing(&name, "the tokenizer", TOKENIZER));
        }
        let tokenizer = LlavaTokenizer::from_json(&source.read(TOKENIZER)?)
            .map_err(|error| WeightsError::from_llava(error, &name))?;
        Ok(Self {
            name,
            options: ReadOptions::new(vec![path.to_owned()]),
            config,
            preprocessor,
            chat_template,
            tokenizer,
            tensors: Arc::new(tensors),
            prompt_format: None,
        })
    }

    /// Same model with its decoder's weights rounded to this type as they are read.
    #[must_use]
    pub fn quantized(self, quant: QuantType) -> Self {
        Self { options: self.options.quantized(quant), ..self }
    }

    /// Counterpart of [`ModelFiles::keep_above`](super::ModelFiles::keep_above).
    #[must_use]
    pub fn keep_above(self, weights: usize) -> Self {
        Self { options: self.options.keep_above(weights), ..self }
    }

    /// Same model with prompts in this format, whatever its files say.
    #[must_use]
    pub fn prompt_format(self, format: PromptFormat) -> Self {
        Self { prompt_format: Some(format), ..self }
    }

    /// Type to which its decoder's weights are rounded.
    #[must_use]
    pub(crate) fn quant(&self) -> Option<QuantType> {
        self.options.quantized
    }

    /// Counterpart of [`ModelFiles::fingerprint`](super::ModelFiles::fingerprint).
    #[must_use]
    pub(crate) fn fingerprint(&self) -> String {
        self.options.fingerprint(std::iter::empty())
    }

    /// Configuration of the model.
    #[must_use]
    pub fn config(&self) -> &LlavaConfig {
        &self.config
    }

    /// Loads the model.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, or parts that do not fit each other.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Llava, WeightsError> {
        self.build(&self.options, device, dtype)
    }

    /// Model from the headers of its files alone, as
    /// [`ModelFiles::without_values`](super::ModelFiles::without_values) builds its parts: it makes prompts and
    /// has sizes, and must not be run.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn without_values(
        &self,
        device: &Device,
        dtype: DType,
    ) -> Result<(Llava, Footprint), WeightsError> {
        self.options.without_values(|options| self.build(&options, device, dtype))
    }

    fn weights(&self) -> KeptWeights {
        let as_stored = self.tensors.count() > self.options.keep_above;
        let rules = self.options.quantized.map(|quant| Rules::Llava { quant });
        KeptWeights::new(self.tensors.clone(), None, Keeping { as_stored, rules })
    }

    fn build(
        &self,
        options: &ReadOptions,
        device: &Device,
        dtype: DType,
    ) -> Result<Llava, WeightsError> {
        let params = options.params(self.weights(), dtype, device, MatmulPrecision::F32);
        let parts = LlavaParts {
            config: self.config.clone(),
            preprocessor: &self.preprocessor,
            tokenizer: self.tokenizer.clone(),
            chat_template: self.chat_template.as_deref(),
            prompt_format: self.prompt_format,
        };
        Llava::load(parts, &params).map_err(|error| WeightsError::from_llava(error, &self.name))
    }
}

const CONFIG: &str = "config.json";
/// Name of the file with the vision tower in messages.
const VISION: &str = "a vision tower (mmproj)";
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER: &str = "tokenizer.json";

fn missing(model: &str, part: &'static str, file: &str) -> WeightsError {
    WeightsError::MissingPart { model: model.to_owned(), part, file: file.to_owned() }
}

/// GGUF files of a folder, by their extension, in the order of their names.
fn gguf_files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let fail = |source| WeightsError::Read { file: folder.display().to_string(), source };
    // The folder of a file that is named without one.
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(place).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if has_extension(&path, &["gguf"]) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn vision_beside(decoder: &Path) -> Result<LlamaCppFile, WeightsError> {
    let folder = decoder.parent().unwrap_or_else(|| Path::new("."));
    only_one(folder, VISION, files_of_kind(folder, LlamaCppFile::is_vision)?)
}

fn files_of_kind(
    folder: &Path,
    is_it: impl Fn(&LlamaCppFile) -> bool,
) -> Result<Vec<LlamaCppFile>, WeightsError> {
    let mut files = Vec::new();
    for path in gguf_files(folder)? {
        let file = LlamaCppFile::open(&path)?;
        if is_it(&file) {
            files.push(file);
        }
    }
    Ok(files)
}

fn only_one<T>(folder: &Path, what: &str, mut files: Vec<T>) -> Result<T, WeightsError> {
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (file, others) => Err(WeightsError::Contents {
            file: folder.display().to_string(),
            reason: format!(
                "{} GGUF files with {what}; there must be one, or one that is named",
                others + usize::from(file.is_some())
            ),
        }),
    }
}

fn folder_tensors(source: &ModelSource) -> Result<TensorMap, WeightsError> {
    // The weights' files have the names of a text encoder's.
    let folder = PartFolder::new(source.clone(), "", Part::TextEncoder(0), FAMILIES[0]);
    let stored = folder.tensors(DType::F32).map_err(|error| match error {
        WeightsError::MissingPart { model, file, .. } => missing(&model, "the weights", &file),
        error => error,
    })?;
    let names: Vec<_> =
        stored.names().map(|name| (published_name(name), name.to_owned(), Take::Whole)).collect();
    Ok(stored.renamed(names))
}

/// Name of a tensor in published checkpoints, from that or from the name that transformers 5 gives it.
fn published_name(name: &str) -> String {
    let inner = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = inner.strip_prefix("language_model.") {
        if rest.starts_with("model.") || rest.starts_with("lm_head.") {
            return inner.to_owned();
        }
        return format!("language_model.model.{rest}");
    }
    if let Some(rest) = inner.strip_prefix("vision_tower.") {
        let rest = rest.strip_prefix("vision_model.").unwrap_or(rest);
        return format!("vision_tower.vision_model.{rest}");
    }
    if inner.starts_with("lm_head.") {
        return format!("language_model.{inner}");
    }
    inner.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_transformers_5_become_the_published_ones() {
        for (name, published) in [
            (
                "model.language_model.layers.0.mlp.up_proj.weight",
                "language_model.model.layers.0.mlp.up_proj.weight",
            ),
            ("lm_head.weight", "language_model.lm_head.weight"),
            (
                "model.vision_tower.embeddings.class_embedding",
                "vision_tower.vision_model.embeddings.class_embedding",
            ),
            (
                "model.vision_tower.vision_model.pre_layrnorm.bias",
                "vision_tower.vision_model.pre_layrnorm.bias",
            ),
            ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
            ("model.image_newline", "image_newline"),
        ] {
            assert_eq!(published_name(name), published);
            assert_eq!(published_name(published), published);
        }
    }
}
