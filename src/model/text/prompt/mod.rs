//! Prompts as people write them for the text encoders: plain, or with weights in A1111's syntax. A prompt is parsed once,
//! and knows nothing of tokens.

mod error;
mod networks;
mod parse;

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

pub use error::PromptError;
pub use networks::{LoraTag, without_networks};

/// How a prompt is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PromptSyntax {
    /// Every sign is text; what the encoders do not take is cut off.
    #[default]
    Plain,
    /// A1111's: `(word)`, `(word:1.3)`, `[word]`, `BREAK`, and as many chunks of tokens as it takes.
    Weighted,
}

impl PromptSyntax {
    /// Its name, on the command line and in the output's metadata.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Weighted => "weighted",
        }
    }
}

impl fmt::Display for PromptSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PromptSyntax {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Plain, Self::Weighted]
            .into_iter()
            .find(|syntax| syntax.name() == name)
            .ok_or_else(|| "plain or weighted".to_owned())
    }
}

/// A part of a prompt.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text, and what the states of its tokens are multiplied by; finite.
    Text(String, f64),
    /// What follows begins a chunk.
    Break,
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(text, weight), Self::Text(other, of_other)) => {
                text == other && weight.to_bits() == of_other.to_bits()
            }
            (Self::Break, Self::Break) => true,
            _ => false,
        }
    }
}

impl Eq for Piece {}

impl Hash for Piece {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Self::Text(text, weight) = self {
            text.hash(state);
            weight.to_bits().hash(state);
        }
        std::mem::discriminant(self).hash(state);
    }
}

/// A prompt: its text in pieces, of which no two neighbours have the same weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prompt {
    syntax: PromptSyntax,
    pieces: Vec<Piece>,
}

impl Prompt {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// Of a weighted prompt: what is no weight, and syntax of A1111's that is not supported.
    pub fn parse(syntax: PromptSyntax, text: &str) -> Result<Self, PromptError> {
        match syntax {
            PromptSyntax::Plain => Ok(Self::verbatim(syntax, text)),
            PromptSyntax::Weighted => Ok(Self { syntax, pieces: parse::pieces(text)? }),
        }
    }

    /// A text in which every sign is itself, beside prompts of this syntax.
    #[must_use]
    pub fn verbatim(syntax: PromptSyntax, text: &str) -> Self {
        let mut it = Self { syntax, pieces: Vec::new() };
        it.push(text, 1.0);
        it
    }

    /// A plain prompt.
    #[must_use]
    pub fn plain(text: &str) -> Self {
        Self::verbatim(PromptSyntax::Plain, text)
    }

    fn push(&mut self, text: &str, weight: f64) {
        if text.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Text(last, of_last)) if of_last.to_bits() == weight.to_bits() => {
                last.push_str(text);
            }
            _ => self.pieces.push(Piece::Text(text.to_owned(), weight)),
        }
    }

    /// How it was read.
    #[must_use]
    pub fn syntax(&self) -> PromptSyntax {
        self.syntax
    }

    /// Its parts.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// `true` where it is another thing than its words: something has a weight, or begins a chunk.
    #[must_use]
    pub fn is_weighted(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Text(_, weight) => weight.to_bits() != 1f64.to_bits(),
            Piece::Break => true,
        })
    }

    /// What it says, without weights.
    #[must_use]
    pub fn words(&self) -> String {
        self.pieces.iter().map(Piece::words).collect()
    }

    /// A region's caption as a prompt beside this one, which is the job's: if it begins with this one's words (without
    /// the signs at their end, as [`join_prompt`](crate::caption::join_prompt) leaves them out), these have their
    /// weights and the rest, on the same line of tokens, has none; else every sign is itself.
    #[must_use]
    pub fn of_caption(&self, caption: &str) -> Self {
        let words = self.words();
        let mut left =
            words.trim_end_matches(|sign: char| sign.is_whitespace() || ",.;".contains(sign));
        if caption.trim() == words.trim() {
            left = &words;
        }
        let rest =
            caption.strip_prefix(left).filter(|rest| !rest.starts_with(char::is_alphanumeric));
        let (Some(rest), false) = (rest, left.is_empty()) else {
            return Self::verbatim(self.syntax, caption);
        };
        let mut it = Self { syntax: self.syntax, pieces: Vec::new() };
        let mut room = left.len();
        for piece in &self.pieces {
            let text = piece.words();
            let kept = room.min(text.len());
            match piece {
                _ if kept == 0 => break,
                Piece::Text(_, weight) => it.push(&text[..kept], *weight),
                Piece::Break => it.pieces.push(Piece::Break),
            }
            room -= kept;
        }
        it.push(rest, 1.0);
        it
    }
}

impl Piece {
    fn words(&self) -> &str {
        match self {
            Self::Text(text, _) => text,
            Self::Break => " ",
        }
    }
}

/// The text that a weighted prompt reads as these words.
#[must_use]
pub fn escaped(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for sign in words.chars() {
        if r"()[]\|".contains(sign) {
            text.push('\\');
        }
        text.push(sign);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(text: &str) -> Prompt {
        Prompt::parse(PromptSyntax::Weighted, text).unwrap()
    }

    fn text(text: &str, weight: f64) -> Piece {
        Piece::Text(text.to_owned(), weight)
    }

    #[test]
    fn a_caption_behind_the_prompts_words_has_their_weights_and_none_of_its_own() {
        let prompt = weighted("an (old:1.5) harbour, [calm].");
        assert_eq!(prompt.words(), "an old harbour, calm.");
        let joined = crate::caption::join_prompt(&prompt.words(), "grey (dark) water");
        let expected = [
            text("an ", 1.0),
            text("old", 1.5),
            text(" harbour, ", 1.0),
            text("calm", 1.0 / 1.1),
            text(", grey (dark) water", 1.0),
        ];
        assert_eq!(prompt.of_caption(&joined).pieces(), expected);
        assert_eq!(prompt.of_caption(&prompt.words()), prompt);
        assert_eq!(prompt.of_caption("a (red) roof").pieces(), [text("a (red) roof", 1.0)]);
        let cat = weighted("a (cat)");
        assert_eq!(cat.of_caption("a cathedral").pieces(), [text("a cathedral", 1.0)]);
        assert_eq!(weighted("").of_caption("a roof").pieces(), [text("a roof", 1.0)]);
    }

    #[test]
    fn a_break_in_the_prompt_stays_where_a_caption_follows() {
        let prompt = weighted("sea BREAK (sky)");
        assert_eq!(prompt.words(), "sea sky");
        let expected = [text("sea", 1.0), Piece::Break, text("sky", 1.1), text(", blue", 1.0)];
        assert_eq!(prompt.of_caption("sea sky, blue").pieces(), expected);
    }

    #[test]
    fn escaped_words_are_read_as_they_are() {
        let words = r"a (b:1.2) [c|d] \e <f> BREAKER";
        let prompt = weighted(&escaped(words));
        assert_eq!(prompt.pieces(), [text(words, 1.0)]);
        assert!(!prompt.is_weighted() && weighted("a BREAK b").is_weighted());
    }

    #[test]
    fn a_plain_prompt_has_no_syntax() {
        let prompt = Prompt::parse(PromptSyntax::Plain, "a (b) BREAK [c|d] <lora:e>").unwrap();
        assert_eq!(prompt, Prompt::plain("a (b) BREAK [c|d] <lora:e>"));
        assert!(!prompt.is_weighted());
        assert_eq!("weighted".parse(), Ok(PromptSyntax::Weighted));
        assert!("compel".parse::<PromptSyntax>().is_err());
    }
}
