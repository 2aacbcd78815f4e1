//! The decoder's tokenizer, from the `tokenizer.json` that describes it whole.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::LlavaError;
use super::prompt::IMAGE;

/// Text to tokens and back; cheap to clone.
#[derive(Clone, Debug)]
pub struct LlavaTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// texts that are tokens of their own, longest first
    special: Vec<String>,
}

/// A prompt in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// tokens before the picture
    pub before: Vec<u32>,
    /// tokens after it
    pub after: Vec<u32>,
}

impl LlavaTokenizer {
    /// Builds it from the contents of `tokenizer.json`.
    ///
    /// # Errors
    /// A file that is malformed, or whose normalizer is a table of characters, which no decoder of ours has.
    pub fn from_json(json: &[u8]) -> Result<Self, LlavaError> {
        let rules: Rules = serde_json::from_slice(json).map_err(|error| refusal(&error))?;
        if is_precompiled(&rules.normalizer) {
            return Err(refusal(&"a normalizer of the type `Precompiled` is not supported"));
        }
        // Not `from_bytes`: it is generic, and this crate would compile all of a tokenizer's parser.
        let json = std::str::from_utf8(json).map_err(|error| refusal(&error))?;
        let tokenizer = json.parse().map_err(|error| failure(&error))?;
        Ok(Self::new(tokenizer))
    }

    /// Wraps a tokenizer that was built elsewhere.
    pub(crate) fn new(mut tokenizer: Tokenizer) -> Self {
        // A file may ask for both; a prompt has neither one length nor a limit here.
        tokenizer.with_padding(None);
        // What is not asked for cannot fail.
        let _ = tokenizer.with_truncation(None);
        let mut special: Vec<_> = tokenizer
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special && !token.content.is_empty())
            .map(|token| token.content)
            .collect();
        special.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self { tokenizer: Arc::new(tokenizer), special }
    }

    /// Checks that the picture's token has this number.
    pub(super) fn check_image_token(&self, id: u32) -> Result<(), LlavaError> {
        match self.tokenizer.token_to_id(IMAGE) {
            Some(known) if known == id => Ok(()),
            known => Err(LlavaError::Tokenizer {
                file: "tokenizer.json",
                reason: format!("`{IMAGE}` is {known:?}, the configuration says {id}"),
            }),
        }
    }

    /// A text without special tokens: it comes from users and files.
    pub(crate) fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // What remains when one is taken out may be another.
        while let Some(special) = self.special.iter().find(|special| text.contains(*special)) {
            text = text.replace(special, "");
        }
        text
    }

    /// The tokens before and behind the picture.
    pub(crate) fn split(&self, prompt: &str, image_token: u32) -> Result<Prompt, LlavaError> {
        let encoding = self.tokenizer.encode(prompt, true).map_err(|error| failure(&error))?;
        let mut parts = encoding.get_ids().split(|&id| id == image_token);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(before), Some(after), None) => {
                Ok(Prompt { before: before.to_vec(), after: after.to_vec() })
            }
            _ => Err(LlavaError::Tokenizer {
                file: "tokenizer.json",
                reason: format!("a prompt must have `{IMAGE}` once"),
            }),
        }
    }

    /// The text of tokens, without the special ones.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, LlavaError> {
        self.tokenizer.decode(tokens, true).map_err(|error| failure(&error))
    }

    /// Entries of the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The largest token id that a text can have; the picture's is not among them, for it is
    /// never looked up.
    pub(super) fn largest_id(&self) -> u32 {
        let vocabulary = self.tokenizer.get_vocab(true).into_iter();
        vocabulary.filter(|(text, _)| text != IMAGE).map(|(_, id)| id).max().unwrap_or(0)
    }
}

/// The parts of a file of which `tokenizers` takes for granted that they are whole JSON, and panics where they are not.
#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    normalizer: Value,
    #[serde(default, rename = "decoder")]
    _decoder: Value,
}

/// `true` if a step of a normalizer is a table of characters: `tokenizers` panics where it is damaged.
fn is_precompiled(normalizer: &Value) -> bool {
    match normalizer {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == "Precompiled")
                || fields.values().any(is_precompiled)
        }
        Value::Array(steps) => steps.iter().any(is_precompiled),
        _ => false,
    }
}

fn failure(error: &tokenizers::Error) -> LlavaError {
    refusal(error)
}

fn refusal(reason: &impl ToString) -> LlavaError {
    LlavaError::Tokenizer { file: "tokenizer.json", reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prompt_is_neither_cut_nor_filled_up_whatever_its_file_asks_for() {
        let json = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
            "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"},
        });
        let tokenizer = LlavaTokenizer::from_json(json.to_string().as_bytes()).unwrap();
        let prompt = tokenizer.split("b c a b", 2).unwrap();
        assert_eq!(prompt, Prompt { before: vec![1], after: vec![0, 1] });
    }

    /// Found by the fuzz target `llava_tokenizer`.
    #[test]
    fn rules_that_are_cut_or_damaged_are_refused_and_no_panic() {
        let deep = "[".repeat(200);
        for json in [
            r#"{"decoder":{"type"}}"#,
            r#"{"decoder":{"type":"Fuse""#,
            r#"{"decoder":1e999}"#,
            &format!(r#"{{"decoder":{deep}"#),
            r#"{"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"},"model":{}}"#,
            r#"{"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled"}]},"model":{}}"#,
        ] {
            let error = LlavaTokenizer::from_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("tokenizer.json: "), "{error}");
        }
    }
}
