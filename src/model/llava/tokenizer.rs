//! The decoder's tokenizer, from the `tokenizer.json` that describes it whole.

use std::sync::Arc;

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
    /// A file that is malformed.
    pub fn from_json(json: &[u8]) -> Result<Self, LlavaError> {
        let tokenizer = Tokenizer::from_bytes(json).map_err(|error| failure(&error))?;
        Ok(Self::new(tokenizer))
    }

    /// Wraps a tokenizer that was built elsewhere.
    pub(crate) fn new(mut tokenizer: Tokenizer) -> Self {
        // A file may ask for both; a prompt has neither one length nor a limit here.
        tokenizer.with_padding(None);
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

fn failure(error: &tokenizers::Error) -> LlavaError {
    LlavaError::Tokenizer { file: "tokenizer.json", reason: error.to_string() }
}
