//! SentencePiece's model files (`spiece.model`): a message of protocol buffers, of which a vocabulary is a few fields.
//!
//! Source: SentencePiece `src/sentencepiece_model.proto`.

use super::pieces::{Pieces, UNKNOWN};
use crate::model::text::TextError;
use crate::model::text::tokenizing::GREATEST_ID;

const FILE: &str = "spiece.model";
/// Most pieces: as many as a vocabulary may have ids.
const MOST_PIECES: usize = GREATEST_ID as usize;
/// `ModelType::UNIGRAM`
const UNIGRAM: u64 = 1;
/// Id of the token for what is in no piece, where the file does not say.
const DEFAULT_UNKNOWN: u64 = 0;

/// A field's value. What is not looked at is passed over by its length.
enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, each with its number, up to its end or what is damaged.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// A number of 7 bits a byte.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next field; `None` at the end.
    ///
    /// # Errors
    /// A field that is cut off or of no known kind.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, TextError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.read().map(Some).ok_or_else(|| fail("damaged, or no model of SentencePiece"))
    }

    fn read(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => self.bytes(8).map(|_| Field::Other)?,
            2 => {
                let length = self.number()?;
                Field::Bytes(self.bytes(usize::try_from(length).ok()?)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.bytes(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

fn fail(reason: impl Into<String>) -> TextError {
    TextError::TokenizerFile { file: FILE, reason: reason.into() }
}

/// Vocabulary and table of characters of a model.
///
/// # Errors
/// A file that is damaged, or a model that is not of T5's kind.
pub(super) fn pieces(bytes: &[u8]) -> Result<Pieces, TextError> {
    let mut pieces = Pieces::default();
    let mut fields = Fields(bytes);
    let mut own_unknown = DEFAULT_UNKNOWN;
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(message)) => {
                if pieces.vocab.len() >= MOST_PIECES {
                    return Err(fail(format!("more than {MOST_PIECES} pieces")));
                }
                pieces.vocab.push(piece(message)?);
            }
            (2, Field::Bytes(message)) => own_unknown = check_trainer(message)?,
            (3, Field::Bytes(message)) => pieces.charsmap = charsmap(message)?,
            _ => {}
        }
    }
    if pieces.vocab.is_empty() {
        return Err(fail("no pieces"));
    }
    if own_unknown != UNKNOWN as u64 {
        return Err(fail(format!("`unk_id` = {own_unknown} is not T5's ({UNKNOWN})")));
    }
    Ok(pieces)
}

/// A piece with its score.
fn piece(message: &[u8]) -> Result<(String, f64), TextError> {
    let (mut fields, mut text, mut score) = (Fields(message), String::new(), 0.0);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(bytes)) => {
                text = String::from_utf8(bytes.to_vec()).map_err(|_| fail("a piece is no text"))?;
            }
            (2, Field::Float(value)) if value.is_finite() => score = f64::from(value),
            (2, Field::Float(_)) => return Err(fail("a piece has no finite score")),
            _ => {}
        }
    }
    Ok((text, score))
}

/// Checks the kind of the model, and gives the id of the token for what is in no piece.
fn check_trainer(message: &[u8]) -> Result<u64, TextError> {
    let (mut fields, mut unknown) = (Fields(message), DEFAULT_UNKNOWN);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (3, Field::Number(kind)) if kind != UNIGRAM => {
                return Err(fail(format!("`model_type` = {kind} is not supported (unigram is)")));
            }
            (35, Field::Number(1..)) => return Err(fail("`byte_fallback` is not supported")),
            (40, Field::Number(id)) => unknown = id,
            _ => {}
        }
    }
    Ok(unknown)
}

/// The table of characters. T5's rules are transformers' own, so a file that has others is refused.
fn charsmap(message: &[u8]) -> Result<Vec<u8>, TextError> {
    let (mut fields, mut table) = (Fields(message), Vec::new());
    while let Some((number, value)) = fields.next()? {
        let name = match (number, value) {
            (2, Field::Bytes(bytes)) => {
                table = bytes.to_vec();
                continue;
            }
            (3, Field::Number(0)) => "add_dummy_prefix",
            (4, Field::Number(0)) => "remove_extra_whitespaces",
            (5, Field::Number(0)) => "escape_whitespaces",
            _ => continue,
        };
        return Err(fail(format!("`{name}` = false is not supported")));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat()
    }

    fn model(trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
        let score = [&[2 << 3 | 5][..], &(-1.5f32).to_le_bytes()].concat();
        let piece = field(1, &[field(1, "▁a".as_bytes()), score].concat());
        [piece, field(2, trainer), field(3, normalizer)].concat()
    }

    /// `unk_id` = 2, whose number takes two bytes.
    const TRAINER: [u8; 3] = [0xc0, 2, 2];

    #[test]
    fn pieces_and_table_are_read_and_other_models_refused_by_name() {
        let read = pieces;
        let good = read(&model(&TRAINER, &field(2, b"table"))).unwrap();
        assert_eq!((good.vocab, good.charsmap), (vec![("▁a".to_owned(), -1.5)], b"table".to_vec()));
        for (trainer, normalizer, expected) in [
            (&[][..], &[][..], "`unk_id` = 0 is not T5's (2)"),
            (&[3 << 3, 2], &[], "`model_type` = 2"),
            (&[0x98, 2, 1], &[], "`byte_fallback`"),
            (&TRAINER, &[3 << 3, 0], "`add_dummy_prefix` = false"),
            (&TRAINER, &[5 << 3, 0], "`escape_whitespaces` = false"),
        ] {
            let error = read(&model(trainer, normalizer)).unwrap_err().to_string();
            assert!(error.starts_with("spiece.model: ") && error.contains(expected), "{error}");
        }
        assert!(read(b"").unwrap_err().to_string().contains("no pieces"));
        let whole = model(&TRAINER, &[]);
        for end in 1..whole.len() {
            // Where a field ends, so may the file.
            assert!(read(&whole[..end]).is_err() || end >= whole.len() - 2, "{end}");
        }
        assert!(read(&[0xff; 40]).unwrap_err().to_string().contains("damaged"));
    }
}
