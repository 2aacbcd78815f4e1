//! The parser of weighted prompts, by the rules of A1111's documentation ("Attention/emphasis", "Infinite prompt length"):
//! brackets multiply what is in them, those that nobody opened are text, those that nobody closes reach to the end.
//! `tests/fixtures/prompt/table.json` holds it to what A1111's own parser makes of some sixty prompts. It differs where that one gives
//! a `BREAK` in brackets up: here it begins a chunk there too.

use super::error::{DEEPEST, GREATEST, LONGEST};
use super::{Piece, PromptError, networks};

/// What a round bracket multiplies by.
const ROUND: f64 = 1.1;

/// What a square bracket multiplies by.
const SQUARE: f64 = 1.0 / ROUND;

/// A token of the syntax.
#[derive(Debug, PartialEq)]
enum Token<'a> {
    /// one sign after a backslash, or none where the backslash escapes nothing
    Escaped(&'a str),
    Open(char),
    Close(char),
    /// `:1.3)`: all of it, and the number
    Weight(&'a str, &'a str),
    Text(&'a str),
}

/// The pieces of a prompt.
///
/// # Errors
/// What is no weight, and syntax that is not supported.
pub(super) fn pieces(prompt: &str) -> Result<Vec<Piece>, PromptError> {
    if prompt.len() > LONGEST {
        return Err(PromptError::Long { bytes: prompt.len() });
    }
    if let Some(tag) = networks::first_tag(prompt) {
        let reason = "a LoRA changes the model, and is given where that is loaded";
        return Err(PromptError::Lora { tag: PromptError::shown(tag), reason });
    }
    if word(prompt, "AND").is_some() {
        return Err(PromptError::And);
    }
    let mut parser = Parser { prompt, ..Parser::default() };
    let mut at = 0;
    while let Some(token) = next(&prompt[at..]) {
        let length = token.length();
        parser.take(&token, at..at + length)?;
        at += length;
    }
    parser.finish()
}

#[derive(Default)]
struct Parser<'a> {
    prompt: &'a str,
    pieces: Vec<Piece>,
    /// open brackets: the piece that is their first
    round: Vec<usize>,
    square: Vec<usize>,
    /// open brackets of both kinds: the bracket, its place in the prompt, and whether a bar stands in it
    open: Vec<(char, usize, bool)>,
}

