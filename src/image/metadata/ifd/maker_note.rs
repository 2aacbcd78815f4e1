//! Maker notes: blocks in EXIF that only their makers understand. Most hold places counted from the beginning of the whole
//! structure, and mean nothing once they, or what they point to, have moved.
//! Source: ExifTool's documentation of maker notes; Exiv2's manual, "MakerNote formats".

use super::{IfdEntry, open, tag};

/// Beginnings of notes that count places from their own beginning, or hold none.
const SELF_CONTAINED: [&[u8]; 8] = [
    b"Apple iOS\0",
    b"Nikon\0\x02",
    b"FUJIFILM",
    b"OLYMPUS\0",
    b"OM SYSTEM\0",
    b"PENTAX \0",
    // A packed message of Google's.
    b"HDRP",
    // Texts.
    b"ASCII\0",
];

/// What is said of a note that cannot stay in its place.
pub(crate) const BOUND_NOTE: &str = "maker note in its EXIF, which holds places in its file,";

/// `true` for the entry of a note that must stay in its place.
pub(crate) fn is_bound(entry: &IfdEntry) -> bool {
    entry.tag == tag::MAKER_NOTE
        && !SELF_CONTAINED.iter().any(|beginning| entry.data.starts_with(beginning))
}

/// `true` for an EXIF block with a note that must stay in its place.
pub(crate) fn has_bound_note(block: &[u8]) -> bool {
    let note = || {
        let (mut reader, first) = open(block)?;
        let below = reader.below(&first, tag::EXIF_IFD);
        reader.value_of(&below, tag::MAKER_NOTE)
    };
    note().is_some_and(|note| is_bound(&note))
}
