//! GGUF files. Our own are a whole model in one file, as `models quantize` writes it: tensors have
//! diffusers' (transformers') names behind the name of their part, `unet.conv_in.weight`, and the
//! metadata holds the text of every file that a folder in diffusers layout would have beside the
//! weights. Those of others are single files (or UNets alone) with ldm's names in another container:
//! here they become tensors by name, and [`single_file`](super::single_file) knows the rest.
//!
//! Sources: stable-diffusion.cpp `src/convert.cpp` and `src/model_io/gguf_io.cpp` (names as in the
//! checkpoint, no metadata at all; dimensions of 1 at the front are dropped), ComfyUI-GGUF
//! `tools/convert.py` and `loader.py` (a UNet alone; `comfy.gguf.orig_shape.NAME` where it was
//! reshaped to rows of 256).

mod export;
pub(super) mod llama_cpp;
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

use super::form::{Form, Part, PartConfig, TokenizerBytes, class_in, text_encoders_in};
use super::{ModelSource, WeightsError, source::Bytes, tensors::TensorMap};
use read::{Header, MAGIC, Value as MetadataValue};

/// `general.architecture` of our files.
const ARCHITECTURE: &str = "cupscale";
const ARCHITECTURE_KEY: &str = "general.architecture";
const INDEX_KEY: &str = "cupscale.model_index";
/// ComfyUI-GGUF's; the tensor's name follows.
const ORIGINAL_SHAPE_KEY: &str = "comfy.gguf.orig_shape.";
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
fn sniff(source: &ModelSource) -> Result<Option<(PathBuf, Bytes)>, WeightsError> {
    let Some(path) = source.path() else { return Ok(None) };
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = Bytes::map(path)
        .map_err(|source| WeightsError::Read { file: path.display().to_string(), source })?;
    Ok(is_gguf(&bytes).then(|| (path.to_owned(), bytes)))
}

/// Whether these are the contents of a GGUF file.
pub(super) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn read_header(file: &str, bytes: &[u8]) -> Result<Header, WeightsError> {
    Header::read(bytes).map_err(|reason| WeightsError::Gguf { file: file.to_owned(), reason })
}

/// All tensors of a GGUF file by their names in it, in the shapes that they had before they were
/// put there.
///
/// # Errors
/// A file that is damaged, or a shape that its tensor cannot have.
pub(super) fn tensors(file: String, bytes: Bytes) -> Result<TensorMap, WeightsError> {
    let mut header = read_header(&file, &bytes)?;
    for tensor in &mut header.tensors {
        let key = format!("{ORIGINAL_SHAPE_KEY}{}", tensor.name);
        let Some(value) = header.metadata.get(&key) else { continue };
        let count: usize = tensor.shape.iter().product();
        tensor.shape = original_shape(value, count).ok_or_else(|| WeightsError::Gguf {
            file: file.clone(),
            reason: format!("`{key}` is no shape of {count} weights"),
        })?;
    }
    let mut tensors = TensorMap::default();
    let named = header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor));
    tensors.add_gguf(file, bytes, named);
    Ok(tensors)
}

/// A shape out of the metadata, if it is one of so many numbers.
fn original_shape(value: &MetadataValue, count: usize) -> Option<Vec<usize>> {
    let MetadataValue::Array(sizes) = value else { return None };
    let shape = sizes.iter().map(|size| match size {
        MetadataValue::Integer(size) => usize::try_from(*size).ok(),
        _ => None,
    });
    let shape: Vec<usize> = shape.collect::<Option<_>>()?;
    let product = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    (product == Some(count)).then_some(shape)
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
    /// Reads the header of a file if it is one of ours.
    ///
    /// # Errors
    /// A GGUF file that is damaged, or that cannot be read.
    pub(super) fn open(source: &ModelSource) -> Result<Option<Self>, WeightsError> {
        let Some((path, bytes)) = sniff(source)? else { return Ok(None) };
        let file = path.display().to_string();
        let header = read_header(&file, &bytes)?;
        if header.string(ARCHITECTURE_KEY) != Some(ARCHITECTURE) {
            return Ok(None);
        }
        let mut model =
            Self { source: ModelSource::Path(path), file, bytes, header, index: Value::Null };
        model.index = model.json(INDEX_KEY, "the model's index")?;
        Ok(Some(model))
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
        let named = text_encoders_in(&self.index);
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
            class: class_in(&self.index, part).unwrap_or_default().to_owned(),
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
