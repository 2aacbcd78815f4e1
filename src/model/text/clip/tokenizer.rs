//! CLIP's tokenizer, built as transformers' `CLIPTokenizer` builds it
//! (`models/clip/tokenization_clip.py`): NFC, white space to one space, lower case, a split into
//! words, digits and runs of signs, and byte-level BPE with `</w>` at the end of words.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::model::text::byte_pairs::BytePairs;
use crate::model::text::chunks::{Chunk, Unit, chunks};
use crate::model::text::tokenizing::{
    GREATEST_ID, Named, added_tokens, check_sides, head, largest_id, parse, reach, tokenizer_error,
};
use crate::model::text::{Cut, EmbeddingName, Piece, TextError, TokenIds, TokenizerFiles};

/// CLIP's word pattern. The literal special tokens come first, so that one that was not taken out
/// before (by another capitalization, say) still stays in one piece.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The sequence length of every CLIP text encoder so far, for tokenizers that do not say.
const DEFAULT_LENGTH: usize = 77;

/// Text → token ids of one fixed length.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    length: usize,
    /// Characters of a text beyond which no token of it can count; see [`head`].
    reach: usize,
    /// The token that ends a chunk of a long prompt sooner than in the middle of a phrase.
    comma: Option<u32>,
    largest_id: u32,
    /// The ids of the vectors that stand for a token, for those of embeddings.
    vectors: HashMap<u32, Range<u32>>,
}

/// The id of the first vector of all embeddings: beyond every vocabulary.
pub(in crate::model::text) const VECTORS: u32 = 2 * GREATEST_ID;

impl ClipTokenizer {
    /// Builds the tokenizer from the contents of its files.
    ///
    /// # Errors
    /// A file that is missing or malformed, or a special token outside the vocabulary.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self, TextError> {
        let tokenizer_json: Value = parse("tokenizer.json", files.tokenizer_json)?;
        let config: Value = parse("tokenizer_config.json", files.tokenizer_config_json)?;
        let special_map: Value = parse("special_tokens_map.json", files.special_tokens_map_json)?;

        check_sides(&config)?;
        let named = |key, default| Named::of([&config, &special_map], key, default);
        let special = [
            named("bos_token", "<|startoftext|>"),
            named("eos_token", "<|endoftext|>"),
            named("unk_token", "<|endoftext|>"),
            named("pad_token", "<|endoftext|>"),
        ];
        let [start, end, unknown, pad] = special.each_ref().map(|token| token.content().to_owned());

        let BytePairs { vocab, merges } = BytePairs::read(files, &tokenizer_json)?;
        let longest = vocab.keys().map(|token| token.chars().count()).max();
        let bpe = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
            .unk_token(unknown)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".to_owned())
            .build()
            .map_err(tokenizer_error)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let spaces =
            Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(tokenizer_error)?;
        let normalizers = vec![NFC.into(), spaces.into(), Lowercase.into()];
        tokenizer
            .with_normalizer(Some(tokenizers::normalizers::Sequence::new(normalizers)))
            .map_err(tokenizer_error)?;
        let words = Split::new(
            SplitPattern::Regex(WORDS.to_owned()),
            SplitDelimiterBehavior::Removed,
            true,
        )
        .map_err(tokenizer_error)?;
        let pieces = vec![words.into(), ByteLevel::new(false, true, true).into()];
        tokenizer
            .with_pre_tokenizer(Some(tokenizers::pre_tokenizers::sequence::Sequence::new(pieces)));
        tokenizer
            .add_tokens(added_tokens(&config, &tokenizer_json, &special))
            .map_err(tokenizer_error)?;

