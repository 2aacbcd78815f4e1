//! How the states of a model's text encoders become the context of its denoiser, and which tokens of a text they see.

use std::borrow::Cow;

use super::{
    Chunk, Cut, Piece, Prompt, PromptError, PromptSyntax, TextError, TextTokenizer, TokenIds,
};

/// Arrangement of a model's text states, as its family says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextArrangement {
    /// Encoders of CLIP, all with sequences of one length. If the last has a projection, the context is their penultimate
    /// states side by side and the pooled embedding is the last one's (SDXL); else it is the last state of the one encoder
    /// (Stable Diffusion 1.x).
    Clip,
    /// The last state of one T5, of the tokens that are no padding (PixArt).
    T5 {
        /// tokens of a text at most, the end token included
        tokens: usize,
    },
    /// The states of one Qwen3 before its last layer, of the tokens of a chat in which the text is what the user says
    /// (Z-Image).
    Chat {
        /// tokens of a chat at most
        tokens: usize,
    },
    /// The states behind several layers of one Qwen3 side by side, of the tokens of a chat in which the text is what the user
    /// says and the answer begins without a thought; of what fills the chat up as well (FLUX.2 klein).
    ChatLayers {
        /// tokens of a chat, with what fills it up
        tokens: usize,
        /// layers of the encoder, counted from 1, in ascending order
        layers: &'static [usize],
    },
    /// Two encoders of CLIP, whose penultimate states stand side by side and are filled up with zeros to `width`; behind
    /// them, along the tokens, the last states of T5, its padding included; zeros without one. The pooled embedding is both
    /// projections side by side (Stable Diffusion 3).
    Joint {
        /// tokens of T5, the padding included
        tokens: usize,
        /// width of the context (`joint_attention_dim`)
        width: usize,
    },
}

impl TextArrangement {
    /// A tokenizer for the sequences that this arrangement has.
    fn tokenizer(self, tokenizer: TextTokenizer) -> TextTokenizer {
        match self {
            Self::Clip => tokenizer,
            Self::T5 { tokens }
            | Self::Chat { tokens }
            | Self::ChatLayers { tokens, .. }
            | Self::Joint { tokens, .. } => tokenizer.with_length(tokens),
        }
    }

    /// Layers of the encoders whose states are taken; empty where each has its own.
    #[must_use]
    pub fn layers(self) -> &'static [usize] {
        match self {
            Self::ChatLayers { layers, .. } => layers,
            Self::Clip | Self::T5 { .. } | Self::Chat { .. } | Self::Joint { .. } => &[],
        }
    }

    /// The text that the tokenizers get: PixArt's pipelines write it small and cut the white space around it (diffusers'
    /// `_text_preprocessing`), chats are written as Qwen's template has them (`apply_chat_template` with
    /// `add_generation_prompt` and `enable_thinking`).
    fn prepared(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::T5 { .. } => text.to_lowercase().trim().to_owned().into(),
            Self::Chat { .. } => format!("{}{text}{}", CHAT[0], CHAT[1]).into(),
            Self::ChatLayers { .. } => format!("{}{text}{}{NO_THOUGHT}", CHAT[0], CHAT[1]).into(),
            Self::Clip | Self::Joint { .. } => text.into(),
        }
    }
}

/// What stands before a text and behind it where it is what a user says to Qwen.
const CHAT: [&str; 2] = ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"];

/// The thought of an answer that is to have none.
const NO_THOUGHT: &str = "<think>\n\n</think>\n\n";

/// The tokenizers of a model, in the order of their encoders.
#[derive(Clone, Debug)]
pub struct TextTokenizers {
    tokenizers: Vec<TextTokenizer>,
    arrangement: TextArrangement,
}

impl TextTokenizers {
    /// Tokenizers in the order of their encoders, which make sequences of the lengths that the arrangement has.
    #[must_use]
    pub fn new(tokenizers: Vec<TextTokenizer>, arrangement: TextArrangement) -> Self {
        let tokenizers = tokenizers.into_iter().map(|it| arrangement.tokenizer(it)).collect();
        Self { tokenizers, arrangement }
    }

    /// How the states are arranged.
    #[must_use]
    pub fn arrangement(&self) -> TextArrangement {
        self.arrangement
    }

    /// The tokenizers.
    #[must_use]
    pub fn all(&self) -> &[TextTokenizer] {
        &self.tokenizers
    }

    /// The chunks of a prompt for each: one of a plain prompt, cut; one or more of a weighted one, of which T5 and Qwen
    /// always get one.
    ///
    /// # Errors
    /// A weight for Qwen, a prompt of too many chunks, or those of the tokenizers.
    pub fn chunks(&self, prompt: &Prompt) -> Result<Vec<Vec<Chunk>>, TextError> {
        let is_plain = prompt.syntax() == PromptSyntax::Plain;
        let chunks = |tokenizer: &TextTokenizer| match tokenizer {
            TextTokenizer::Clip(tokenizer) if !is_plain => tokenizer.chunks(prompt.pieces()),
            TextTokenizer::T5(tokenizer) if !is_plain => {
                Ok(vec![tokenizer.weighted(&self.prepared_pieces(prompt))?])
            }
            TextTokenizer::Qwen(_) if prompt.is_weighted() => Err(PromptError::NoWeights.into()),
            _ => Ok(vec![tokenizer.encode(&self.arrangement.prepared(&prompt.words()))?.into()]),
        };
        self.tokenizers.iter().map(chunks).collect()
    }

