//! Vocabulary and merges of byte-level BPE, which CLIP's tokenizer and Qwen's are made of, from either form of their
//! files.

use std::collections::HashMap;

use serde_json::Value;

use super::tokenizing::{GREATEST_ID, parse, require};
use super::{TextError, TokenizerFiles};

type Merges = Vec<(String, String)>;

/// What a BPE model is made of.
pub(super) struct BytePairs {
    /// ids of the tokens
    pub vocab: HashMap<String, u32>,
    /// pairs of tokens that make one, first those that are made first
    pub merges: Merges,
}

impl BytePairs {
    /// Reads `tokenizer.json`, which is parsed already, if there is one, else `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// A file that is missing or malformed, an id beyond every vocabulary, or a merge of what is no token.
    pub(super) fn read(
        files: &TokenizerFiles<'_>,
        tokenizer_json: &Value,
    ) -> Result<Self, TextError> {
        let (vocab, merges) = if files.tokenizer_json.is_some() {
            vocabulary_of_tokenizer_json(tokenizer_json)?
        } else {
            (
                parse("vocab.json", Some(require("vocab.json", files.vocab_json)?))?,
                merges_of_text(require("merges.txt", files.merges_txt)?)?,
            )
        };
        let (file, table) = match files.tokenizer_json {
            Some(_) => ("tokenizer.json", "tokenizer.json"),
            None => ("merges.txt", "vocab.json"),
        };
        if let Some(id) = vocab.values().find(|&&id| id > GREATEST_ID) {
            let reason = format!("a token has the id {id}, which no vocabulary has");
            return Err(TextError::TokenizerFile { file: table, reason });
        }
        check_merges(&vocab, &merges, file)?;
        Ok(Self { vocab, merges })
    }
}

fn vocabulary_of_tokenizer_json(file: &Value) -> Result<(HashMap<String, u32>, Merges), TextError> {
    let fail = |reason: &str| TextError::TokenizerFile {
        file: "tokenizer.json",
        reason: reason.to_owned(),
    };
    let model = file.get("model").ok_or_else(|| fail("no `model`"))?;
    let vocab = model
        .get("vocab")
        .and_then(|vocab| serde_json::from_value(vocab.clone()).ok())
        .ok_or_else(|| fail("`model.vocab` is not a table of ids, as a BPE model's is"))?;
    // Older files write a merge as "a b", newer ones as ["a", "b"].
    let merges = model
        .get("merges")
        .and_then(Value::as_array)
        .ok_or_else(|| fail("`model.merges` is not a list, as a BPE model's is"))?
        .iter()
        .map(|merge| match merge {
            Value::String(pair) => split_pair(pair),
            pair => serde_json::from_value(pair.clone()).ok(),
        })
        .collect::<Option<Merges>>()
        .ok_or_else(|| fail("`model.merges` holds something that is not a pair"))?;
    Ok((vocab, merges))
}

fn merges_of_text(bytes: &[u8]) -> Result<Merges, TextError> {
    let fail = |reason: String| TextError::TokenizerFile { file: "merges.txt", reason };
    let text = std::str::from_utf8(bytes).map_err(|error| fail(error.to_string()))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with("#version") && !line.trim().is_empty())
        .map(|(index, line)| {
            split_pair(line.trim_end())
                .ok_or_else(|| fail(format!("line {} is not a pair of tokens", index + 1)))
        })
        .collect()
}

fn split_pair(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' '))
        .then(|| (left.to_owned(), right.to_owned()))
}

/// Every merge must make a token of the vocabulary: the BPE builder takes that for granted in the
/// size of its buffer.
fn check_merges(
    vocab: &HashMap<String, u32>,
    merges: &Merges,
    file: &'static str,
) -> Result<(), TextError> {
    for (left, right) in merges {
        for token in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                let reason =
                    format!("the merge `{left} {right}` needs `{token}`, not in the vocabulary");
                return Err(TextError::TokenizerFile { file, reason });
            }
        }
    }
    Ok(())
}
