//! T5's tokenizer for weights files: files of llama.cpp's kind have the vocabulary in their metadata, others beside
//! them.

use std::path::Path;

use super::WeightsError;
use super::file_kind::FileKind;
use super::gguf;
use super::part::TokenizerBytes;
use super::source::ModelSource;
use super::tokenizer_files;

/// Files with a vocabulary that are looked for beside a weights file, by transformers' names.
const FILES: [&str; 2] = ["tokenizer.json", "spiece.model"];

/// The files of the tokenizer for the T5 encoder in a weights file.
///
/// # Errors
/// A vocabulary that is in neither place, or that cannot be read.
pub(super) fn tokenizer(path: &Path) -> Result<TokenizerBytes, WeightsError> {
    if FileKind::of_file(path) == Some(FileKind::Gguf)
        && let Some(json) = gguf::t5_tokenizer(path)?
    {
        return Ok(TokenizerBytes {
            tokenizer_json: Some(json.to_string().into_bytes()),
            tokenizer_config_json: Some(CONFIG.as_bytes().to_vec()),
            place: path.display().to_string(),
            ..TokenizerBytes::default()
        });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let source = ModelSource::Path(folder.unwrap_or(Path::new(".")).to_owned());
    if FILES.iter().all(|file| !source.contains(file)) {
        return Err(WeightsError::MissingPart {
            model: path.display().to_string(),
            part: "T5's vocabulary",
            file: format!("put {} of a T5 v1.1 beside it", FILES.join(" or ")),
        });
    }
    let files = tokenizer_files::read(&source, "")?;
    // What else lies there may be of another tokenizer.
    Ok(TokenizerBytes {
        tokenizer_json: files.tokenizer_json,
        spiece_model: files.spiece_model,
        tokenizer_config_json: Some(CONFIG.as_bytes().to_vec()),
        place: files.place,
        ..TokenizerBytes::default()
    })
}

/// The configuration that every T5 v1.1 has.
const CONFIG: &str = r#"{"tokenizer_class": "T5Tokenizer", "extra_ids": 100}"#;
