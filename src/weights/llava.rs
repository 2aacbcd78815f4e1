//! LLaVA models in folders as transformers has them: one `config.json`, safetensors (whole or in
//! shards), and the files of its processor. Transformers 4 and 5 write the same tensors by different
//! names; here they have those of the published checkpoints (transformers 4).
//!
//! Source of the names: transformers `conversion_mapping.py`, entries `llava` and `llava_next`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::form::Part;
use super::kept::{Keeping, KeptWeights};
use super::ldm::Take;
use super::model::KEEP_ABOVE;
use super::part_folder::{PartFolder, read_json};
use super::quantize::Rules;
use super::source::refuse_pickle;
use super::tensors::TensorMap;
use super::{ModelSource, QuantType, WeightsError};
use crate::backend::Params;
use crate::model::llava::{Llava, LlavaConfig, LlavaParts, LlavaTokenizer};

/// A LLaVA model that has been found; its tensors have not been read.
#[derive(Clone, Debug)]
pub struct LlavaFiles {
    source: ModelSource,
    config: Value,
    generation: Value,
    preprocessor: Value,
    chat_template: Option<String>,
    quantized: Option<QuantType>,
    keep_above: usize,
}

impl LlavaFiles {
    /// Reads what describes the model in the folder `path`.
    ///
    /// # Errors
    /// No such folder, or a description that is missing or cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, WeightsError> {
        let path = path.into();
        refuse_pickle(&path)?;
        if !path.is_dir() {
            return Err(WeightsError::NotFound(path));
        }
        let source = ModelSource::Path(path);
        if !source.contains("config.json") {
            return Err(missing(&source, "the configuration", "config.json"));
        }
        let optional = |name: &str| {
            if source.contains(name) { read_json(&source, name) } else { Ok(Value::Null) }
        };
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
                let text =
                    optional(file)?.get("chat_template").and_then(Value::as_str).map(str::to_owned);
                chat_template = text;
            }
        }
        Ok(Self {
            config: read_json(&source, "config.json")?,
            generation: optional("generation_config.json")?,
            preprocessor,
            chat_template,
            source,
            quantized: None,
            keep_above: KEEP_ABOVE,
        })
    }

    /// The same model with its decoder's weights rounded to this type as they are read.
    #[must_use]
    pub fn quantized(self, quant: QuantType) -> Self {
        Self { quantized: Some(quant), ..self }
    }

    /// As [`ModelFiles::keep_above`](super::ModelFiles::keep_above).
    #[must_use]
    pub fn keep_above(self, weights: usize) -> Self {
        Self { keep_above: weights, ..self }
    }

    /// Where the model is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.source {
            ModelSource::Path(path) => path,
            ModelSource::Embedded => unreachable!("opened from a path"),
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    /// A part that is missing or not supported, or a tensor that is missing or of another shape.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Llava, WeightsError> {
        let file = self.source.full_name("config.json");
        let config = LlavaConfig::from_json(&self.config, &self.generation)
            .map_err(|error| WeightsError::from_llava(error, &file))?;
        let stored = Arc::new(self.tensors(dtype)?);
        let as_stored = stored.count() > self.keep_above;
        let rules = self.quantized.map(|quant| Rules::Llava { quant });
        let weights = KeptWeights::new(stored, None, Keeping { as_stored, rules });
        let params = Params::new(Arc::new(weights), dtype, device);
        if !self.source.contains(TOKENIZER) {
            return Err(missing(&self.source, "the tokenizer", TOKENIZER));
        }
        let tokenizer = LlavaTokenizer::from_json(&self.source.read(TOKENIZER)?)
            .map_err(|error| WeightsError::from_llava(error, &self.source.to_string()))?;
        let parts = LlavaParts {
            config,
            preprocessor: &self.preprocessor,
            tokenizer,
            chat_template: self.chat_template.as_deref(),
        };
        Llava::load(parts, &params)
            .map_err(|error| WeightsError::from_llava(error, &self.source.to_string()))
    }

    fn tensors(&self, dtype: DType) -> Result<TensorMap, WeightsError> {
        // The weights' files have the names of a text encoder's.
        let folder = PartFolder::new(self.source.clone(), "", Part::TextEncoder);
        let stored = folder.tensors(dtype).map_err(|error| match error {
            WeightsError::MissingPart { model, file, .. } => {
                WeightsError::MissingPart { model, part: "the weights", file }
            }
            error => error,
        })?;
        let names: Vec<_> = stored
            .names()
            .map(|name| (published_name(name), name.to_owned(), Take::Whole))
            .collect();
        Ok(stored.renamed(names))
    }
}

const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER: &str = "tokenizer.json";

fn missing(source: &ModelSource, part: &'static str, file: &str) -> WeightsError {
    WeightsError::MissingPart { model: source.to_string(), part, file: file.to_owned() }
}

/// A tensor's name in published checkpoints, from that or from the name that transformers 5 gives it.
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