        let id = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| {
                TextError::Tokenizer(format!("the special token `{token}` has no id"))
            })
        };
        let (start, end, pad) = (id(&start)?, id(&end)?, id(&pad)?);
        // Some configs say 1e30 for "no limit".
        let length = config
            .get("model_max_length")
            .and_then(Value::as_u64)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| (2..=4096).contains(length))
            .unwrap_or(DEFAULT_LENGTH);
        let reach = reach(length, longest.unwrap_or(0));
        let comma = tokenizer.token_to_id(",</w>");
        let largest_id = largest_id(&tokenizer);
        let vectors = HashMap::new();
        Ok(Self { tokenizer, start, end, pad, length, reach, comma, largest_id, vectors })
    }

    /// The same tokenizer, for which names stand for vectors of embeddings. Their ids lie beyond every vocabulary, each
    /// embedding's behind those of the one before.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn with_embeddings(mut self, embeddings: &[EmbeddingName]) -> Result<Self, TextError> {
        let mut first = VECTORS;
        for EmbeddingName { names, vectors } in embeddings {
            let ids = first..first + *vectors as u32;
            first = ids.end;
            for name in names {
                // As a word in capital or small letters, and not in the middle of another.
                let is_word = name.starts_with(char::is_alphanumeric)
                    && name.ends_with(char::is_alphanumeric);
                if self.tokenizer.token_to_id(name).is_some() {
                    return Err(TextError::Mismatch(format!(
                        "an embedding cannot be named `{name}`, which is a token of the vocabulary: name it otherwise, \
                         or in brackets alone, as in --embedding \"<{name}>=FILE\""
                    )));
                }
                let token = AddedToken::from(name.as_str(), false).single_word(is_word);
                self.tokenizer.add_tokens([token]).map_err(tokenizer_error)?;
                let Some(token) = self.tokenizer.token_to_id(name) else {
                    return Err(TextError::Tokenizer(format!(
                        "the embedding `{name}` has no token"
                    )));
                };
                self.vectors.insert(token, ids.clone());
            }
        }
        Ok(self)
    }

    /// The ids of a text, those of vectors in the place of their token, and each with its place in the text.
    fn ids(&self, text: &str) -> Result<Vec<(u32, usize)>, TextError> {
        let encoding = self.tokenizer.encode(text, false).map_err(tokenizer_error)?;
        let mut ids = Vec::with_capacity(encoding.len());
        for (&id, &(at, _)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            match self.vectors.get(&id) {
                None => ids.push((id, at)),
                Some(vectors) => ids.extend(vectors.clone().map(|id| (id, at))),
            }
        }
        Ok(ids)
    }

    /// The chunks of a weighted prompt, each with start and end and of [`length`](Self::length): one at least.
    ///
    /// # Errors
    /// A prompt of too many chunks, or those of the tokenizer.
    pub fn chunks(&self, pieces: &[Piece]) -> Result<Vec<Chunk>, TextError> {
        let mut units = Vec::new();
        for piece in pieces {
            let Piece::Text(text, weight) = piece else {
                units.push(Unit::Break);
                continue;
            };
            let weight = *weight as f32;
            let encoding = self.tokenizer.encode(text.as_str(), false).map_err(tokenizer_error)?;
            units.extend(encoding.get_ids().iter().map(|id| match self.vectors.get(id) {
                None => Unit::Token(*id, weight),
                Some(vectors) => Unit::Vectors(vectors.clone(), weight),
            }));
        }
        let chunks = chunks(units.into_iter(), self.length - 2, self.comma)?;
        let framed = chunks.into_iter().map(|chunk| {
            let (ids, mut weights): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            weights.insert(0, 1.0);
            weights.resize(self.length, 1.0);
            Chunk::new(self.framed(ids.into_iter()), weights)
        });
        Ok(framed.collect())
    }

    /// Ids between the start and the end token, cut so that both fit and padded to [`length`](Self::length).
    fn framed(&self, words: impl Iterator<Item = u32>) -> TokenIds {
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.start);
        ids.extend(words.take(self.length - 2));
        ids.push(self.end);
        let count = ids.len();
        ids.resize(self.length, self.pad);
        TokenIds { ids, count }
    }

    /// The ids of `text` between the start and the end token, cut so that both fit and padded to
    /// [`length`](Self::length) (`padding="max_length", truncation=True` in transformers).
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn encode(&self, text: &str) -> Result<TokenIds, TextError> {
        Ok(self.framed(self.ids(head(text, self.reach))?.into_iter().map(|(id, _)| id)))
    }

    /// Truncation of `text` by [`encode`](Self::encode); `None` if it fits.
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn cut(&self, text: &str) -> Result<Option<Cut>, TextError> {
        let counted = head(text, self.reach);
        let (ids, limit) = (self.ids(counted)?, self.length - 2);
        let is_all = counted.len() == text.len();
        Ok(ids.get(limit).map(|&(_, at)| Cut { tokens: ids.len(), is_all, limit, at }))
    }

    /// The largest id of its vocabulary.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The number of ids of every text (77 for CLIP).
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

/// Checks that a `tokenizer.json` which is taken as it stands describes CLIP's rules: those of a wrapper's file are the
/// whole tokenizer, while CLIP's own class takes vocabulary and merges alone.
///
/// # Errors
/// A rule that is not CLIP's, or a file that is no JSON.
pub(in crate::model::text) fn check_description(json: Option<&[u8]>) -> Result<(), TextError> {
    let file: Value = parse("tokenizer.json", json)?;
    let fail = |field: &str, value: &Value| {
        let reason = format!("`{field}` = {value} is not CLIP's, which alone is supported");
        Err(TextError::TokenizerFile { file: "tokenizer.json", reason })
    };
    let model = file.get("model").unwrap_or(&Value::Null);
    for (field, ours) in [
        ("type", Value::from("BPE")),
        ("end_of_word_suffix", Value::from("</w>")),
        ("continuing_subword_prefix", Value::from("")),
        ("dropout", Value::Null),
        ("fuse_unk", Value::from(false)),
        ("byte_fallback", Value::from(false)),
        ("ignore_merges", Value::from(false)),
    ] {
        if let Some(value) = model.get(field).filter(|value| **value != ours && !value.is_null()) {
            return fail(&format!("model.{field}"), value);
        }
    }
    let rules: [(&str, &str, &[&str]); 2] = [
        ("normalizer", "normalizers", &["NFC", "Replace", "Lowercase"]),
        ("pre_tokenizer", "pretokenizers", &["Split", "ByteLevel"]),
    ];
    for (field, list, ours) in rules {
        let Some(rule) = file.get(field) else { continue };
        let steps = rule.get(list).and_then(Value::as_array);
        let kinds: Option<Vec<_>> =
            steps.map(|steps| steps.iter().filter_map(|step| step["type"].as_str()).collect());
        if kinds.as_deref() != Some(ours) {
            let kinds = kinds.map_or_else(|| rule["type"].clone(), Value::from);
            return fail(field, &kinds);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_every_vocabulary_are_refused_in_either_file() {
        let refused = |files: &TokenizerFiles<'_>| ClipTokenizer::from_files(files).unwrap_err();
        let json = br#"{"model": {"vocab": {"a": 4294967295}, "merges": []}}"#;
        let whole = TokenizerFiles { tokenizer_json: Some(json), ..TokenizerFiles::default() };
        let vocab = br#"{"a": 4294967295}"#;
        let parts = TokenizerFiles {
            vocab_json: Some(vocab),
            merges_txt: Some(b""),
            ..TokenizerFiles::default()
        };
        for (files, name) in [(whole, "tokenizer.json"), (parts, "vocab.json")] {
            let expected =
                format!("{name}: a token has the id 4294967295, which no vocabulary has");
            assert_eq!(refused(&files).to_string(), expected);
        }
    }
}
