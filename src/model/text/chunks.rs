//! Chunks of a weighted prompt: CLIP takes 75 tokens at a time, and a longer prompt is cut where A1111 cuts it, so that
//! the same prompt has the same chunks in both programs.

use std::ops::Range;

use super::{PromptError, TokenIds};

/// Among how many last tokens of a full chunk a comma ends it (A1111's `comma_padding_backtrack`, which is 20 unless somebody
/// sets it otherwise).
const BACKTRACK: usize = 20;

/// One sequence for an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The tokens, start, end and padding among them.
    pub tokens: TokenIds,
    /// What the state of each token is multiplied by; `None` where that is 1 for all.
    pub weights: Option<Vec<f32>>,
}

impl From<TokenIds> for Chunk {
    fn from(tokens: TokenIds) -> Self {
        Self { tokens, weights: None }
    }
}

impl Chunk {
    /// A chunk of these tokens and weights.
    pub(super) fn new(tokens: TokenIds, weights: Vec<f32>) -> Self {
        let is_weighted = weights.iter().any(|weight| weight.to_bits() != 1f32.to_bits());
        Self { tokens, weights: is_weighted.then_some(weights) }
    }
}

/// What a prompt is made of for a tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Unit {
    Token(u32, f32),
    /// The vectors of an embedding, which stay in one chunk.
    Vectors(Range<u32>, f32),
    /// What follows begins a chunk.
    Break,
}

/// A token and its weight.
type Weighted = (u32, f32);

/// The tokens of each chunk, without start, end and padding: at least one chunk, each of at most `room` tokens.
///
/// A chunk ends at a [`Unit::Break`] or where it is full; if its last comma is among its last
/// [`BACKTRACK`] tokens then, what stands behind that goes into the next one, unless the next token is a comma itself.
///
/// # Errors
/// More chunks than a prompt may have.
pub(super) fn chunks(
    units: impl Iterator<Item = Unit>,
    room: usize,
    comma: Option<u32>,
) -> Result<Vec<Vec<Weighted>>, PromptError> {
    let mut filled = Filled { room, done: Vec::new(), chunk: Vec::new(), comma: None };
    for unit in units {
        match unit {
            Unit::Break => filled.end()?,
            Unit::Token(token, weight) => {
                filled.make_room(comma == Some(token))?;
                filled.chunk.push((token, weight));
            }
            Unit::Vectors(ids, weight) => {
                filled.make_room(false)?;
                if filled.chunk.len() + ids.len() > room {
                    filled.end()?;
                }
                filled.chunk.extend(ids.map(|id| (id, weight)));
            }
        }
    }
    if !filled.chunk.is_empty() || filled.done.is_empty() {
        filled.end()?;
    }
    Ok(filled.done)
}

struct Filled {
    room: usize,
    done: Vec<Vec<Weighted>>,
    chunk: Vec<Weighted>,
    /// place of the chunk's last comma
    comma: Option<usize>,
}

impl Filled {
    /// Begins another chunk if this one is full and a token follows.
    fn make_room(&mut self, is_comma: bool) -> Result<(), PromptError> {
        if is_comma {
            self.comma = Some(self.chunk.len());
        } else if let Some(comma) = self.comma
            && self.chunk.len() == self.room
            && self.chunk.len() - comma <= BACKTRACK
        {
            let moved = self.chunk.split_off(comma + 1);
            self.end()?;
            self.chunk = moved;
        }
        if self.chunk.len() == self.room { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), PromptError> {
        if self.done.len() == PromptError::CHUNKS {
            return Err(PromptError::Chunks { tokens: self.room });
        }
        self.comma = None;
        self.done.push(std::mem::take(&mut self.chunk));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMA: u32 = 99;

    fn lengths(units: Vec<Unit>) -> Vec<usize> {
        let made = chunks(units.into_iter(), 75, Some(COMMA)).unwrap();
        made.iter().map(Vec::len).collect()
    }

    fn tokens(count: usize) -> Vec<Unit> {
        vec![Unit::Token(1, 1.0); count]
    }

    fn comma() -> Vec<Unit> {
        vec![Unit::Token(COMMA, 1.0)]
    }

    #[test]
    fn a_chunk_ends_where_it_is_full_or_behind_a_comma_that_is_near() {
        assert_eq!(lengths(tokens(0)), [0]);
        assert_eq!(lengths(tokens(75)), [75]);
        assert_eq!(lengths(tokens(76)), [75, 1]);
        for (before, behind, expected) in [
            (55, 20, vec![56, 20]),
            (54, 21, vec![75, 1]),
            (74, 1, vec![75, 1]),
            (70, 5, vec![71, 5]),
            (55, 19, vec![75]),
        ] {
            let units = [tokens(before), comma(), tokens(behind)].concat();
            assert_eq!(lengths(units), expected, "{before} and {behind}");
        }
        // A comma that follows a full chunk begins the next one itself.
        assert_eq!(
            lengths([tokens(60), comma(), tokens(14), comma(), tokens(3)].concat()),
            [75, 4]
        );
    }

    #[test]
    fn a_break_ends_a_chunk_whatever_is_in_it_and_vectors_stay_together() {
        assert_eq!(lengths([tokens(3), vec![Unit::Break], tokens(2)].concat()), [3, 2]);
        assert_eq!(lengths([vec![Unit::Break; 2], tokens(2)].concat()), [0, 0, 2]);
        assert_eq!(lengths([tokens(2), vec![Unit::Break]].concat()), [2]);
        let vectors = vec![Unit::Vectors(7..12, 1.0)];
        assert_eq!(lengths([tokens(70), vectors.clone()].concat()), [75]);
        assert_eq!(lengths([tokens(71), vectors.clone()].concat()), [71, 5]);
        // Those that move behind a comma move whole.
        let units = [tokens(65), comma(), vectors, tokens(5)].concat();
        let made = chunks(units.into_iter(), 75, Some(COMMA)).unwrap();
        assert_eq!(made[1][..5], [7, 8, 9, 10, 11].map(|id| (id, 1.0)));
        assert_eq!(made[0].len(), 66);
    }

    #[test]
    fn there_are_no_more_chunks_than_a_prompt_may_have() {
        let made = |count: usize| chunks(tokens(75 * count).into_iter(), 75, None);
        assert_eq!(made(PromptError::CHUNKS).unwrap().len(), PromptError::CHUNKS);
        assert_eq!(made(PromptError::CHUNKS + 1), Err(PromptError::Chunks { tokens: 75 }));
    }
}
