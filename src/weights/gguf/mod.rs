//! GGUF files of our own: a whole model in one file, as `models quantize` writes it. Tensors have
//! diffusers' (transformers') names behind the name of their part, `unet.conv_in.weight`; the
//! metadata holds the text of every file that a folder in diffusers layout would have beside the
//! weights.

mod export;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

use candle_core::DType;
use serde_json::Value;

pub use export::Summary;
pub(super) use export::export;
pub(super) use read::TensorInfo;

use super::form::{Form, Part, PartConfig, TokenizerBytes};
use super::{ModelSource, WeightsError, source::Bytes, tensors::TensorMap};
use read::{Header, MAGIC};

/// `general.architecture` of our files.
const ARCHITECTURE: &str = "cupscale";
const ARCHITECTURE_KEY: &str = "general.architecture";
const INDEX_KEY: &str = "cupscale.model_index";
const SCHEDULER_KEY: &str = "cupscale.scheduler.config";
/// The files of a tokenizer that are kept, by transformers' names.
const TOKENIZER_FILES: [&str; 5] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

fn config_key(part: Part) -> String {
    format!("cupscale.{part}.config")
}

fn tokenizer_key(encoder: Part, file: &str) -> String {
    format!("cupscale.{}.{file}", encoder.tokenizer_folder())
}

/// The file and its contents if the source is a GGUF file, whatever it is called.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn sniff(source: &ModelSource) -> Result<Option<(PathBuf, Bytes)>, WeightsError> {
    let ModelSource::Path(path) = source else { return Ok(None) };
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = Bytes::map(path)
        .map_err(|source| WeightsError::Read { file: path.display().to_string(), source })?;
    Ok(bytes.starts_with(&MAGIC).then(|| (path.clone(), bytes)))
}

/// A whole model in a GGUF file of our own, whose header has been read.
#[derive(Debug)]
pub(super) struct GgufModel {
    source: ModelSource,
    /// the file's name, for messages
    file: String,
    bytes: Bytes,
    header: Header,
    index: Value,
}

impl GgufModel {
    /// Reads the header of a mapped file.
    ///
    /// # Errors
    /// A file that is damaged, or not one of ours.
    pub(super) fn open(path: PathBuf, bytes: Bytes) -> Result<Self, WeightsError> {
        let file = path.display().to_string();
        let fail = |reason: String| WeightsError::Gguf { file: file.clone(), reason };
        let header = Header::read(&bytes).map_err(fail)?;
        match header.string(ARCHITECTURE_KEY) {
            Some(ARCHITECTURE) => {}
            other => {
                return Err(fail(format!(
                    "`{ARCHITECTURE_KEY}` is {}, not {ARCHITECTURE}",
                    other.unwrap_or("missing")
                )));
            }
        }
        let mut model =
            Self { source: ModelSource::Path(path), file, bytes, header, index: Value::Null };
        model.index = model.json(INDEX_KEY, "the model's index")?;
        Ok(model)
    }

    /// The JSON text of a metadata key.
    fn json(&self, key: &str, part: &'static str) -> Result<Value, WeightsError> {
        let Some(text) = self.header.string(key) else { return Err(self.missing(part, key)) };
        serde_json::from_str(text)
            .map_err(|source| WeightsError::Json { file: self.place(key), source })
    }

    /// The full name of a metadata key, for messages.
    fn place(&self, key: &str) -> String {
        format!("{}: {key}", self.file)
    }

    fn missing(&self, part: &'static str, key: &str) -> WeightsError {
        WeightsError::MissingPart { model: self.file.clone(), part, file: key.to_owned() }
    }

    /// The class that the index names for a part, if it names one.
    fn class(&self, part: Part) -> Option<&str> {
        self.index.get(part.folder())?.get(1)?.as_str()
    }

    fn tensors_of(&self, part: Part) -> impl Iterator<Item = (String, &TensorInfo)> {
        self.header.tensors.iter().filter_map(move |tensor| {
            let name = tensor.name.strip_prefix(part.folder())?.strip_prefix('.')?;
            Some((name.to_owned(), tensor))
        })
    }
}

impl Form for GgufModel {
    fn source(&self) -> &ModelSource {
        &self.source
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        let named: Vec<_> = [Part::TextEncoder, Part::TextEncoder2]
            .into_iter()
            .filter(|&part| self.class(part).is_some())
            .collect();
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
        let key = config_key(part);
        Ok(PartConfig {
            class: self.class(part).unwrap_or_default().to_owned(),
            config: self.json(&key, part.title())?,
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
            place: self.place(encoder.tokenizer_folder()),
        })
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        self.config(part)?;
        if self.tensors_of(part).next().is_none() {
            return Err(self.missing(part.title(), &format!("{part}.*")));
        }
        if matches!(part, Part::TextEncoder | Part::TextEncoder2) {
            self.tokenizer(part)?;
        }
        Ok(())
    }

    /// A file that this program wrote holds what it needs and nothing else.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
