//! The words of a question to a vision-language model, and the cut of its answer to a caption
//! (docs/method.md §5). Every engine with such a model words it the same way.

use std::rc::Rc;

use super::text::{LONGEST, cut};

/// Bytes of an answer that are looked at: several times what an encoder takes. Every clause of them may be tried.
const LONGEST_ANSWER: usize = 4 << 10;

/// A check that a caption fits the text encoders that it is for.
pub type Fits<'a> = Box<dyn Fn(&str) -> bool + 'a>;

/// Cancellation check, polled many times a second.
pub type Stop<'a> = Rc<dyn Fn() -> bool + 'a>;

/// Length of the captions that a vision model is asked for, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptionLength {
    asked: usize,
}

/// Tokens of a text that CLIP takes.
const CLIP_ROOM: usize = 75;

impl CaptionLength {
    /// Length for text encoders that take so many tokens of a text. They count other tokens than the model that is asked, so
    /// some of them stay free; and one sentence says all of a region before the longest of them are full.
    #[must_use]
    pub fn of_room(room: usize) -> Self {
        let asked = match room {
            0..100 => 60,
            100..200 => 100,
            _ => 180,
        };
        Self { asked }
    }

    /// New tokens after which an answer is broken off.
    #[must_use]
    pub fn most(self) -> usize {
        self.asked * 4 / 3
    }
}

impl Default for CaptionLength {
    /// The length for CLIP.
    fn default() -> Self {
        Self::of_room(CLIP_ROOM)
    }
}

/// The question about a region of a picture that `prompt` describes, for a caption of this length.
pub(crate) fn instruction(prompt: &str, CaptionLength { asked }: CaptionLength) -> String {
    let prompt = cut(prompt.trim(), LONGEST);
    let context = if prompt.is_empty() {
        String::new()
    } else {
        format!(
            " It is a part of a larger picture, which is described as \"{prompt}\"; of that, leave out \
             whatever this part does not show."
        )
    };
    format!(
        "Describe in detail what is visible in this picture: objects, materials, textures and light.\
         {context} Name nothing that is not visible. Answer with one sentence of at most {asked} tokens that \
         does not begin with \"The image\"."
    )
}

/// The text without line breaks, control characters and surrounding quotes, cut behind the last clause that fits. If
/// `has_ended` is `false`, the unfinished last clause is cut too. If not even the first clause fits, the cut is at
/// a word.
///
/// Of a text beyond [`LONGEST_ANSWER`] only the beginning is looked at, as of one that was broken off there.
pub(super) fn cut_to_fit(text: &str, has_ended: bool, fits: &dyn Fn(&str) -> bool) -> String {
    let has_ended = has_ended && text.len() <= LONGEST_ANSWER;
    let text = cut(text, LONGEST_ANSWER);
    let is_gap = |sign: char| {
        sign.is_whitespace() || sign.is_control() || sign == char::REPLACEMENT_CHARACTER
    };
    let words: Vec<_> = text.split(is_gap).filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    let text = text.trim_matches('"').trim();
    if has_ended && fits(text) {
        return text.to_owned();
    }
    let ends_of = |is_end: &dyn Fn(char, Option<char>) -> bool| -> Vec<usize> {
        let mut ends: Vec<usize> = text
            .char_indices()
            .filter(|&(at, sign)| is_end(sign, text[at + sign.len_utf8()..].chars().next()))
            .map(|(at, _)| at)
            .collect();
        ends.reverse();
        ends
    };
    let clauses =
        ends_of(&|sign, next| ".,;:!?".contains(sign) && next.is_none_or(|next| next == ' '));
    let words = ends_of(&|sign, _| sign == ' ');
    let whole = (!has_ended && clauses.is_empty()).then_some(text.len());
    clauses
        .into_iter()
        .chain(whole)
        .chain(words)
        .map(|end| text[..end].trim_end_matches([',', ';', ':', ' ']))
        .find(|part| !part.is_empty() && fits(part))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(words: usize) -> impl Fn(&str) -> bool {
        move |text| text.split(' ').count() <= words
    }

    #[test]
    fn a_caption_that_fits_stays_as_it_is() {
        let text = " \"A mossy wall,\n \u{1}wet\u{fffd} stone.\" ";
        assert_eq!(cut_to_fit(text, true, &at_most(5)), "A mossy wall, wet stone.");
    }

    #[test]
    fn a_caption_that_is_too_long_is_cut_behind_a_clause_or_else_a_word() {
        let text = "A mossy wall, wet stone; ivy at 3.5 metres. Sun";
        assert_eq!(cut_to_fit(text, true, &at_most(8)), "A mossy wall, wet stone");
        assert_eq!(cut_to_fit(text, true, &at_most(4)), "A mossy wall");
        assert_eq!(cut_to_fit(text, true, &at_most(2)), "A mossy");
        assert_eq!(cut_to_fit(text, true, &at_most(0)), "");
    }

    #[test]
    fn what_was_broken_off_loses_its_last_clause() {
        assert_eq!(
            cut_to_fit("A wall, wet stone, and so", false, &at_most(9)),
            "A wall, wet stone"
        );
        assert_eq!(cut_to_fit("A wall of wet sto", false, &at_most(9)), "A wall of wet sto");
    }

    #[test]
    fn of_an_answer_without_end_the_beginning_is_tried() {
        let tried = std::cell::Cell::new(0);
        let fits = |text: &str| {
            tried.set(tried.get() + 1);
            at_most(8)(text)
        };
        let answer = "A wall, wet stone, ".repeat(1 << 20);
        assert_eq!(cut_to_fit(&answer, true, &fits), "A wall, wet stone, A wall, wet stone");
        assert!(tried.get() <= LONGEST_ANSWER, "{}", tried.get());
        assert!(instruction(&answer, CaptionLength::default()).len() < LONGEST + 1000);
    }

    #[test]
    fn the_prompt_is_context_only_where_there_is_one() {
        let instruction = |prompt| instruction(prompt, CaptionLength::default());
        assert!(instruction(" an old harbour ").contains("\"an old harbour\""));
        assert!(!instruction(" ").contains("larger picture"));
    }

    #[test]
    fn captions_are_as_long_as_their_readers_take() {
        // CLIP; PixArt-α's T5; Stable Diffusion 3's and PixArt-Σ's; Z-Image's Qwen3.
        for (room, asked, most) in [(75, 60, 80), (119, 100, 133), (255, 180, 240), (504, 180, 240)]
        {
            let length = CaptionLength::of_room(room);
            let question = instruction("", length);
            assert!(question.contains(&format!("at most {asked} tokens")), "{question}");
            assert_eq!(length.most(), most);
        }
        assert_eq!(CaptionLength::default(), CaptionLength::of_room(75));
    }
}
