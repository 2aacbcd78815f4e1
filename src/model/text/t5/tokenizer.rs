//! T5's tokenizer, built as transformers' `T5Tokenizer` builds it (`models/t5/tokenization_t5.py`): SentencePiece's
//! table of characters, a split at white space, and a unigram model of pieces that begin with `▁` where a word does.

use serde_json::Value;
use tokenizers::Tokenizer;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

use super::pieces::{Pieces, UNKNOWN};
use super::{charsmap, spiece};
use crate::model::text::chunks::Chunk;
use crate::model::text::tokenizing::{
    Named, added_tokens, check_sides, cut, head, largest_id, parse, reach, require, tokenizer_error,
};
use crate::model::text::{Cut, Piece, TextError, TokenIds, TokenizerFiles};

/// Length of sequences where nobody asks for another: that T5 was trained with.
const DEFAULT_LENGTH: usize = 512;

/// Number of the tokens that stand for gaps, `<extra_id_0>` and so on, where the files do not say.
const EXTRA_IDS: u64 = 100;

/// Most of them that are believed.
const MOST_EXTRA_IDS: u64 = 10_000;

/// Text → token ids of one fixed length.
#[derive(Clone, Debug)]
pub struct T5Tokenizer {
    tokenizer: Tokenizer,
    end: u32,
    pad: u32,
    length: usize,
    /// Characters of the longest piece, for how much of a text is looked at.
    longest: usize,
}

impl T5Tokenizer {
    /// Builds the tokenizer from the contents of its files.
    ///
    /// # Errors
    /// A file that is missing or malformed, or a special token outside the vocabulary.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self, TextError> {
        let config: Value = parse("tokenizer_config.json", files.tokenizer_config_json)?;
        let special_map: Value = parse("special_tokens_map.json", files.special_tokens_map_json)?;
        let tokenizer_json: Value = parse("tokenizer.json", files.tokenizer_json)?;
        check_sides(&config)?;
        let pieces = match files.spiece_model {
            Some(bytes) if files.tokenizer_json.is_none() => {
                spiece::pieces(bytes)?.with_gaps(extra_ids(&config)?)
            }
            _ => {
                require("tokenizer.json", files.tokenizer_json)?;
                Pieces::of_json(&tokenizer_json)?
            }
        };
        Self::build(pieces, &config, &special_map, &tokenizer_json)
    }

    /// The same tokenizer for sequences of so many ids, at least 2.
    #[must_use]
    pub fn with_length(self, length: usize) -> Self {
        Self { length: length.max(2), ..self }
    }

    fn build(
        pieces: Pieces,
        config: &Value,
        special_map: &Value,
        tokenizer_json: &Value,
    ) -> Result<Self, TextError> {
        pieces.check()?;
        let Pieces { vocab, charsmap } = pieces;
        let longest = vocab.iter().map(|(piece, _)| piece.chars().count()).max().unwrap_or(0);
        let model = Unigram::from(vocab, Some(UNKNOWN), false).map_err(tokenizer_error)?;
        let mut tokenizer = Tokenizer::new(model);
        if !charsmap.is_empty() {
            charsmap::check(&charsmap)?;
            let table = Precompiled::from(&charsmap)
                .map_err(|error| TextError::Tokenizer(error.to_string()))?;
            tokenizer.with_normalizer(Some(table)).map_err(tokenizer_error)?;
        }
        let words = Metaspace::new('▁', PrependScheme::Always, true);
        tokenizer
            .with_pre_tokenizer(Some(Sequence::new(vec![WhitespaceSplit.into(), words.into()])));
        let named = |key, default| Named::of([config, special_map], key, default);
        let mut special = vec![
            named("eos_token", "</s>"),
            named("unk_token", "<unk>"),
            named("pad_token", "<pad>"),
        ];
        let [end, _, pad] = [0, 1, 2].map(|index| special[index].content().to_owned());
        special.extend(extra_tokens(config)?);
        tokenizer
            .add_tokens(added_tokens(config, tokenizer_json, &special))
            .map_err(tokenizer_error)?;
        let id = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| {
                TextError::Tokenizer(format!("the special token `{token}` has no id"))
            })
        };
        let (end, pad) = (id(&end)?, id(&pad)?);
        Ok(Self { tokenizer, end, pad, length: DEFAULT_LENGTH, longest })
    }

    /// The ids of `text` and the end token, cut so that it fits and padded to [`length`](Self::length)
    /// (`padding="max_length", truncation=True` in transformers).
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode(&self, text: &str) -> Result<TokenIds, TextError> {
        let encoding = (self.tokenizer)
            .encode(head(text, reach(self.length, self.longest)), false)
            .map_err(tokenizer_error)?;
        Ok(self.ended(encoding.get_ids().iter().copied()))
    }

    /// The ids and weights of a weighted prompt, in one sequence as [`encode`](Self::encode) makes it; a break is white
    /// space.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn weighted(&self, pieces: &[Piece]) -> Result<Chunk, TextError> {
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for piece in pieces {
            let Piece::Text(text, weight) = piece else { continue };
            let encoding = self.tokenizer.encode(text.as_str(), false).map_err(tokenizer_error)?;
            ids.extend_from_slice(encoding.get_ids());
            weights.resize(ids.len(), *weight as f32);
        }
        let tokens = self.ended(ids.into_iter());
        weights.truncate(tokens.count - 1);
        weights.resize(self.length, 1.0);
        Ok(Chunk::new(tokens, weights))
    }

    fn ended(&self, pieces: impl Iterator<Item = u32>) -> TokenIds {
        let mut ids = Vec::with_capacity(self.length);
        ids.extend(pieces.take(self.length - 1));
        ids.push(self.end);
        let count = ids.len();
        ids.resize(self.length, self.pad);
        TokenIds { ids, count }
    }

    /// Truncation of `text` by [`encode`](Self::encode); `None` if it fits.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn cut(&self, text: &str) -> Result<Option<Cut>, TextError> {
        cut(&self.tokenizer, (text, head(text, reach(self.length, self.longest))), self.length - 1)
    }

    /// The largest id that a text can get.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        largest_id(&self.tokenizer)
    }

    /// The number of ids of every text.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

