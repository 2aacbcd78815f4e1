//! The vocabulary of T5 in llama.cpp's GGUF files.
//!
//! Source: llama.cpp `conversion/t5.py` (`set_vocab`), `gguf-py/gguf/constants.py`.

use std::path::Path;

use serde_json::Value;

use super::read::{Header, Value as Metadata};
use super::vocabulary::{SCORES_KEY, TOKENS_KEY, TYPES_KEY};
use crate::model::text::t5::Pieces;
use crate::weights::WeightsError;
use crate::weights::source::Bytes;

/// Kind of the tokenizer in the metadata.
const KIND_KEY: &str = "tokenizer.ggml.model";
const KIND: &str = "t5";
const CHARSMAP_KEY: &str = "tokenizer.ggml.precompiled_charsmap";
/// llama.cpp's `LLAMA_TOKEN_TYPE_UNUSED`: what fills up a vocabulary to the rows of the table of tokens.
const UNUSED: i128 = 5;
/// Tokens for gaps of every T5.
const GAPS: u64 = 100;

/// The vocabulary in a GGUF file as a `tokenizer.json`; `None` where the metadata has none of T5's kind.
///
/// # Errors
/// A file that cannot be read or is damaged, or lists that do not fit each other.
pub(in crate::weights) fn t5_tokenizer(path: &Path) -> Result<Option<Value>, WeightsError> {
    let file = path.display().to_string();
    let bytes =
        Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
    let keys = [TOKENS_KEY, SCORES_KEY, TYPES_KEY, CHARSMAP_KEY];
    let pieces = Header::read_with(&bytes, |key| keys.contains(&key)).and_then(|header| {
        (header.string(KIND_KEY) == Some(KIND)).then(|| pieces(&header)).transpose()
    });
    let pieces = pieces.map_err(|reason| WeightsError::Gguf { file, reason })?;
    Ok(pieces.map(|pieces| pieces.to_json()))
}

fn pieces(header: &Header) -> Result<Pieces, String> {
    let text = |value: &Metadata| match value {
        Metadata::String(text) => Some(text.clone()),
        _ => None,
    };
    let tokens = header.array(TOKENS_KEY).and_then(|all| all.iter().map(text).collect());
    let tokens: Vec<String> = tokens.ok_or_else(|| format!("`{TOKENS_KEY}` is missing"))?;
    let scores = header.floats(SCORES_KEY).unwrap_or_default();
    let kinds = header.integers(TYPES_KEY).unwrap_or_default();
    if scores.len() != tokens.len() || kinds.len() != tokens.len() {
        return Err(format!("`{SCORES_KEY}` or `{TYPES_KEY}` do not fit {} tokens", tokens.len()));
    }
    let charsmap = header.integers(CHARSMAP_KEY).unwrap_or_default();
    let used = kinds.iter().rposition(|&kind| kind != UNUSED).map_or(0, |last| last + 1);
    let pieces = Pieces {
        vocab: tokens.into_iter().zip(scores).take(used).collect(),
        // Signed or not.
        charsmap: charsmap.into_iter().map(|byte| byte as u8).collect(),
    };
    let has_gaps = pieces.vocab.iter().any(|(piece, _)| piece == "<extra_id_0>");
    Ok(if has_gaps { pieces } else { pieces.with_gaps(GAPS) })
}