impl Parser<'_> {
    fn take(
        &mut self,
        token: &Token<'_>,
        place: std::ops::Range<usize>,
    ) -> Result<(), PromptError> {
        match *token {
            Token::Escaped(sign) => self.text(sign),
            Token::Open(sign) => {
                let stack = if sign == '(' { &mut self.round } else { &mut self.square };
                if stack.len() == DEEPEST {
                    let at = PromptError::shown(&self.prompt[place.start..]);
                    return Err(PromptError::Deep { at });
                }
                stack.push(self.pieces.len());
                self.open.push((sign, place.start, false));
            }
            Token::Weight(whole, number) => match self.round.pop() {
                Some(first) => {
                    let from = self.closed('(').map_or(place.start, |(from, _)| from);
                    let Ok(weight) = number.parse() else {
                        let part = &self.prompt[from..place.end];
                        return Err(PromptError::Weight(PromptError::shown(part)));
                    };
                    self.multiply(first, weight);
                }
                None => self.plain(whole),
            },
            Token::Close(')') => match self.round.pop() {
                Some(first) => {
                    self.closed('(');
                    self.multiply(first, ROUND);
                }
                None => self.plain(")"),
            },
            Token::Close(_) => match self.square.pop() {
                Some(first) => {
                    if let Some((from, has_bar)) = self.closed('[') {
                        self.check_steps(from..place.end, has_bar)?;
                    }
                    self.multiply(first, SQUARE);
                }
                None => self.plain("]"),
            },
            Token::Text(text) => {
                let after_backslash = self.prompt[..place.start].ends_with('\\');
                let bars = text.match_indices('|').filter(|&(at, _)| at > 0 || !after_backslash);
                if bars.count() > 0
                    && let Some(last) = self.open.last_mut()
                {
                    last.2 = true;
                }
                self.plain(text);
            }
        }
        Ok(())
    }

    /// The last open bracket of this kind is closed: its place, and whether a bar stood in it.
    fn closed(&mut self, sign: char) -> Option<(usize, bool)> {
        let index = self.open.iter().rposition(|open| open.0 == sign)?;
        let (_, from, has_bar) = self.open.remove(index);
        Some((from, has_bar))
    }

    /// Refuses `[a:b:0.5]` and `[a|b]`, of which A1111 makes another prompt from step to step.
    fn check_steps(&self, place: std::ops::Range<usize>, has_bar: bool) -> Result<(), PromptError> {
        let part = &self.prompt[place];
        let inside = &part[1..part.len() - 1];
        let when = inside.rsplit_once(':').map(|(_, when)| when.trim());
        if when.is_some_and(is_number) {
            return Err(PromptError::Editing(PromptError::shown(part)));
        }
        if has_bar {
            return Err(PromptError::Alternation(PromptError::shown(part)));
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.pieces.push(Piece::Text(text.to_owned(), 1.0));
        }
    }

    /// Text in which `BREAK` begins a chunk, with the white space around it.
    fn plain(&mut self, mut text: &str) {
        while let Some(at) = word(text, "BREAK") {
            self.text(text[..at].trim_end());
            self.pieces.push(Piece::Break);
            text = text[at + "BREAK".len()..].trim_start();
        }
        self.text(text);
    }

    fn multiply(&mut self, first: usize, by: f64) {
        for piece in &mut self.pieces[first..] {
            if let Piece::Text(_, weight) = piece {
                *weight *= by;
            }
        }
    }

    /// The pieces, neighbours with the same weight joined and the white space at both ends cut.
    fn finish(mut self) -> Result<Vec<Piece>, PromptError> {
        for first in std::mem::take(&mut self.round) {
            self.multiply(first, ROUND);
        }
        for first in std::mem::take(&mut self.square) {
            self.multiply(first, SQUARE);
        }
        let mut prompt = super::Prompt::default();
        for piece in self.pieces {
            match piece {
                Piece::Break => prompt.pieces.push(Piece::Break),
                Piece::Text(text, weight) if weight.abs() <= GREATEST => prompt.push(&text, weight),
                Piece::Text(text, _) => {
                    return Err(PromptError::Range { text: PromptError::shown(&text) });
                }
            }
        }
        let mut pieces = prompt.pieces;
        if let Some(Piece::Text(text, _)) = pieces.first_mut() {
            *text = text.trim_start().to_owned();
        }
        if let Some(Piece::Text(text, _)) = pieces.last_mut() {
            text.truncate(text.trim_end().len());
        }
        pieces.retain(|piece| !matches!(piece, Piece::Text(text, _) if text.is_empty()));
        Ok(pieces)
    }
}

/// The first token of a text.
fn next(text: &str) -> Option<Token<'_>> {
    let sign = text.chars().next()?;
    Some(match sign {
        '\\' => {
            let escaped = text[1..].starts_with(['(', ')', '[', ']', '\\']);
            Token::Escaped(&text[1..1 + usize::from(escaped)])
        }
        '(' | '[' => Token::Open(sign),
        ')' | ']' => Token::Close(sign),
        ':' => weight(text).unwrap_or(Token::Text(&text[..1])),
        _ => {
            let end = text.find(['\\', '(', ')', '[', ']', ':']);
            Token::Text(&text[..end.unwrap_or(text.len())])
        }
    })
}

