//! What tokenizers of every kind share: how their files are read, the tokens that are looked for before a text is
//! split, and how much of a long text is looked at.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::{Cut, TextError};

/// Characters of a token at most; those of CLIP have up to 28.
const LONGEST_TOKEN: usize = 256;

/// Characters of a text that normalization may make one of: a letter and its accents.
const COMPOSED: usize = 4;

/// Greatest id of a token: as many as the largest vocabulary that a configuration may state. Tokens without an id are
/// counted on from the greatest.
pub(super) const GREATEST_ID: u32 = 1 << 24;

/// Characters of a text beyond which no token can count, for so many tokens and a longest one; see [`head`].
pub(super) fn reach(tokens: usize, longest: usize) -> usize {
    tokens * (longest.min(LONGEST_TOKEN) + 1) * COMPOSED
}

/// The beginning of `text` that holds every token that counts: `reach` characters, a run of white space counted as one
/// as the normalization makes it one. Without this bound a text of megabytes would be split whole, for 75 tokens.
pub(super) fn head(text: &str, reach: usize) -> &str {
    let (mut count, mut is_in_space) = (0, false);
    let end = text.char_indices().find(|&(_, sign)| {
        let is_space = sign.is_whitespace();
        count += usize::from(!(is_space && is_in_space));
        is_in_space = is_space;
        count > reach
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// Truncation of `text` whose first `limit` tokens alone count, of which `counted` is the [`head`]; `None` if it fits.
///
/// # Errors
/// Those of the tokenizer.
pub(super) fn cut(
    tokenizer: &Tokenizer,
    (text, counted): (&str, &str),
    limit: usize,
) -> Result<Option<Cut>, TextError> {
    let encoding = tokenizer.encode(counted, false).map_err(tokenizer_error)?;
    let offsets = encoding.get_offsets();
    let is_all = counted.len() == text.len();
    Ok(offsets.get(limit).map(|&(at, _)| Cut { tokens: offsets.len(), is_all, limit, at }))
}

/// The largest id that a text can get.
pub(super) fn largest_id(tokenizer: &Tokenizer) -> u32 {
    tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
}

/// Checks that sequences are cut and filled up at their ends.
///
/// # Errors
/// A configuration that says otherwise.
pub(super) fn check_sides(config: &Value) -> Result<(), TextError> {
    for side in ["padding_side", "truncation_side"] {
        if config.get(side).is_some_and(|value| value == "left") {
            let reason = format!("`{side}` = \"left\" is not supported (right is)");
            return Err(TextError::TokenizerFile { file: "tokenizer_config.json", reason });
        }
    }
    Ok(())
}

/// A special token as configuration files write it: its text, or its text with flags.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Named {
    Plain(String),
    Flagged(Flagged),
}

#[derive(Clone, Deserialize)]
pub(super) struct Flagged {
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Named {
    /// The token that a tokenizer's files name for a role, else `default`. transformers lets the older
    /// `special_tokens_map.json` win over the configuration, unless the latter is new enough to list the added
    /// tokens itself.
    pub(super) fn of([config, special_map]: [&Value; 2], key: &str, default: &str) -> Self {
        let sources = if config.get("added_tokens_decoder").is_some() {
            [config, &Value::Null]
        } else {
            [special_map, config]
        };
        sources
            .into_iter()
            .filter_map(|file| serde_json::from_value(file.get(key)?.clone()).ok())
            .next()
            .unwrap_or_else(|| Self::Plain(default.to_owned()))
    }

    pub(super) fn content(&self) -> &str {
        match self {
            Self::Plain(content) => content,
            Self::Flagged(token) => &token.content,
        }
    }

    fn to_token(&self) -> AddedToken {
        match self {
            Self::Plain(content) => AddedToken::from(content.clone(), true),
            Self::Flagged(token) => token.to_token(),
        }
    }
}

impl Flagged {
    fn to_token(&self) -> AddedToken {
        AddedToken {
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
            special: self.special,
        }
    }
}

/// Every token that is looked for before the text is split: those that the files list
/// (`added_tokens_decoder` of the configuration, else `added_tokens` of `tokenizer.json`), then the
/// special tokens in transformers' order, of which the last with the same text decides its flags.
/// In this way SDXL's second tokenizer, which pads with `!`, finds its padding in prompts too, as
/// the original does.
pub(super) fn added_tokens(
    config: &Value,
    tokenizer_json: &Value,
    special: &[Named],
) -> Vec<AddedToken> {
    let listed: Vec<Flagged> = match config.get("added_tokens_decoder").and_then(Value::as_object) {
        Some(decoder) => {
            let by_id: BTreeMap<u64, Flagged> = decoder
                .iter()
                .filter_map(|(id, token)| {
                    Some((id.parse().ok()?, serde_json::from_value(token.clone()).ok()?))
                })
                .collect();
            by_id.into_values().collect()
        }
        None => tokenizer_json
            .get("added_tokens")
            .and_then(|tokens| serde_json::from_value(tokens.clone()).ok())
            .unwrap_or_default(),
    };
    let specials = special.iter().map(|named| {
        let known = listed.iter().find(|token| token.content == named.content());
        let token = known.map_or_else(|| named.to_token(), Flagged::to_token);
        AddedToken { special: true, ..token }
    });
    listed.iter().map(Flagged::to_token).chain(specials).collect()
}

/// The contents of a file that must be there.
///
/// # Errors
/// A file that is missing.
pub(super) fn require<'a>(
    file: &'static str,
    bytes: Option<&'a [u8]>,
) -> Result<&'a [u8], TextError> {
    bytes.ok_or_else(|| TextError::TokenizerFile { file, reason: "missing".to_owned() })
}

/// Parses a JSON file; an absent one is the type's default.
///
/// # Errors
/// A file that is no such JSON.
pub(super) fn parse<T>(file: &'static str, bytes: Option<&[u8]>) -> Result<T, TextError>
where
    T: Default + serde::de::DeserializeOwned,
{
    bytes.map_or_else(
        || Ok(T::default()),
        |bytes| {
            serde_json::from_slice(bytes)
                .map_err(|error| TextError::TokenizerFile { file, reason: error.to_string() })
        },
    )
}

/// An error of the tokenizers' crate.
pub(super) fn tokenizer_error(error: tokenizers::Error) -> TextError {
    TextError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_before_it_is_split_and_white_space_does_not_count() {
        assert_eq!(head("été à la mer", 5), "été à");
        assert_eq!(head("été", 3), "été");
        let spaced = format!("a{}b c", " \n".repeat(1000));
        assert_eq!(head(&spaced, 3), format!("a{}b", " \n".repeat(1000)));
        assert_eq!(head("", 0), "");
    }
}
