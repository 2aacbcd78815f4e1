//! Whole models in GGUF files of our own: tensors have diffusers' (transformers') names behind the name of their
//! part, `unet.conv_in.weight` for example, and the metadata holds the text of every file that a folder in
//! diffusers layout has beside the weights.

use std::path::PathBuf;

use candle_core::DType;
use serde_json::Value;

use super::keys::{
    ARCHITECTURE, ARCHITECTURE_KEY, INDEX_KEY, SCHEDULER_KEY, TOKENIZER_FILES, config_key,
    tokenizer_key,
};
use super::read::Header;
use super::read_header;
use crate::weights::families::{self, Family, tokenizer_folder};
use crate::weights::file_kind::FileKind;
use crate::weights::form::ModelForm;
use crate::weights::part::{Part, PartConfig, TokenizerBytes};
use crate::weights::source::Bytes;
use crate::weights::tensors::{TensorInfo, TensorMap};
use crate::weights::{ModelSource, WeightsError};

/// File and contents of a source that is a GGUF file, whatever it is called.
fn sniff(source: &ModelSource) -> Result<Option<(PathBuf, Bytes)>, WeightsError> {
    let Some(path) = source.path() else { return Ok(None) };
    if FileKind::of_file(path) != Some(FileKind::Gguf) {
        return Ok(None);
    }
    let bytes = Bytes::map(path)
        .map_err(|source| WeightsError::Read { file: path.display().to_string(), source })?;
    Ok(Some((path.to_owned(), bytes)))
}

/// A whole model in a GGUF file of our own, whose header has been read.
#[derive(Debug)]
pub(in crate::weights) struct GgufModel {
    source: ModelSource,
    /// name of the file, for messages
    file: String,
    bytes: Bytes,
    header: Header,
    index: Value,
    family: &'static dyn Family,
}

impl GgufModel {
    /// Reads the header of a file if it is one of ours.
    ///
    /// # Errors
    /// A GGUF file that is damaged, or that cannot be read.
    pub(in crate::weights) fn open(source: &ModelSource) -> Result<Option<Self>, WeightsError> {
        let Some((path, bytes)) = sniff(source)? else { return Ok(None) };
        let file = path.display().to_string();
        let header = read_header(&file, &bytes)?;
        if header.string(ARCHITECTURE_KEY) != Some(ARCHITECTURE) {
            return Ok(None);
        }
        let mut model = Self {
            source: ModelSource::Path(path),
            file,
            bytes,
            header,
            index: Value::Null,
            family: families::of_index(&Value::Null),
        };
        model.index = model.json(INDEX_KEY, "the model's index")?;
        model.family = families::of_index(&model.index);
        Ok(Some(model))
    }

    /// JSON under a metadata key.
    fn json(&self, key: &str, part: &'static str) -> Result<Value, WeightsError> {
        let Some(text) = self.header.string(key) else { return Err(self.missing(part, key)) };
        serde_json::from_str(text)
            .map_err(|source| WeightsError::Json { file: self.place(key), source })
    }

    /// Full name of a metadata key, for messages.
    fn place(&self, key: &str) -> String {
        format!("{}: {key}", self.file)
    }

    fn missing(&self, part: &'static str, key: &str) -> WeightsError {
        WeightsError::MissingPart { model: self.file.clone(), part, file: key.to_owned() }
    }

    fn tensors_of(&self, part: Part) -> impl Iterator<Item = (String, &TensorInfo)> {
        let folder = self.family.folder(part);
        self.header.tensors.iter().filter_map(move |tensor| {
            let name = tensor.name.strip_prefix(&*folder)?.strip_prefix('.')?;
            Some((name.to_owned(), tensor))
        })
    }
}

impl ModelForm for GgufModel {
    fn source(&self) -> &ModelSource {
        &self.source
    }

    fn family(&self) -> &'static dyn Family {
        self.family
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        let named = self.family.text_encoders_in(&self.index);
        if named.is_empty() {
            return Err(self.missing("the text encoder", INDEX_KEY));
        }
        Ok(named)
    }

    fn index(&self) -> &Value {
        &self.index
    }

    fn scheduler(&self) -> Result<Value, WeightsError> {
        self.json(SCHEDULER_KEY, "the scheduler")
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        let key = config_key(self.family, part);
        Ok(PartConfig {
            class: self.family.class_in(&self.index, part).unwrap_or_default().to_owned(),
            config: self.json(&key, self.family.title(part))?,
            file: self.place(&key),
        })
    }

    fn tensors(&self, part: Part, _: DType) -> Result<TensorMap, WeightsError> {
        let mut tensors = TensorMap::default();
        tensors.add_gguf(self.file.clone(), self.bytes.clone(), self.tensors_of(part));
        Ok(tensors)
    }

    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        let [vocab_json, merges_txt, tokenizer_json, tokenizer_config_json, special] =
            TOKENIZER_FILES.map(|file| {
                let text = self.header.string(&tokenizer_key(encoder, file))?;
                Some(text.as_bytes().to_vec())
            });
        if tokenizer_json.is_none() && (vocab_json.is_none() || merges_txt.is_none()) {
            return Err(self.missing("the tokenizer", &tokenizer_key(encoder, TOKENIZER_FILES[0])));
        }
        Ok(TokenizerBytes {
            vocab_json,
            merges_txt,
            tokenizer_json,
            tokenizer_config_json,
            special_tokens_map_json: special,
            place: self.place(&tokenizer_folder(encoder)),
            // It is no text; `export` writes the tokenizer.json that it amounts to.
            spiece_model: None,
        })
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        self.config(part)?;
        if self.tensors_of(part).next().is_none() {
            return Err(
                self.missing(self.family.title(part), &format!("{}.*", self.family.folder(part)))
            );
        }
        if matches!(part, Part::TextEncoder(_)) {
            self.tokenizer(part)?;
        }
        Ok(())
    }

    /// A file that this program wrote holds what it needs and nothing else.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
