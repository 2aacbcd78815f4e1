//! Tokenizers of every kind, told apart by the class that their files name.

use serde_json::Value;

use super::{
    Cut, EmbeddingName, TextError, TokenIds, TokenizerFiles,
    clip::{self, ClipTokenizer},
    qwen3::{self, QwenTokenizer},
    t5::{self, T5Tokenizer},
};

/// Classes that do not tell a tokenizer's kind: transformers' wrappers of a `tokenizer.json`.
const WRAPPERS: [&str; 3] = ["PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"];

/// Text → token ids of one fixed length, by a tokenizer of any kind.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TextTokenizer {
    Clip(Box<ClipTokenizer>),
    T5(Box<T5Tokenizer>),
    Qwen(Box<QwenTokenizer>),
}

impl TextTokenizer {
    /// Builds the tokenizer from the contents of its files, of the kind that `tokenizer_class` in
    /// `tokenizer_config.json` names; where nothing names one, T5's if the vocabulary is one of pieces, else CLIP's.
    ///
    /// # Errors
    /// A class that is not supported, a file that is missing or malformed, or a special token outside
    /// the vocabulary.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self, TextError> {
        // A file that is no configuration at all is refused by the tokenizer of its kind.
        let config: Value = (files.tokenizer_config_json)
            .and_then(|json| serde_json::from_slice(json).ok())
            .unwrap_or_default();
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let is_unnamed = class.is_empty() || WRAPPERS.contains(&class);
        let has_pieces = || files.spiece_model.is_some() || t5::is_unigram(files.tokenizer_json);
        if t5::TOKENIZER_CLASSES.contains(&class) || (is_unnamed && has_pieces()) {
            return T5Tokenizer::from_files(files).map(|it| Self::T5(Box::new(it)));
        }
        if qwen3::TOKENIZER_CLASSES.contains(&class) {
            return QwenTokenizer::from_files(files).map(|it| Self::Qwen(Box::new(it)));
        }
        let is_clip = class.is_empty() || clip::TOKENIZER_CLASSES.contains(&class);
        if is_clip || WRAPPERS.contains(&class) {
            if !is_clip {
                clip::check_description(files.tokenizer_json)?;
            }
            return ClipTokenizer::from_files(files).map(|it| Self::Clip(Box::new(it)));
        }
        Err(TextError::TokenizerFile {
            file: "tokenizer_config.json",
            reason: format!(
                "the class `{class}` is not supported ({})",
                [clip::TOKENIZER_CLASSES, t5::TOKENIZER_CLASSES, qwen3::TOKENIZER_CLASSES]
                    .concat()
                    .join(", ")
            ),
        })
    }

    /// The ids of `text`, cut and padded to [`length`](Self::length).
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn encode(&self, text: &str) -> Result<TokenIds, TextError> {
        match self {
            Self::Clip(tokenizer) => tokenizer.encode(text),
            Self::T5(tokenizer) => tokenizer.encode(text),
            Self::Qwen(tokenizer) => tokenizer.encode(text),
        }
    }

    /// The same tokenizer for sequences of so many ids, at least 2, where its kind is not bound to one length.
    #[must_use]
    pub fn with_length(self, length: usize) -> Self {
        match self {
            Self::T5(tokenizer) => Self::T5(Box::new(tokenizer.with_length(length))),
            Self::Qwen(tokenizer) => Self::Qwen(Box::new(tokenizer.with_length(length))),
            other @ Self::Clip(_) => other,
        }
    }

    /// The same tokenizer, for which these names stand for vectors: those of CLIP alone know any.
    ///
    /// # Errors
    /// Names for a tokenizer of another kind, or those of the tokenizer.
    pub fn with_embeddings(self, embeddings: &[EmbeddingName]) -> Result<Self, TextError> {
        match self {
            Self::Clip(tokenizer) => {
                tokenizer.with_embeddings(embeddings).map(|it| Self::Clip(Box::new(it)))
            }
            other if embeddings.is_empty() => Ok(other),
            _ => Err(TextError::Mismatch(
                "embeddings are for models that read texts with CLIP alone".to_owned(),
            )),
        }
    }

    /// Truncation of `text` by [`encode`](Self::encode); `None` if it fits.
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn cut(&self, text: &str) -> Result<Option<Cut>, TextError> {
        match self {
            Self::Clip(tokenizer) => tokenizer.cut(text),
            Self::T5(tokenizer) => tokenizer.cut(text),
            Self::Qwen(tokenizer) => tokenizer.cut(text),
        }
    }

    /// The largest id of its vocabulary.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        match self {
            Self::Clip(tokenizer) => tokenizer.largest_id(),
            Self::T5(tokenizer) => tokenizer.largest_id(),
            Self::Qwen(tokenizer) => tokenizer.largest_id(),
        }
    }

    /// The number of ids of every text (77 for CLIP).
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Clip(tokenizer) => tokenizer.length(),
            Self::T5(tokenizer) => tokenizer.length(),
            Self::Qwen(tokenizer) => tokenizer.length(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_class(class: &str) -> TextError {
        let config = format!(r#"{{"tokenizer_class": "{class}"}}"#);
        let tokenizer_config_json = Some(config.as_bytes());
        let files = TokenizerFiles { tokenizer_config_json, ..TokenizerFiles::default() };
        TextTokenizer::from_files(&files).unwrap_err()
    }

    #[test]
    fn a_tokenizer_of_another_kind_is_refused_by_name() {
        let error = of_class("GemmaTokenizerFast").to_string();
        let expected =
            "tokenizer_config.json: the class `GemmaTokenizerFast` is not supported (CLIP";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_wrapper_around_what_is_not_clips_tokenizer_is_refused_by_name() {
        let read = |class: &str, tokenizer_json: &str| {
            let config = format!(r#"{{"tokenizer_class": "{class}"}}"#);
            let files = TokenizerFiles {
                tokenizer_config_json: Some(config.as_bytes()),
                tokenizer_json: Some(tokenizer_json.as_bytes()),
                ..TokenizerFiles::default()
            };
            TextTokenizer::from_files(&files).unwrap_err().to_string()
        };
        for (file, field) in [
            (r#"{"model": {"type": "WordPiece"}}"#, "`model.type`"),
            (r#"{"model": {"end_of_word_suffix": ""}}"#, "`model.end_of_word_suffix`"),
            (r#"{"normalizer": {"type": "NFC"}}"#, "`normalizer`"),
            (r#"{"pre_tokenizer": {"type": "ByteLevel"}}"#, "`pre_tokenizer`"),
        ] {
            let error = read("PreTrainedTokenizerFast", file);
            assert!(error.starts_with("tokenizer.json: ") && error.contains(field), "{error}");
            // CLIP's own class makes its rules itself, whatever the file says.
            assert!(!read("CLIPTokenizer", file).contains(field));
        }
    }

    #[test]
    fn a_wrapper_may_be_of_any_kind() {
        for class in ["", "CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast"] {
            assert_eq!(of_class(class).to_string(), "vocab.json: missing");
        }
    }
}
