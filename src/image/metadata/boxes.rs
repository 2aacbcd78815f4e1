//! Metadata of files of boxes: JPEG XL (EXIF and XMP, as a rule compressed with Brotli) and JPEG 2000 (in boxes named by a
//! UUID). Source: ISO/IEC 18181-2, section 9; ISO/IEC 15444-1, annex I; XMP specification, part 3.

use std::io::{self, Read, Seek, SeekFrom};

use brotli_decompressor::Decompressor;

use super::budget::{Block, Budget};
use super::{Blocks, Metadata, of_blocks};
use crate::image::error::{Result, Warning};

/// Boxes of a file that are looked at.
const MAX_BOXES: usize = 4096;
/// Buffer of the decompressor.
const BUFFER: usize = 1 << 12;
/// Boxes named by these hold XMP, and EXIF as two kinds of writers put it.
const XMP: [u8; 16] = *b"\xbe\x7a\xcf\xcb\x97\xa9\x42\xe8\x9c\x71\x99\x94\x91\xe3\xaf\xac";
const EXIF: [u8; 16] = *b"JpgTiffExif->JP2";
const EXIF_ADOBE: [u8; 16] = *b"\x05\x37\xcd\xab\x9d\x0c\x44\x31\xa7\x2a\xfa\x56\x1f\x2a\x11\x3e";

/// A box at the top of the file: its kind, and the place and length of what it holds.
struct Found {
    kind: [u8; 4],
    at: u64,
    length: u64,
}

/// EXIF and XMP of a file of boxes, from its beginning; a codestream without boxes has none. The file's name is for
/// errors, `limit` is in bytes.
///
/// # Errors
/// None of these blocks; the signature is that of [`of_blocks`].
pub(crate) fn read_boxes<F: Read + Seek>(
    name: &str,
    file: &mut F,
    limit: u64,
) -> Result<(Metadata, Vec<Warning>)> {
    let mut budget = Budget::new(name, limit);
    let mut blocks = Blocks::default();
    for found in boxes(file).unwrap_or_default() {
        let Found { mut kind, at, mut length } = found;
        if file.seek(SeekFrom::Start(at)).is_err() {
            break;
        }
        let mut head = [0; 16];
        let is_packed = kind == *b"brob";
        let head_bytes = match &kind {
            b"brob" => 4,
            b"uuid" => 16,
            _ => 0,
        };
        if length < head_bytes || file.read_exact(&mut head[..head_bytes as usize]).is_err() {
            continue;
        }
        length -= head_bytes;
        match &kind {
            b"brob" => kind.copy_from_slice(&head[..4]),
            b"uuid" if head == XMP => kind = *b"xml ",
            b"uuid" if head == EXIF || head == EXIF_ADOBE => kind = *b"exif",
            _ => {}
        }
        let (what, place) = match &kind {
            b"Exif" | b"exif" => ("EXIF", &mut blocks.exif),
            b"xml " => ("XMP", &mut blocks.xmp),
            _ => continue,
        };
        if place.is_some() {
            continue;
        }
        let block = if is_packed {
            unpacked(&mut file.take(length), &mut budget)
        } else {
            budget.take(file, length).unwrap_or(Block::Damaged)
        };
        *place = budget.wanted(what, block);
        // Before the block stands where in it the header is, as a rule at 0.
        if kind == *b"Exif"
            && let Some(block) = place
        {
            let offset = block
                .get(..4)
                .map_or(0, |at| u32::from_be_bytes([at[0], at[1], at[2], at[3]]) as usize + 4);
            block.drain(..offset.min(block.len()));
        }
    }
    let mut warnings = budget.into_warnings();
    let (metadata, more) = of_blocks(name, blocks, limit)?;
    warnings.extend(more);
    Ok((metadata, warnings))
}

/// A block compressed with Brotli. One that turns out too large uses the budget up, as with zlib.
fn unpacked(compressed: &mut impl Read, budget: &mut Budget<'_>) -> Block {
    let mut data = Vec::new();
    let unpacked =
        Decompressor::new(compressed, BUFFER).take(budget.left() + 1).read_to_end(&mut data);
    let length = data.len() as u64;
    if length > budget.left() {
        budget.spend(length);
        return Block::TooLarge;
    }
    budget.spend(length);
    if unpacked.is_err() {
        return Block::Damaged;
    }
    data.shrink_to_fit();
    Block::Whole(data)
}

/// The boxes at the top of a file.
fn boxes<F: Read + Seek>(file: &mut F) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let end = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    while at + 8 <= end && found.len() < MAX_BOXES {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let stated = u64::from(u32::from_be_bytes([a, b, c, d]));
        let (head_bytes, length) = match stated {
            // It goes to the end of the file.
            0 => (8, end - at),
            1 => {
                let mut long = [0; 8];
                file.read_exact(&mut long)?;
                (16, u64::from_be_bytes(long))
            }
            stated => (8, stated),
        };
        // A codestream that is no box begins with a length that no box has.
        if length < head_bytes || length > end - at {
            break;
        }
        found.push(Found { kind, at: at + head_bytes, length: length - head_bytes });
        at += length;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn boxed(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [&(data.len() as u32 + 8).to_be_bytes()[..], kind, data].concat()
    }

    const TIFF: &[u8] = b"II*\0\x08\0\0\0\0\0\0\0\0\0";

    #[test]
    fn exif_and_xmp_are_found_in_the_boxes_of_both_kinds_of_files() {
        let xl = [boxed(b"JXL ", b"\r\n\x87\n"), boxed(b"Exif", &[&[0; 4], TIFF].concat())];
        let (metadata, _) = read_boxes("x.jxl", &mut Cursor::new(xl.concat()), 1 << 20).unwrap();
        assert_eq!(metadata.exif.as_deref(), Some(TIFF));
        let packet = b"<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"/>";
        let two = [
            boxed(b"jP  ", b"\r\n\x87\n"),
            boxed(b"uuid", &[&XMP[..], packet].concat()),
            boxed(b"uuid", &[&EXIF[..], TIFF].concat()),
        ];
        let (metadata, _) = read_boxes("x.jp2", &mut Cursor::new(two.concat()), 1 << 20).unwrap();
        assert_eq!(metadata.exif.as_deref(), Some(TIFF));
        assert_eq!(metadata.xmp.as_deref(), Some(&packet[..]));
    }

    #[test]
    fn a_bomb_and_lengths_beyond_the_file_cost_nothing() {
        let lying = [&[0, 0, 1, 0][..], b"Exif", &[0; 8]].concat();
        let (metadata, _) = read_boxes("x.jxl", &mut Cursor::new(lying), 1 << 20).unwrap();
        assert_eq!(metadata.exif, None);
        let packed = boxed(b"brob", b"xml \xff\xff\xff\xff");
        let (metadata, warnings) = read_boxes("x.jxl", &mut Cursor::new(packed), 1 << 20).unwrap();
        assert_eq!((metadata.xmp, warnings), (None, vec![Warning::MetadataDamaged("XMP")]));
        let huge = boxed(b"xml ", &[b' '; 4000]);
        let (metadata, warnings) = read_boxes("x.jxl", &mut Cursor::new(huge), 1000).unwrap();
        let warning = Warning::MetadataTooLarge { what: "XMP", limit: 1000 };
        assert_eq!((metadata.xmp, warnings), (None, vec![warning]));
    }
}
