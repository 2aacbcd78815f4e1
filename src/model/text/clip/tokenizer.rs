//! CLIP's tokenizer, built as transformers' `CLIPTokenizer` builds it
//! (`models/clip/tokenization_clip.py`): NFC, white space to one space, lower case, a split into
//! words, digits and runs of signs, and byte-level BPE with `</w>` at the end of words.

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::model::text::byte_pairs::BytePairs;
use crate::model::text::tokenizing::{
    Named, added_tokens, check_sides, cut, head, largest_id, parse, reach, tokenizer_error,
};
use crate::model::text::{Cut, TextError, TokenIds, TokenizerFiles};

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
}

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
        Ok(Self { tokenizer, start, end, pad, length, reach })
    }

    /// The ids of `text` between the start and the end token, cut so that both fit and padded to
    /// [`length`](Self::length) (`padding="max_length", truncation=True` in transformers).
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn encode(&self, text: &str) -> Result<TokenIds, TextError> {
        let text = head(text, self.reach);
        let encoding = self.tokenizer.encode(text, false).map_err(tokenizer_error)?;
        let words = encoding.get_ids();
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.start);
        ids.extend_from_slice(&words[..words.len().min(self.length - 2)]);
        ids.push(self.end);
        let count = ids.len();
        ids.resize(self.length, self.pad);
        Ok(TokenIds { ids, count })
    }

    /// Truncation of `text` by [`encode`](Self::encode); `None` if it fits.
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn cut(&self, text: &str) -> Result<Option<Cut>, TextError> {
        cut(&self.tokenizer, (text, head(text, self.reach)), self.length - 2)
    }

    /// The largest id that a text can get.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        largest_id(&self.tokenizer)
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
