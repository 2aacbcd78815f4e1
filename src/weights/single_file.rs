//! A whole model in one file (safetensors or GGUF) with the names of the code that trained it. The tensors decide
//! what the file is: neither its name nor the user is asked. What each family's files look like stands in
//! [`families`].

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::Value;

use super::clip_vocabulary::{self, TokenPadding};
use super::families::{self, Checkpoint, CheckpointEncoder, CheckpointTokenizer, Family};
use super::form::{ModelForm, unused_note};
use super::part::{Part, PartConfig, TokenizerBytes};
use super::part_file::PartFile;
use super::weights_file::open_tensors;
use super::{ModelSource, WeightsError, qwen_vocabulary, t5_vocabulary, tensors::TensorMap};

/// A whole model in one file.
#[derive(Debug)]
pub(super) struct SingleFile {
    source: ModelSource,
    family: &'static dyn Family,
    model: Checkpoint,
}

impl SingleFile {
    /// Recognises the model and its family from the header of the file.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no whole model of a supported family.
    pub(super) fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let tensors = open_tensors(&path)?;
        let file = path.display().to_string();
        let (family, mut model) = families::checkpoint(&file, &tensors)?;
        let parts: Vec<&PartFile> = (model.denoiser.iter())
            .chain(&model.vae)
            .chain(model.encoders.iter().map(|one| &one.file))
            .collect();
        let is_used = |name: &str| parts.iter().any(|part| part.stored.contains(name));
        let unused = unused_note(&file, tensors.names().filter(|name| !is_used(name)));
        model.notes.extend(unused);
        Ok(Self { source: ModelSource::Path(path), family, model })
    }

    fn part(&self, part: Part) -> Result<&PartFile, WeightsError> {
        let file = match part {
            Part::Denoiser => self.model.denoiser.as_ref(),
            Part::Vae => self.model.vae.as_ref(),
            Part::TextEncoder(_) => self.encoder(part).map(|encoder| &encoder.file),
            // It comes in a file of its own.
            Part::Control => None,
        };
        file.ok_or_else(|| WeightsError::MissingPart {
            model: self.source.to_string(),
            part: self.family.title(part),
            file: format!("the file has none: {}", self.family.folder(part)),
        })
    }

    /// A tokenizer that is found by the path of the model's file.
    fn beside(
        &self,
        find: fn(&Path) -> Result<TokenizerBytes, WeightsError>,
    ) -> Result<TokenizerBytes, WeightsError> {
        self.source.path().map_or_else(|| Ok(TokenizerBytes::default()), find)
    }

    fn encoder(&self, part: Part) -> Option<&CheckpointEncoder> {
        self.model.encoders.iter().find(|encoder| encoder.part == part)
    }
}

impl ModelForm for SingleFile {
    fn source(&self) -> &ModelSource {
        &self.source
    }

    fn family(&self) -> &'static dyn Family {
        self.family
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        Ok(self.model.encoders.iter().map(|encoder| encoder.part).collect())
    }

    fn index(&self) -> &Value {
        &self.model.index
    }

    fn scheduler(&self) -> Result<Value, WeightsError> {
        Ok(self.model.scheduler.clone())
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        Ok(self.part(part)?.config.clone())
    }

    fn tensors(&self, part: Part, _dtype: DType) -> Result<TensorMap, WeightsError> {
        Ok(self.part(part)?.tensors.clone())
    }

    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        self.part(encoder)?;
        match self.encoder(encoder).map(|encoder| encoder.tokenizer) {
            Some(CheckpointTokenizer::T5) => self.beside(t5_vocabulary::tokenizer),
            Some(CheckpointTokenizer::Qwen) => self.beside(qwen_vocabulary::tokenizer),
            Some(CheckpointTokenizer::Clip(padding)) => Ok(clip_vocabulary::tokenizer(padding)),
            None => Ok(clip_vocabulary::tokenizer(TokenPadding::EndOfText)),
        }
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        match part {
            Part::TextEncoder(_) => self.tokenizer(part).map(|_| ()),
            Part::Denoiser | Part::Vae | Part::Control => self.part(part).map(|_| ()),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.model.notes.clone()
    }
}
