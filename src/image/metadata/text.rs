//! Texts that a picture carries with keywords: PNG's text chunks and JPEG's comments.

use std::borrow::Cow;

/// Keyword of a comment, in PNG and here for JPEG's.
pub(crate) const COMMENT: &str = "Comment";
/// Keyword of whom the picture belongs to.
pub(crate) const COPYRIGHT: &str = "Copyright";
/// Keyword of the parameters of a generated picture. Other formats keep them as the comment of their EXIF block.
pub(crate) const PARAMETERS: &str = "parameters";
/// Bytes in a line of a block in hexadecimal.
const RAW_LINE: usize = 36;
/// Texts of one file that are carried.
pub(crate) const MAX_TEXTS: usize = 4096;
/// Bytes of all texts together that are carried into an XMP packet or an EXIF block, where they grow, and of a JPEG's
/// comments.
pub(crate) const MAX_PLACED: usize = 4 << 20;

/// A text with its keyword, as PNG has them (a JPEG comment has the keyword `Comment`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Text {
    /// 1 to 79 Latin-1 characters in PNG: `Title`, `Author`, `parameters`.
    pub keyword: String,
    /// The text, with line feeds.
    pub text: String,
    /// Language tag (RFC 3066), empty if unknown.
    pub language: String,
    /// The keyword in that language, or empty.
    pub translated: String,
}

impl Text {
    /// A text in no stated language.
    #[must_use]
    pub fn new(keyword: String, text: String) -> Self {
        Self { keyword, text, language: String::new(), translated: String::new() }
    }
}

/// Latin-1 bytes as text.
pub(crate) fn from_latin1(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => text,
        Ok(text) => text.bytes().map(char::from).collect(),
        Err(error) => error.as_bytes().iter().map(|&b| char::from(b)).collect(),
    }
}

/// The text as Latin-1 bytes; `None` if it has other characters, or one that ends texts in PNG.
pub(crate) fn to_latin1(text: &str) -> Option<Cow<'_, [u8]>> {
    if text.contains('\0') {
        return None;
    }
    if text.is_ascii() {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Vec<u8>>>().map(Cow::Owned)
}

/// Bytes that may be UTF-8, and otherwise are taken for Latin-1. Zeros at the end go.
pub(crate) fn from_unknown(bytes: Vec<u8>) -> String {
    let mut text = String::from_utf8(bytes).unwrap_or_else(|error| from_latin1(error.into_bytes()));
    text.truncate(text.trim_end_matches('\0').len());
    text
}

/// The bytes of a block that ImageMagick wrote as hexadecimal digits into a text, behind its kind and its length.
pub(crate) fn raw_profile(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.trim_start().splitn(2, '\n');
    let (_kind, rest) = (parts.next()?, parts.next()?.trim_start());
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let length: usize = rest[..digits].parse().ok()?;
    let mut nibbles = rest[digits..].chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16));
    let mut bytes = Vec::new();
    while let (Some(high), Some(low)) = (nibbles.next(), nibbles.next()) {
        bytes.push((high? << 4 | low?) as u8);
    }
    (bytes.len() == length).then_some(bytes)
}

/// A block as [`raw_profile`] reads it: `kind` as ImageMagick calls it.
pub(crate) fn as_raw_profile(kind: &str, block: &[u8]) -> String {
    let mut text = format!("\n{kind}\n{:8}\n", block.len());
    for line in block.chunks(RAW_LINE) {
        line.iter().for_each(|byte| text += &format!("{byte:02x}"));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin1_goes_both_ways_and_other_texts_do_not() {
        assert_eq!(from_latin1(b"Gr\xfc\xdfe".to_vec()), "Grüße");
        assert_eq!(from_latin1(b"\xc3\xbc".to_vec()), "Ã¼");
        assert_eq!(to_latin1("Grüße").as_deref(), Some(&b"Gr\xfc\xdfe"[..]));
        assert_eq!(to_latin1("木"), None);
        assert_eq!(from_unknown("木\0".as_bytes().to_vec()), "木");
        assert_eq!(from_unknown(b"\xfc".to_vec()), "ü");
    }

    #[test]
    fn a_block_in_hexadecimal_is_read_whole_or_not_at_all() {
        assert_eq!(raw_profile("\nexif\n    3\n4578\n69\n"), Some(b"Exi".to_vec()));
        assert_eq!(raw_profile("\nexif\n    4\n457869\n"), None);
        assert_eq!(raw_profile("\nexif\n 1\nzz"), None);
        let block: Vec<u8> = (0..100).collect();
        assert_eq!(raw_profile(&as_raw_profile("iptc", &block)), Some(block));
    }
}