/// `:1.3)` at the beginning of a text: a sign, and digits and points, between white space.
fn weight(text: &str) -> Option<Token<'_>> {
    let number = text[1..].trim_start();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let count = digits.find(|sign: char| !(sign.is_ascii_digit() || sign == '.'));
    let count = count.filter(|&count| count > 0)?;
    let rest = digits[count..].trim_start().strip_prefix(')')?;
    let number = &number[..number.len() - digits.len() + count];
    Some(Token::Weight(&text[..text.len() - rest.len()], number))
}

impl Token<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Escaped(sign) => 1 + sign.len(),
            Self::Open(_) | Self::Close(_) => 1,
            Self::Weight(text, _) | Self::Text(text) => text.len(),
        }
    }
}

/// The place of a word in a text that stands by itself (`\b`).
fn word(text: &str, word: &str) -> Option<usize> {
    let is_of_word = |sign: char| sign.is_alphanumeric() || sign == '_';
    text.match_indices(word).map(|(at, _)| at).find(|&at| {
        !text[..at].ends_with(is_of_word) && !text[at + word.len()..].starts_with(is_of_word)
    })
}

/// `true` for a number as prompt editing has it: no exponent and no `inf`.
fn is_number(text: &str) -> bool {
    text.chars().all(|sign| sign.is_ascii_digit() || ".+-".contains(sign))
        && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(prompt: &str) -> String {
        pieces(prompt).unwrap_err().to_string()
    }

    #[test]
    fn a_break_in_brackets_begins_a_chunk_and_the_weight_goes_on() {
        let text = |text: &str| Piece::Text(text.to_owned(), 1.3);
        let expected = [text("sea"), Piece::Break, text("sky")];
        assert_eq!(pieces("(sea BREAK sky:1.3)").unwrap(), expected);
    }

    #[test]
    fn what_changes_between_steps_is_refused_and_what_looks_like_it_is_not() {
        for prompt in ["[a:b:0.5]", "[a:10]", "a [b::3] c", "[a:(b:1.2):.5]", "[a : b : 1 ]"] {
            assert!(refused(prompt).contains("prompt editing"), "{prompt}");
        }
        for prompt in ["[a|b]", "a [cat|dog|(cow:1.1)] c"] {
            assert!(refused(prompt).contains("alternation"), "{prompt}");
        }
        assert!(refused("a cat AND a dog").contains("`AND`"));
        for prompt in [
            "[a:b]",
            "a|b",
            "(a|b)",
            r"[a\|b]",
            r"\[a:b:0.5\]",
            "[a|b",
            "SAND and BAND",
            "[(a:1.5)]",
            "[[a] b]",
            "a:0.5",
            "[a:b:c]",
            "AND_",
            "<b>",
            "a <3",
        ] {
            assert!(pieces(prompt).is_ok(), "{prompt}: {:?}", pieces(prompt));
        }
    }

    #[test]
    fn what_is_no_weight_is_named() {
        assert!(refused("a (cat:1.2.3)").contains("`(cat:1.2.3)` is not a number"));
        assert!(refused("(cat:.)").contains("`(cat:.)`"));
        assert!(refused("((cat:900):2)").contains("the weight of `cat`"));
        assert!(refused("a <lora:b:1>").contains("<lora:b:1>"));
        // No number at all is text.
        assert!(pieces("(cat:1e3) (cat:x) (cat:) 1:2.2.2)").is_ok());
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = |depth: usize| format!("{}a{}", "(a ".repeat(depth), ")".repeat(depth));
        assert!(refused(&deep(DEEPEST + 1)).contains("brackets within each other"));
        // 1.1 to the hundredth power is beyond the greatest weight.
        assert!(refused(&deep(DEEPEST)).contains("the weight"));
        assert!(pieces(&deep(50)).is_ok());
        let long = "(a)[b]".repeat(LONGEST / 6);
        assert!(pieces(&long).is_ok());
        assert!(refused(&long.repeat(2)).contains("bytes long"));
        assert!(refused(&"(".repeat(LONGEST)).contains("brackets"));
        assert!(pieces(&")".repeat(LONGEST)).is_ok());
    }
}
