//! Metadata of WebP: chunks of the RIFF container, whose stated lengths are not believed.
//! Source: RFC 9649, section 2.

use std::io::{self, Read, Seek, SeekFrom};

use super::budget::{Block, Budget};
use super::text::MAX_TEXTS;
use super::{JPEG_EXIF, Metadata, exif_dpi, orientation_alone, xmp};
use crate::image::error::Result;

/// Metadata of a WebP, from its beginning; a file that ends early gives what there is.
///
/// # Errors
/// A colour profile beyond the budget.
pub(crate) fn read<F: Read + Seek>(file: &mut F, budget: &mut Budget<'_>) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let places = find(file, [b"ICCP", b"EXIF", b"XMP "]).unwrap_or_default();
    let [profile, exif, packet] = places;
    if let Some(place) = profile {
        let block = taken(file, place, budget);
        metadata.icc = budget.profile(block)?;
    }
    if let Some(place) = exif {
        let block = taken(file, place, budget);
        metadata.exif = match block {
            Block::TooLarge => orientation_alone(file, budget),
            block => budget.wanted("EXIF", block),
        };
        // Some writers copy JPEG's prefix along with the block.
        if let Some(block) = &mut metadata.exif
            && block.starts_with(JPEG_EXIF)
        {
            block.drain(..JPEG_EXIF.len());
        }
    }
    metadata.dpi = metadata.exif.as_deref().and_then(exif_dpi);
    if let Some(place) = packet {
        let block = taken(file, place, budget);
        if let Some(packet) = budget.wanted("XMP", block) {
            let (packet, texts) = xmp::take_texts(packet, MAX_TEXTS);
            metadata.xmp = Some(packet);
            metadata.texts = texts;
        }
    }
    Ok(metadata)
}

/// The packet of a WebP.
pub(crate) fn packet<F: Read + Seek>(file: &mut F, budget: &mut Budget<'_>) -> Option<Vec<u8>> {
    let [place] = find(file, [b"XMP "]).unwrap_or_default();
    match taken(file, place?, budget) {
        Block::Whole(packet) => Some(packet),
        _ => None,
    }
}

fn taken<F: Read + Seek>(file: &mut F, (at, length): (u64, u64), budget: &mut Budget<'_>) -> Block {
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| budget.take(file, length));
    read.unwrap_or(Block::Damaged)
}

/// Offset and length of the first chunk of each name.
fn find<F: Read + Seek, const N: usize>(
    file: &mut F,
    names: [&[u8; 4]; N],
) -> io::Result<[Option<(u64, u64)>; N]> {
    let mut places = [None; N];
    let mut at = 12;
    file.seek(SeekFrom::Start(at))?;
    loop {
        let mut head = [0; 8];
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(places),
            read => read?,
        }
        let [name @ .., a, b, c, d] = head;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if let Some(i) = names.iter().position(|own| **own == name) {
            places[i].get_or_insert((at + 8, length));
        }
        let padded = length.next_multiple_of(2);
        file.seek_relative(padded as i64)?;
        at += 8 + padded;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::image::error::Warning;

    #[test]
    fn a_chunk_that_claims_more_than_the_file_has_is_left_out() {
        let file = b"RIFF\xff\0\0\0WEBPEXIF\x06\0\0\0II*\0\0\0XMP \xff\xff\xff\x01<x>";
        let mut budget = Budget::new("x.webp", 64 << 20);
        let metadata = read(&mut Cursor::new(&file[..]), &mut budget).unwrap();
        assert_eq!(metadata.exif.as_deref(), Some(&b"II*\0\0\0"[..]));
        assert_eq!(metadata.xmp, None);
        assert_eq!(budget.into_warnings(), [Warning::MetadataDamaged("XMP")]);
    }
}
