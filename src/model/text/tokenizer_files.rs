//! Input of a tokenizer's construction, its files and the names of embeddings; its output, tokens; and the truncation that it reports.

/// The files of a tokenizer folder: either `tokenizer_json`, or `vocab_json` with `merges_txt` (CLIP), or
/// `spiece_model` (T5). `tokenizer_json` wins, as in transformers.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    pub vocab_json: Option<&'a [u8]>,
    pub merges_txt: Option<&'a [u8]>,
    pub tokenizer_json: Option<&'a [u8]>,
    pub spiece_model: Option<&'a [u8]>,
    pub tokenizer_config_json: Option<&'a [u8]>,
    pub special_tokens_map_json: Option<&'a [u8]>,
}

/// The tokens of a text, cut and padded to the length of the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    pub ids: Vec<u32>,
    /// Number of ids, from the first, that are the text's and not padding (the sum of transformers'
    /// `attention_mask`); at least 1.
    pub count: usize,
}

/// Truncation of a text that is longer than what an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of the text, as far as they were counted.
    pub tokens: usize,
    /// `true` if those are the tokens of the whole text; a text far beyond the limit is not read to its end.
    pub is_all: bool,
    /// Number of tokens that are kept, from the first (75 for CLIP, which adds two of its own).
    pub limit: usize,
    /// Byte offset in the text of the first token that is cut off.
    pub at: usize,
}

/// The names of an embedding in prompts (textual inversion).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingName {
    /// Each stands for all its vectors.
    pub names: Vec<String>,
    /// Number of vectors, each of which is a token of its own for an encoder.
    pub vectors: usize,
}
