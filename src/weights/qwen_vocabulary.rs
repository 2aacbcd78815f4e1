//! Qwen's tokenizer for weights files: files of llama.cpp's kind have the vocabulary in their metadata, others beside
//! them.

use std::path::Path;

use super::WeightsError;
use super::file_kind::FileKind;
use super::gguf;
use super::part::TokenizerBytes;
use super::source::ModelSource;
use super::tokenizer_files;

/// The configuration that the tokenizer of every Qwen3 has, as far as it changes ids.
const CONFIG: &str = r#"{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}"#;

/// The files of the tokenizer for the Qwen3 in a weights file.
///
/// # Errors
/// A vocabulary that is in neither place, or that cannot be read.
pub(super) fn tokenizer(path: &Path) -> Result<TokenizerBytes, WeightsError> {
    // What else lies beside a file may be of another tokenizer.
    let config = || Some(CONFIG.as_bytes().to_vec());
    if FileKind::of_file(path) == Some(FileKind::Gguf)
        && let Some(json) = gguf::qwen_tokenizer(path)?
    {
        return Ok(TokenizerBytes {
            tokenizer_json: Some(json.to_string().into_bytes()),
            tokenizer_config_json: config(),
            place: path.display().to_string(),
            ..TokenizerBytes::default()
        });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let source = ModelSource::Path(folder.unwrap_or(Path::new(".")).to_owned());
    let files = tokenizer_files::read(&source, "").map_err(|error| match error {
        WeightsError::MissingPart { .. } => WeightsError::MissingPart {
            model: path.display().to_string(),
            part: "Qwen's tokenizer",
            file: "put its tokenizer.json beside it".to_owned(),
        },
        error => error,
    })?;
    Ok(TokenizerBytes {
        vocab_json: files.vocab_json,
        merges_txt: files.merges_txt,
        tokenizer_json: files.tokenizer_json,
        tokenizer_config_json: config(),
        place: files.place,
        ..TokenizerBytes::default()
    })
}