/// The `tokenizer.json` that a `spiece.model` amounts to with the configuration beside it.
///
/// # Errors
/// A file that is damaged, or a model that is not of T5's kind.
pub fn json_of_spiece(spiece: &[u8], config_json: Option<&[u8]>) -> Result<Value, TextError> {
    let config: Value = parse("tokenizer_config.json", config_json)?;
    Ok(spiece::pieces(spiece)?.with_gaps(extra_ids(&config)?).to_json())
}

/// `true` if a `tokenizer.json` holds a unigram model.
pub(in crate::model::text) fn is_unigram(json: Option<&[u8]>) -> bool {
    let file: Value = parse("tokenizer.json", json).unwrap_or_default();
    file["model"]["type"] == "Unigram"
}

/// Number of the tokens for gaps.
fn extra_ids(config: &Value) -> Result<u64, TextError> {
    let count = config.get("extra_ids").and_then(Value::as_u64).unwrap_or(EXTRA_IDS);
    if count > MOST_EXTRA_IDS {
        let reason = format!("`extra_ids` is {count}, not from 0 to {MOST_EXTRA_IDS}");
        return Err(TextError::TokenizerFile { file: "tokenizer_config.json", reason });
    }
    Ok(count)
}

/// The tokens for gaps, in transformers' order: those that the configuration lists, else as many as it says.
fn extra_tokens(config: &Value) -> Result<Vec<Named>, TextError> {
    // transformers 5 has another name for the list.
    let listed: Option<Vec<Named>> = ["additional_special_tokens", "extra_special_tokens"]
        .into_iter()
        .find_map(|name| serde_json::from_value(config.get(name)?.clone()).ok());
    let is_extra = |token: &Named| token.content().contains("<extra_id_");
    let count = extra_ids(config)?;
    let mut tokens = listed.unwrap_or_default();
    if !tokens.iter().any(is_extra) {
        tokens.extend((0..count).map(|index| Named::Plain(format!("<extra_id_{index}>"))));
    }
    Ok(tokens)
}
