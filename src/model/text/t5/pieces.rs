//! What a unigram model is made of, whatever file it comes from: pieces with scores, and a table of characters.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::model::text::TextError;
use crate::model::text::tokenizing::GREATEST_ID;

/// Id of the token for what is in no piece; transformers takes no other.
pub(super) const UNKNOWN: usize = 2;

/// Longest piece in bytes; SentencePiece's own limit is 16 characters. The model's tree of pieces is as deep.
const LONGEST_PIECE: usize = 256;
/// Most bytes of all pieces; the 250,000 of UMT5 have two million. The tree takes a hundred times as many.
const MOST_BYTES: usize = 4 << 20;

/// What a unigram model is made of.
#[derive(Debug, Default)]
pub struct Pieces {
    /// pieces with the logarithm of their probability, in the order of their ids
    pub vocab: Vec<(String, f64)>,
    /// SentencePiece's table of characters (`precompiled_charsmap`); empty for none
    pub charsmap: Vec<u8>,
}

impl Pieces {
    /// Checks that they are those of a vocabulary, before a model is made of them.
    ///
    /// # Errors
    /// More or longer pieces than any vocabulary has, or a score that is no number.
    pub(super) fn check(&self) -> Result<(), TextError> {
        let bytes: usize = self.vocab.iter().map(|(piece, _)| piece.len()).sum();
        let longest = self.vocab.iter().map(|(piece, _)| piece.len()).max().unwrap_or(0);
        if bytes > MOST_BYTES || longest > LONGEST_PIECE || self.vocab.len() > GREATEST_ID as usize
        {
            return Err(TextError::Tokenizer(format!(
                "{} pieces of up to {longest} bytes, {bytes} in all: no vocabulary has as many",
                self.vocab.len()
            )));
        }
        if let Some((piece, score)) = self.vocab.iter().find(|(_, score)| !score.is_finite()) {
            let reason = format!("the piece `{piece}` has the score {score}");
            return Err(TextError::Tokenizer(reason));
        }
        Ok(())
    }

    /// The same with tokens for so many gaps, which are no pieces of SentencePiece: transformers puts them behind, the
    /// last first.
    #[must_use]
    pub fn with_gaps(mut self, count: u64) -> Self {
        let gaps = (0..count).rev().map(|index| (format!("<extra_id_{index}>"), 0.0));
        self.vocab.extend(gaps);
        self
    }

    /// The `tokenizer.json` that they amount to.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let normalizer = (!self.charsmap.is_empty()).then(|| {
            let table = BASE64_STANDARD.encode(&self.charsmap);
            json!({"type": "Precompiled", "precompiled_charsmap": table})
        });
        json!({
            "normalizer": normalizer,
            "model": {"type": "Unigram", "unk_id": UNKNOWN, "vocab": self.vocab, "byte_fallback": false},
        })
    }

    /// Those of a `tokenizer.json`; how it splits words is T5's own.
    ///
    /// # Errors
    /// A file without such a model.
    pub(super) fn of_json(file: &Value) -> Result<Self, TextError> {
        let fail = |reason: String| TextError::TokenizerFile { file: "tokenizer.json", reason };
        let model = file.get("model").ok_or_else(|| fail("no `model`".to_owned()))?;
        for (field, ours) in
            [("type", Value::from("Unigram")), ("byte_fallback", Value::from(false))]
        {
            if let Some(value) = model.get(field).filter(|value| **value != ours) {
                return Err(fail(format!("`model.{field}` = {value} is not T5's ({ours})")));
            }
        }
        let vocab: Vec<(String, f64)> = model
            .get("vocab")
            .and_then(|vocab| serde_json::from_value(vocab.clone()).ok())
            .ok_or_else(|| fail("`model.vocab` is not a list of pieces with scores".to_owned()))?;
        if let Some(id) = model.get("unk_id").filter(|id| **id != UNKNOWN) {
            return Err(fail(format!("`model.unk_id` = {id} is not T5's ({UNKNOWN})")));
        }
        let normalizer = file.get("normalizer").unwrap_or(&Value::Null);
        let steps = match normalizer.get("normalizers").and_then(Value::as_array) {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(normalizer),
        };
        let table = steps.iter().find_map(|step| step.get("precompiled_charsmap")?.as_str());
        let charsmap = BASE64_STANDARD
            .decode(table.unwrap_or_default())
            .map_err(|error| fail(format!("`precompiled_charsmap`: {error}")))?;
        Ok(Self { vocab, charsmap })
    }
}
