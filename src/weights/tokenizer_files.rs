//! The files of a tokenizer in a folder, by transformers' names.

use super::part::TokenizerBytes;
use super::{ModelSource, WeightsError};

/// Finds the vocabulary of the tokenizer in a folder of a source, in one of its forms; the empty folder is the source.
///
/// # Errors
/// The first file that is missing.
pub(super) fn check(source: &ModelSource, folder: &str) -> Result<(), WeightsError> {
    let has = |file: &str| source.contains(&name(folder, file));
    if has("tokenizer.json") || has("spiece.model") {
        return Ok(());
    }
    match ["vocab.json", "merges.txt"].into_iter().find(|file| !has(file)) {
        None => Ok(()),
        Some(file) => Err(WeightsError::MissingPart {
            model: source.to_string(),
            part: "the tokenizer",
            file: name(folder, file),
        }),
    }
}

/// Reads the files of the tokenizer in a folder of a source; the empty folder is the source.
///
/// # Errors
/// A vocabulary that is missing, or a file that cannot be read.
pub(super) fn read(source: &ModelSource, folder: &str) -> Result<TokenizerBytes, WeightsError> {
    check(source, folder)?;
    let read = |file: &str| {
        let file = name(folder, file);
        let bytes = source.contains(&file).then(|| source.read(&file)).transpose()?;
        Ok::<_, WeightsError>(bytes.map(|bytes| bytes.to_vec()))
    };
    Ok(TokenizerBytes {
        vocab_json: read("vocab.json")?,
        merges_txt: read("merges.txt")?,
        tokenizer_json: read("tokenizer.json")?,
        spiece_model: read("spiece.model")?,
        tokenizer_config_json: read("tokenizer_config.json")?,
        special_tokens_map_json: read("special_tokens_map.json")?,
        place: if folder.is_empty() { source.to_string() } else { source.full_name(folder) },
    })
}

fn name(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}
