//! Errors of prompts, in one line each, with the place in the prompt.

/// Bytes of a prompt with weights at most: more than the most chunks hold.
pub(super) const LONGEST: usize = 64 << 10;

/// Brackets of a kind that may be open at once. It bounds the work on a piece.
pub(super) const DEEPEST: usize = 100;

/// The greatest weight: states are multiplied by it, and what 16 bits hold ends at 65,504.
pub(super) const GREATEST: f64 = 1000.0;

/// Characters of a prompt that an error shows.
const SHOWN: usize = 40;

/// Reason why a weighted prompt cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum PromptError {
    #[error("the weight in `{0}` is not a number, as in (word:1.3)")]
    Weight(String),
    #[error("the weight of `{text}` is beyond -{most} to {most}", most = GREATEST)]
    Range { text: String },
    #[error("more than {most} brackets within each other at `{at}`", most = DEEPEST)]
    Deep { at: String },
    #[error("{bytes} bytes long, {most} are the most", most = LONGEST)]
    Long { bytes: usize },
    #[error(
        "`{0}` would change the prompt between steps (prompt editing), which is not supported; write `\\[` for a \
         bracket that is text"
    )]
    Editing(String),
    #[error(
        "`{0}` would take turns between steps (alternation), which is not supported; write `\\[` for a bracket \
         that is text"
    )]
    Alternation(String),
    #[error(
        "`AND` would make several pictures' prompts of it, which is not supported; write `and`"
    )]
    And,
    #[error("`{0}` is of a kind that is not supported (lora, lyco)")]
    Network(String),
    #[error("`{tag}`: {reason}")]
    Lora { tag: String, reason: &'static str },
    #[error("more than {most} chunks of {tokens} tokens: write a shorter one", most = Self::CHUNKS)]
    Chunks { tokens: usize },
    #[error(
        "weights and BREAK are not for this model, which reads a prompt as a sentence of a chat; write it without"
    )]
    NoWeights,
}

impl PromptError {
    /// Chunks of a prompt at most.
    pub const CHUNKS: usize = 32;

    /// The beginning of a part of the prompt, for a message.
    pub(super) fn shown(part: &str) -> String {
        let mut shown: String = part.chars().take(SHOWN).collect();
        if shown.len() < part.len() {
            shown.push('…');
        }
        shown
    }
}
