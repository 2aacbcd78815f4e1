//! A model in diffusers layout: a folder with a `model_index.json` and a folder for each part; also the form of the
//! embedded model.

use candle_core::DType;
use serde_json::Value;

use super::families::{self, Family, tokenizer_folder};
use super::form::ModelForm;
use super::part::{Part, PartConfig, TokenizerBytes};
use super::part_folder::{PartFolder, read_json};
use super::{ModelSource, WeightsError, tensors::TensorMap, tokenizer_files};

/// A folder in diffusers layout whose `model_index.json` has been read. Nothing else has.
#[derive(Debug)]
pub(super) struct DiffusersFolder {
    source: ModelSource,
    index: Value,
    family: &'static dyn Family,
}

impl DiffusersFolder {
    /// Reads `model_index.json`.
    ///
    /// # Errors
    /// A folder without one, an index that is not JSON, or one of a model that is not supported.
    pub(super) fn open(source: ModelSource) -> Result<Self, WeightsError> {
        let index = read_json(&source, "model_index.json")?;
        if let Some(reason) = families::refused(&index) {
            let file = source.full_name("model_index.json");
            return Err(WeightsError::Config { file, reason: reason.to_owned() });
        }
        Ok(Self { source, family: families::of_index(&index), index })
    }

    fn part(&self, part: Part) -> PartFolder {
        PartFolder::new(self.source.clone(), &self.family.folder(part), part, self.family)
    }

    /// Class of a part, if the index names one.
    fn class(&self, part: Part) -> Option<&str> {
        self.family.class_in(&self.index, part)
    }

    fn require(&self, part: &'static str, file: &str) -> Result<(), WeightsError> {
        if self.source.contains(file) { Ok(()) } else { Err(self.missing(part, file)) }
    }

    fn missing(&self, part: &'static str, file: &str) -> WeightsError {
        WeightsError::MissingPart { model: self.source.to_string(), part, file: file.to_owned() }
    }
}

impl ModelForm for DiffusersFolder {
    fn source(&self) -> &ModelSource {
        &self.source
    }

    fn family(&self) -> &'static dyn Family {
        self.family
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        let named = self.family.text_encoders_in(&self.index);
        if named.is_empty() {
            return Err(self.missing("the text encoder", "model_index.json names none"));
        }
        Ok(named)
    }

    fn index(&self) -> &Value {
        &self.index
    }

    fn scheduler(&self) -> Result<Value, WeightsError> {
        let file = "scheduler/scheduler_config.json";
        self.require("the scheduler", file)?;
        read_json(&self.source, file)
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        self.part(part).config(self.class(part))
    }

    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError> {
        self.part(part).tensors(dtype)
    }

    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        tokenizer_files::read(&self.source, &tokenizer_folder(encoder))
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        self.part(part).check()?;
        match part {
            Part::Denoiser | Part::Vae | Part::Control => Ok(()),
            Part::TextEncoder(_) => tokenizer_files::check(&self.source, &tokenizer_folder(part)),
        }
    }

    fn notes(&self) -> Vec<String> {
        (self.parts().unwrap_or_default().into_iter())
            .filter(|&part| self.class(part).is_some())
            .filter_map(|part| self.part(part).note(self.class(part)))
            .collect()
    }
}
