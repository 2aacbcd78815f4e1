//! Metadata of JPEG: segments before the first scan, and the blocks that are cut into several of them.
//! Source: JFIF 1.02; EXIF 2.32, 4.7.2; ICC.1:2022, B.4; XMP specification, part 3, 1.1.3; ISO 21496-1 (gain maps).

use std::io::{self, Read, Seek};

use super::budget::{Block, Budget};
use super::photoshop::{self, JPEG_PHOTOSHOP};
use super::text::{COMMENT, MAX_PLACED, MAX_TEXTS, Text, from_unknown};
use super::{JPEG_EXIF, JPEG_XMP, JPEG_XMP_MORE, Metadata, exif_dpi, plausible_dpi, xmp};
use crate::image::error::{Result, Warning};

const ICC: &[u8] = b"ICC_PROFILE\0";
/// Beginning of an APP2 segment that speaks of a gain map.
const GAIN_MAP: &[u8] = b"urn:iso:std:iso:ts:21496:-1\0";
/// Beginning of an APP2 segment with an index of pictures in the file, of which previews are the usual ones.
const FURTHER: &[u8] = b"MPF\0";
/// Parts of one packet: each segment has room for 65,400 bytes.
const MAX_PARTS: usize = 1 << 16;

/// What the segments hold before it is put together.
#[derive(Default)]
struct Segments {
    metadata: Metadata,
    /// Numbered parts of a profile: number, number of parts, data.
    profile: Vec<(u8, u8, Vec<u8>)>,
    /// Parts of a packet's continuation.
    more: Vec<Part>,
    gain_map: bool,
    further: bool,
    /// Photoshop's resources, which may go on in further segments.
    resources: Vec<u8>,
    /// Bytes of the comments.
    comments: usize,
}

/// A part of a packet's continuation.
struct Part {
    guid: [u8; 32],
    whole: u32,
    offset: u32,
    data: Vec<u8>,
}

/// Metadata of a JPEG, from its beginning; a file that ends early gives what there is.
///
/// # Errors
/// A colour profile beyond the budget.
pub(crate) fn read<F: Read + Seek>(file: &mut F, budget: &mut Budget<'_>) -> Result<Metadata> {
    let mut segments = Segments::default();
    let mut profile = Ok(());
    // Where the walk ends early, the decoder has to say why.
    let _ = walk(file, |marker, data| {
        let kept = segments.keep(marker, data, budget);
        let go_on = kept.is_ok();
        profile = kept;
        go_on
    });
    profile?;
    Ok(segments.together(budget))
}

/// The packet of a JPEG that holds the settings.
pub(crate) fn packet<F: Read + Seek>(file: &mut F) -> Option<Vec<u8>> {
    let mut packet = None;
    let _ = walk(file, |marker, data| {
        packet = data.strip_prefix(JPEG_XMP).filter(|_| marker == 0xE1).map(<[u8]>::to_vec);
        packet.is_none()
    });
    packet
}

/// Marker byte and payload of each segment before the first scan, until `take` has enough. Returns the marker that ends
/// them, behind which the file then stands: that of the scan or of the picture's end, or `None` if `take` had enough.
pub(crate) fn walk<F: Read + Seek>(
    file: &mut F,
    mut take: impl FnMut(u8, &[u8]) -> bool,
) -> io::Result<Option<u8>> {
    file.seek(io::SeekFrom::Start(2))?;
    let mut data = Vec::new();
    loop {
        // Fill bytes, and the stray ones some cameras leave, may precede a marker.
        while byte(file)? != 0xFF {}
        let marker = loop {
            match byte(file)? {
                0xFF => continue,
                marker => break marker,
            }
        };
        match marker {
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xD9 | 0xDA => return Ok(Some(marker)),
            _ => {}
        }
        let length = u16::from_be_bytes([byte(file)?, byte(file)?]).saturating_sub(2);
        data.resize(length.into(), 0);
        file.read_exact(&mut data)?;
        if !take(marker, &data) {
            return Ok(None);
        }
    }
}

