//! What llama.cpp's GGUF files of a Qwen3 say beside its tensors: the vocabulary, byte-level BPE with tokens and merges as
//! `tokenizer.json` has them, and the numbers that no tensor shows.
//!
//! Source: llama.cpp `conversion/base.py` (`get_vocab_base`, `_set_vocab_gpt2`), `gguf-py/gguf/constants.py`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::ARCHITECTURE_KEY;
use super::read::{Header, Value as Metadata};
use super::vocabulary::{CONTROL, TOKENS_KEY, TYPES_KEY, USER_DEFINED};
use crate::weights::WeightsError;
use crate::weights::source::Bytes;

/// Kind of the tokenizer in the metadata: that of every byte-level BPE.
const KIND_KEY: &str = "tokenizer.ggml.model";
const KIND: &str = "gpt2";
/// Rule by which a text is split into words, and the value that Qwen's has.
const SPLIT_KEY: &str = "tokenizer.ggml.pre";
const SPLIT: &str = "qwen2";
const MERGES_KEY: &str = "tokenizer.ggml.merges";
/// llama.cpp's `LLAMA_TOKEN_TYPE_UNUSED`: what fills up a vocabulary to the rows of the table of tokens.
const UNUSED: i128 = 5;

/// Architecture of such files.
const ARCHITECTURE: &str = "qwen3";

/// Fields of a `config.json` that a GGUF file's metadata says of its Qwen3 of so many layers; none where it has no metadata.
///
/// # Errors
/// A file that cannot be read or is damaged, another architecture, or one of which this file holds a part.
pub(in crate::weights) fn qwen3_config(
    path: &Path,
    layers: usize,
) -> Result<Map<String, Value>, WeightsError> {
    let file = path.display().to_string();
    let bytes =
        Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
    let fields = Header::read(&bytes).and_then(|header| config_fields(&header, layers));
    fields.map_err(|reason| WeightsError::Gguf { file, reason })
}

fn config_fields(header: &Header, layers: usize) -> Result<Map<String, Value>, String> {
    let found = header.string(ARCHITECTURE_KEY).unwrap_or(ARCHITECTURE);
    if found != ARCHITECTURE {
        return Err(format!("the architecture `{found}`; `{ARCHITECTURE}` is wanted"));
    }
    let all = header.optional(&format!("{ARCHITECTURE}.block_count"));
    if let Some(all) = all.filter(|&all| all != layers as u64) {
        return Err(format!("{layers} of {all} layers are in it; join the parts of a split file"));
    }
    let numbers =
        [("rms_norm_eps", "attention.layer_norm_rms_epsilon"), ("rope_theta", "rope.freq_base")];
    let number = |key: &str| header.float(&format!("{ARCHITECTURE}.{key}"));
    // In f32 there, of a number that a configuration has in few digits.
    let shortest = |value: f64| (value as f32).to_string().parse().unwrap_or(value);
    Ok(numbers
        .into_iter()
        .filter_map(|(field, key)| Some((field.to_owned(), json!(shortest(number(key)?)))))
        .collect())
}

/// The vocabulary in a GGUF file as a `tokenizer.json`; `None` where the metadata has none.
///
/// # Errors
/// A file that cannot be read or is damaged, a vocabulary of another kind, or lists that do not fit each other.
pub(in crate::weights) fn qwen_tokenizer(path: &Path) -> Result<Option<Value>, WeightsError> {
    let file = path.display().to_string();
    let bytes =
        Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
    let keys = [TOKENS_KEY, TYPES_KEY, MERGES_KEY];
    let tokenizer = Header::read_with(&bytes, |key| keys.contains(&key))
        .and_then(|header| header.string(KIND_KEY).map(|_| tokenizer(&header)).transpose());
    tokenizer.map_err(|reason| WeightsError::Gguf { file, reason })
}

fn text(value: &Metadata) -> Option<&str> {
    match value {
        Metadata::String(text) => Some(text),
        _ => None,
    }
}

fn tokenizer(header: &Header) -> Result<Value, String> {
    for (key, wanted) in [(KIND_KEY, KIND), (SPLIT_KEY, SPLIT)] {
        let found = header.string(key).unwrap_or_default();
        if found != wanted {
            return Err(format!("`{key}` is `{found}`, Qwen's is `{wanted}`"));
        }
    }
    let texts = |key: &str| -> Result<Vec<&str>, String> {
        let all = header.array(key).and_then(|all| all.iter().map(text).collect());
        all.ok_or_else(|| format!("`{key}` is missing"))
    };
    let (tokens, merges) = (texts(TOKENS_KEY)?, texts(MERGES_KEY)?);
    let kinds = header.integers(TYPES_KEY).unwrap_or_default();
    if kinds.len() != tokens.len() {
        return Err(format!("`{TYPES_KEY}` does not fit {} tokens", tokens.len()));
    }
    let used = || tokens.iter().zip(&kinds).enumerate().filter(|(_, (_, kind))| **kind != UNUSED);
    let vocabulary: Map<String, Value> =
        used().map(|(id, (token, _))| ((*token).to_owned(), id.into())).collect();
    let added: Vec<_> = used()
        .filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            })
        })
        .collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }))
}
