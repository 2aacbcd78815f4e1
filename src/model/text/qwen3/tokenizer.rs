//! Qwen's tokenizer, built as transformers' `Qwen2Tokenizer` builds it (`models/qwen2/tokenization_qwen2.py`): NFC, a
//! split into words, digits and runs of signs, and byte-level BPE.

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::model::text::byte_pairs::BytePairs;
use crate::model::text::tokenizing::{
    Named, added_tokens, check_sides, cut, largest_id, parse, reach, tokenizer_error,
};
use crate::model::text::{Cut, TextError, TokenIds, TokenizerFiles};

/// The pattern of words.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Length of sequences where nobody asks for another: that of the pipelines of diffusion models.
const DEFAULT_LENGTH: usize = 512;

/// The token that ends a text, fills one up, and stands for what is unknown, where the files name no other.
const END: &str = "<|endoftext|>";

/// What begins a turn in the chats that Qwen was trained with.
const TURN: &str = "<|im_start|>";

/// Text → token ids of one fixed length.
#[derive(Clone, Debug)]
pub struct QwenTokenizer {
    tokenizer: Tokenizer,
    pad: u32,
    length: usize,
    /// Bytes of the longest token, for how much of a text is looked at.
    longest: usize,
}

impl QwenTokenizer {
    /// Builds the tokenizer from the contents of its files.
    ///
    /// # Errors
    /// A file that is missing or malformed, a chat template of another kind, or a special token outside the vocabulary.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self, TextError> {
        let tokenizer_json: Value = parse("tokenizer.json", files.tokenizer_json)?;
        let config: Value = parse("tokenizer_config.json", files.tokenizer_config_json)?;
        let special_map: Value = parse("special_tokens_map.json", files.special_tokens_map_json)?;
        check_sides(&config)?;
        let refuse = |reason: &str| {
            let reason = reason.to_owned();
            Err(TextError::TokenizerFile { file: "tokenizer_config.json", reason })
        };
        let template = config.get("chat_template").and_then(Value::as_str);
        if template.is_some_and(|template| !template.contains(TURN)) {
            return refuse("`chat_template` is not Qwen's, which alone is supported");
        }
        if config.get("add_prefix_space").is_some_and(|it| it == true) {
            return refuse("`add_prefix_space` = true is not supported (false is)");
        }
        let BytePairs { vocab, merges } = BytePairs::read(files, &tokenizer_json)?;
        let longest = vocab.keys().map(|token| token.chars().count()).max().unwrap_or(0);
        let bpe = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(String::new())
            .build()
            .map_err(tokenizer_error)?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_normalizer(Some(NFC)).map_err(tokenizer_error)?;
        let pattern = SplitPattern::Regex(WORDS.to_owned());
        let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(tokenizer_error)?;
        let bytes = ByteLevel::new(false, true, false);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
        let named = |key, default| Named::of([&config, &special_map], key, default);
        let special = ["unk_token", "eos_token", "pad_token"].map(|key| named(key, END));
        let pad = special[2].content().to_owned();
        tokenizer
            .add_tokens(added_tokens(&config, &tokenizer_json, &special))
            .map_err(tokenizer_error)?;
        let Some(pad) = tokenizer.token_to_id(&pad) else {
            return Err(TextError::Tokenizer(format!("the special token `{pad}` has no id")));
        };
        Ok(Self { tokenizer, pad, length: DEFAULT_LENGTH, longest })
    }

    /// The same tokenizer for sequences of so many ids, at least 1.
    #[must_use]
    pub fn with_length(self, length: usize) -> Self {
        Self { length: length.max(1), ..self }
    }

    /// The beginning of `text` that holds every token that counts.
    fn head<'a>(&self, text: &'a str) -> &'a str {
        let end = text.char_indices().nth(reach(self.length, self.longest));
        end.map_or(text, |(at, _)| &text[..at])
    }

    /// The ids of `text`, cut and padded to [`length`](Self::length)
    /// (`padding="max_length", truncation=True` in transformers).
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn encode(&self, text: &str) -> Result<TokenIds, TextError> {
        let encoding = self.tokenizer.encode(self.head(text), false).map_err(tokenizer_error)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.truncate(self.length);
        // An encoder has no states of no token.
        let count = ids.len().max(1);
        ids.resize(self.length, self.pad);
        Ok(TokenIds { ids, count })
    }

    /// Truncation of `text` by [`encode`](Self::encode); `None` if it fits.
    ///
    /// # Errors
    /// Those of the tokenizer's regular expressions.
    pub fn cut(&self, text: &str) -> Result<Option<Cut>, TextError> {
        cut(&self.tokenizer, (text, self.head(text)), self.length)
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