pub(crate) fn byte(file: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

impl Segments {
    fn keep(&mut self, marker: u8, data: &[u8], budget: &mut Budget<'_>) -> Result<()> {
        let metadata = &mut self.metadata;
        match marker {
            0xE0 if metadata.dpi.is_none() => {
                metadata.dpi = data.strip_prefix(b"JFIF\0").and_then(jfif_dpi);
            }
            0xE1 => {
                if let Some(block) = data.strip_prefix(JPEG_EXIF) {
                    if metadata.exif.is_none() {
                        metadata.exif = kept("EXIF", block, budget);
                    }
                } else if let Some(packet) = data.strip_prefix(JPEG_XMP) {
                    if metadata.xmp.is_none() {
                        metadata.xmp = kept("XMP", packet, budget);
                    }
                } else if let Some(part) = data.strip_prefix(JPEG_XMP_MORE).and_then(part)
                    && self.more.len() < MAX_PARTS
                    && let Some(data) = kept("the extended XMP", part.3, budget)
                {
                    let (guid, whole, offset, _) = part;
                    self.more.push(Part { guid, whole, offset, data });
                }
            }
            0xE2 => {
                if let Some([number, count, rest @ ..]) = data.strip_prefix(ICC)
                    && !rest.is_empty()
                    && self.profile.len() < 256
                {
                    let block = budget.take(&mut { rest }, rest.len() as u64);
                    let part = budget.profile(block.unwrap_or(Block::Damaged))?;
                    self.profile.extend(part.map(|part| (*number, *count, part)));
                }
                self.gain_map |= data.starts_with(GAIN_MAP);
                self.further |= data.starts_with(FURTHER);
            }
            0xED => {
                let block = data.strip_prefix(JPEG_PHOTOSHOP);
                let block = block.and_then(|block| kept("Photoshop's resources", block, budget));
                self.resources.extend(block.unwrap_or_default());
            }
            0xFE if metadata.texts.len() < MAX_TEXTS => {
                self.comments += data.len();
                if self.comments > MAX_PLACED {
                    let limit = MAX_PLACED as u64;
                    budget.warn(Warning::MetadataTooLarge { what: "a comment", limit });
                    return Ok(());
                }
                let comment = kept("a comment", data, budget).map(from_unknown);
                let comment = comment.filter(|text| !text.is_empty());
                metadata.texts.extend(comment.map(|text| Text::new(COMMENT.to_owned(), text)));
            }
            _ => {}
        }
        Ok(())
    }

    fn together(self, budget: &mut Budget<'_>) -> Metadata {
        let Self { mut metadata, profile, more, mut gain_map, further, resources, .. } = self;
        metadata.photoshop = photoshop::kept(&resources);
        if !profile.is_empty() {
            metadata.icc = joined_profile(profile);
            if metadata.icc.is_none() {
                let why = "a part of the profile is missing".to_owned();
                budget.warn(Warning::ProfileDropped(why));
            }
        }
        if metadata.dpi.is_none() {
            metadata.dpi = metadata.exif.as_deref().and_then(exif_dpi);
        }
        let Some(mut packet) = metadata.xmp.take() else {
            say_companions(gain_map, further, budget);
            return metadata;
        };
        if let Some(guid) = xmp::extension(&packet) {
            packet = xmp::joined(packet, joined_parts(more, &guid)).unwrap_or_else(|packet| {
                budget.warn(Warning::MetadataDamaged("the extended XMP"));
                packet
            });
        }
        gain_map |= xmp::announces_gain_map(&packet);
        say_companions(gain_map, further, budget);
        if xmp::announces_film(&packet) {
            budget.warn(Warning::CompanionDropped("film of a motion photo"));
        }
        let (packet, texts) = xmp::take_texts(xmp::alone(packet), MAX_TEXTS);
        metadata.xmp = Some(packet);
        metadata.texts.extend(texts);
        metadata
    }
}

/// Says what of a file's further pictures is left out: a gain map, which has a place in the index too, or others.
fn say_companions(gain_map: bool, further: bool, budget: &mut Budget<'_>) {
    if gain_map {
        budget.warn(Warning::CompanionDropped("gain map for HDR screens"));
    } else if further {
        budget.warn(Warning::LeftOut("other pictures in this file (MPF: previews, as a rule)"));
    }
}

/// A copy of a block within the budget.
fn kept(what: &'static str, block: &[u8], budget: &mut Budget<'_>) -> Option<Vec<u8>> {
    let read = budget.take(&mut { block }, block.len() as u64).unwrap_or(Block::Damaged);
    budget.wanted(what, read)
}

/// Density from the rest of a JFIF segment: version (2 bytes), unit, x, y.
fn jfif_dpi(data: &[u8]) -> Option<(f64, f64)> {
    let [_, _, unit, a, b, c, d, ..] = *data else { return None };
    let (x, y) = (f64::from(u16::from_be_bytes([a, b])), f64::from(u16::from_be_bytes([c, d])));
    match unit {
        1 => plausible_dpi(x, y),
        2 => plausible_dpi(x * 2.54, y * 2.54),
        _ => None,
    }
}

/// A profile put together from its parts, numbered from 1 as the standard says or from 0 as some programs do; `None` when
/// a part is missing.
fn joined_profile(mut parts: Vec<(u8, u8, Vec<u8>)>) -> Option<Vec<u8>> {
    parts.sort_by_key(|part| part.0);
    let &(first, count, _) = parts.first()?;
    let whole = first <= 1
        && usize::from(count) == parts.len()
        && parts.iter().zip(usize::from(first)..).all(|(part, n)| usize::from(part.0) == n);
    whole.then(|| parts.into_iter().flat_map(|part| part.2).collect())
}

/// GUID, length of the whole, offset, data.
fn part(data: &[u8]) -> Option<([u8; 32], u32, u32, &[u8])> {
    let (guid, data) = data.split_first_chunk::<32>()?;
    let (whole, data) = data.split_first_chunk()?;
    let (offset, data) = data.split_first_chunk()?;
    Some((*guid, u32::from_be_bytes(*whole), u32::from_be_bytes(*offset), data))
}

/// A packet's continuation put together; `None` when a part is missing.
fn joined_parts(mut parts: Vec<Part>, guid: &str) -> Option<Vec<u8>> {
    parts.retain(|part| part.guid.eq_ignore_ascii_case(guid.as_bytes()));
    parts.sort_by_key(|part| part.offset);
    let whole = parts.first()?.whole;
    if parts.iter().map(|part| part.data.len()).sum::<usize>() < whole as usize {
        return None;
    }
    let mut joined = Vec::with_capacity(whole as usize);
    for part in parts {
        // A part that came twice.
        if (part.offset as usize) < joined.len() {
            continue;
        }
        if part.offset as usize != joined.len() {
            return None;
        }
        let room = whole as usize - joined.len();
        joined.extend_from_slice(part.data.get(..room).unwrap_or(&part.data));
    }
    (joined.len() == whole as usize).then_some(joined)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn segment(marker: u8, parts: &[&[u8]]) -> Vec<u8> {
        let data = parts.concat();
        let length = (data.len() as u16 + 2).to_be_bytes();
        [&[0xFF, marker][..], &length, &data].concat()
    }

    fn read_from(segments: &[Vec<u8>], limit: u64) -> (Result<Metadata>, Vec<Warning>) {
        let file = [&b"\xff\xd8"[..], &segments.concat(), b"\xff\xda"].concat();
        let mut budget = Budget::new("x.jpg", limit);
        let metadata = read(&mut Cursor::new(file), &mut budget);
        (metadata, budget.into_warnings())
    }

    #[test]
    fn a_profile_is_joined_from_parts_numbered_from_one_or_from_zero() {
        let part = |n: u8, of: u8, data: &[u8]| segment(0xE2, &[ICC, &[n, of], data]);
        for first in [0, 1] {
            let parts = [part(first + 1, 2, b"lo"), part(first, 2, b"hal")];
            let (metadata, warnings) = read_from(&parts, 100);
            assert_eq!(metadata.unwrap().icc.as_deref(), Some(&b"hallo"[..]));
            assert_eq!(warnings, []);
        }
        let (metadata, warnings) = read_from(&[part(1, 2, b"hal")], 100);
        assert_eq!(metadata.unwrap().icc, None);
        assert!(matches!(warnings[..], [Warning::ProfileDropped(_)]));
        assert!(read_from(&[part(1, 1, &[0; 200])], 100).0.is_err());
    }

    #[test]
    fn a_packet_is_joined_with_its_continuation_or_announces_none() {
        let guid = "0123456789ABCDEF0123456789ABCDEF";
        let head = xmp::announcing(guid, &xmp::Additions::default());
        let more = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><d a='b'/></rdf:RDF></x:xmpmeta>";
        let part = |at: usize, end: usize| {
            let numbers = [(more.len() as u32).to_be_bytes(), (at as u32).to_be_bytes()].concat();
            segment(0xE1, &[JPEG_XMP_MORE, guid.as_bytes(), &numbers, &more[at..end]])
        };
        let main = segment(0xE1, &[JPEG_XMP, &head]);
        let holds = |metadata: &Metadata, word: &str| {
            String::from_utf8_lossy(metadata.xmp.as_deref().unwrap()).contains(word)
        };
        let parts = [main.clone(), part(20, more.len()), part(0, 20)];
        let (metadata, warnings) = read_from(&parts, 10_000);
        let metadata = metadata.unwrap();
        assert!(holds(&metadata, "<d a='b'/>") && !holds(&metadata, "HasExtended"));
        assert_eq!(warnings, []);
        let (metadata, warnings) = read_from(&[main, part(0, 20)], 10_000);
        assert!(!holds(&metadata.unwrap(), "HasExtended"));
        assert_eq!(warnings, [Warning::MetadataDamaged("the extended XMP")]);
    }

    #[test]
    fn comments_are_texts_and_a_gain_map_is_said() {
        let parts = [segment(0xFE, &[b"Gr\xfcn\0"]), segment(0xE2, &[GAIN_MAP])];
        let (metadata, warnings) = read_from(&parts, 100);
        assert_eq!(metadata.unwrap().texts, [Text::new(COMMENT.into(), "Grün".into())]);
        assert_eq!(warnings, [Warning::CompanionDropped("gain map for HDR screens")]);
        let index = segment(0xE2, &[FURTHER, b"II*\0"]);
        let (_, warnings) = read_from(&[segment(0xE2, &[GAIN_MAP]), index.clone()], 100);
        assert_eq!(warnings, [Warning::CompanionDropped("gain map for HDR screens")]);
        let (_, warnings) = read_from(&[index], 100);
        assert!(matches!(warnings[..], [Warning::LeftOut(_)]), "{warnings:?}");
    }

    #[test]
    fn resources_in_several_segments_are_one_block() {
        let block = b"8BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x05\0\x05title";
        let part = |data: &[u8]| segment(0xED, &[JPEG_PHOTOSHOP, data]);
        let (metadata, warnings) = read_from(&[part(&block[..15]), part(&block[15..])], 100);
        assert_eq!(metadata.unwrap().photoshop.as_deref(), Some(&block[..]));
        assert_eq!(warnings, []);
    }
}