    /// How many chunks a prompt takes.
    ///
    /// # Errors
    /// As [`chunks`](Self::chunks).
    pub fn count(&self, prompt: &Prompt) -> Result<usize, TextError> {
        Ok(self.chunks(prompt)?.iter().map(Vec::len).max().unwrap_or(1))
    }

    fn prepared_pieces(&self, prompt: &Prompt) -> Vec<Piece> {
        let prepared = |piece: &Piece| match piece {
            Piece::Text(text, weight) => {
                Piece::Text(self.arrangement.prepared(text).into_owned(), *weight)
            }
            Piece::Break => Piece::Break,
        };
        prompt.pieces().iter().map(prepared).collect()
    }

    /// No text as each reads it, one chunk.
    ///
    /// # Errors
    /// Those of the tokenizers.
    pub fn empty(&self) -> Result<Vec<TokenIds>, TextError> {
        self.tokenizers.iter().map(|tokenizer| tokenizer.encode("")).collect()
    }

    /// Truncation of a prompt that is longer than what the model takes, a weighted one than so many chunks; `None` if it
    /// fits.
    ///
    /// # Errors
    /// Those of the tokenizers.
    pub fn cut_prompt(&self, prompt: &Prompt, chunks: usize) -> Result<Option<Cut>, TextError> {
        let of_clip = self.tokenizers.iter().find_map(|tokenizer| match tokenizer {
            TextTokenizer::Clip(tokenizer) => Some(tokenizer),
            _ => None,
        });
        let Some(tokenizer) = of_clip.filter(|_| prompt.syntax() == PromptSyntax::Weighted) else {
            return self.cut(&prompt.words());
        };
        let count = self.count(prompt)?;
        let room = tokenizer.length() - 2;
        let cut = Cut { tokens: count * room, is_all: true, limit: chunks * room, at: 0 };
        Ok((count > chunks).then_some(cut))
    }

    /// Tokens of a text that the encoder takes that takes most, without what stands around a text.
    #[must_use]
    pub fn room(&self) -> usize {
        let room = |tokenizer: &TextTokenizer| {
            let around = match self.arrangement {
                TextArrangement::Chat { .. } | TextArrangement::ChatLayers { .. } => {
                    tokenizer.encode(&self.arrangement.prepared("")).map_or(0, |chat| chat.count)
                }
                // CLIP's texts begin and end with a token, T5's end with one.
                _ => 1 + usize::from(matches!(tokenizer, TextTokenizer::Clip(_))),
            };
            tokenizer.length().saturating_sub(around)
        };
        self.tokenizers.iter().map(room).max().unwrap_or(0)
    }

    /// Truncation of a text that is longer than what the model takes; `None` if it fits. Where encoders have the same
    /// length, all of them must take it; where they have different ones, the one that takes most keeps what the others
    /// lose.
    ///
    /// # Errors
    /// Those of the tokenizers.
    pub fn cut(&self, text: &str) -> Result<Option<Cut>, TextError> {
        let prepared = self.arrangement.prepared(text);
        let cuts = self.tokenizers.iter().map(|tokenizer| tokenizer.cut(&prepared));
        let cuts: Vec<Option<Cut>> = cuts.collect::<Result<_, _>>()?;
        let cut = match self.arrangement {
            TextArrangement::Joint { .. } if cuts.iter().any(Option::is_none) => None,
            TextArrangement::Joint { .. } => cuts.into_iter().flatten().max_by_key(|cut| cut.at),
            _ => cuts.into_iter().flatten().min_by_key(|cut| cut.at),
        };
        if let TextArrangement::Chat { .. } | TextArrangement::ChatLayers { .. } = self.arrangement
        {
            // Where the answer's beginning is cut off, nothing of the text is.
            let within = |cut: Cut| Cut { at: cut.at.saturating_sub(CHAT[0].len()), ..cut };
            return Ok(cut.map(within).filter(|cut| cut.at < text.len()));
        }
        Ok(cut.map(|cut| Cut { at: place_in(text, &prepared, cut.at), ..cut }))
    }
}

/// The place in `text` of place `at` in what was made of it by small letters and cutting white space: as many bytes of
/// small letters lie before both.
fn place_in(text: &str, prepared: &str, at: usize) -> usize {
    if text == prepared {
        return at;
    }
    let start = text.len() - text.trim_start().len();
    let mut before = 0;
    let mut place = text[start..].char_indices().find(|&(_, sign)| {
        let is_there = before >= at;
        before += sign.to_lowercase().map(char::len_utf8).sum::<usize>();
        is_there
    });
    place.take().map_or(text.len(), |(offset, _)| start + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_small_letters_is_found_in_the_text() {
        let text = "  An İSTANBUL Harbour ";
        let prepared = TextArrangement::T5 { tokens: 9 }.prepared(text);
        assert_eq!(prepared, "an i\u{307}stanbul harbour");
        let at = prepared.find("harbour").unwrap();
        assert!(text[place_in(text, &prepared, at)..].starts_with("Harbour"));
        assert_eq!(place_in(text, &prepared, 0), 2);
        assert_eq!(place_in(text, &prepared, prepared.len()), text.len() - 1);
        assert_eq!(place_in("same", "same", 3), 3);
    }
}
