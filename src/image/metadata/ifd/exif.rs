//! EXIF blocks: parsed, written, and patched in place where the output differs from the input.
//! Source: EXIF 2.32, sections 4.6.3 (pointers), 4.6.4 and 4.6.5 (tags).

use std::io::{self, Read, Seek, Write};

use super::maker_note::{has_bound_note, is_bound};
use super::read::{Directory, Place, Reader, open};
use super::{IfdEntry, LONG, LONG8, SHORT, serialise, serialised_length, swap_unit, tag};

/// Kind of an entry that is bytes.
const UNDEFINED: u16 = 7;
/// Code of a UserComment in UTF-16.
const UNICODE: &[u8; 8] = b"UNICODE\0";
/// Place of the link to the first directory.
const FIRST: usize = 4;

/// The directories of an EXIF block.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exif {
    pub ifd0: Vec<IfdEntry>,
    pub exif: Vec<IfdEntry>,
    pub gps: Vec<IfdEntry>,
    pub interop: Vec<IfdEntry>,
}

impl Exif {
    /// Parses an EXIF block.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut reader, first) = open(bytes)?;
        Some(Self::read(&mut reader, &first, |_| true))
    }

    /// Reads the entries of a first directory whose tags are wanted, and the directories below it.
    pub(crate) fn read<R: Read + Seek>(
        reader: &mut Reader<R>,
        first: &Directory,
        wanted: impl Fn(u16) -> bool,
    ) -> Self {
        // Pointers are made anew when the block is written.
        let own = |tag| ![tag::EXIF_IFD, tag::GPS_IFD, tag::INTEROP_IFD].contains(&tag);
        let exif = reader.below(first, tag::EXIF_IFD);
        let gps = reader.below(first, tag::GPS_IFD);
        let interop = reader.below(&exif, tag::INTEROP_IFD);
        Self {
            ifd0: reader.values(first, |tag| own(tag) && wanted(tag)),
            exif: reader.values(&exif, own),
            gps: reader.values(&gps, own),
            interop: reader.values(&interop, own),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ifd0.is_empty() && self.exif.is_empty() && self.gps.is_empty()
    }

    /// `true` for a tag of the first directory that describes the picture, not how a TIFF stores it.
    pub(crate) fn describes(tag: u16) -> bool {
        matches!(
            tag,
            tag::IMAGE_DESCRIPTION
                | tag::MAKE
                | tag::MODEL
                | tag::ORIENTATION
                | tag::SOFTWARE
                | tag::DATE_TIME
                | tag::ARTIST
                | tag::HOST_COMPUTER
                | tag::COPYRIGHT
                | 18246 // Rating
                | 18249 // RatingPercent
                | 40091..=40095 // Windows title, comment, author, keywords, subject
        )
    }

    /// The block as a little-endian TIFF structure of its own, in which all has moved: see
    /// [`is_bound`](super::is_bound).
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        let mut out = b"II*\0\x08\0\0\0".to_vec();
        let ifd0 = std::mem::take(&mut self.ifd0);
        // Writing to memory cannot fail.
        let _ = self.write(ifd0, 8, false, &mut out);
        out
    }

    /// Writes a first directory (`entries`) for file offset `start`, and below it the other directories of the block,
    /// to which it gets pointers. Values are not copied on the way.
    pub(crate) fn write(
        mut self,
        mut entries: Vec<IfdEntry>,
        start: u64,
        big: bool,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let length = |directory: &Vec<IfdEntry>| serialised_length(directory, big);
        let links = [(tag::EXIF_IFD, !self.exif.is_empty()), (tag::GPS_IFD, !self.gps.is_empty())];
        let links = links.into_iter().filter(|(_, there)| *there).map(|(tag, _)| tag);
        entries.extend(links.map(|tag| pointer(tag, 0, big)));
        if !self.exif.is_empty() && !self.interop.is_empty() {
            self.exif.push(pointer(tag::INTEROP_IFD, 0, big));
        }
        let exif_at = start + length(&entries);
        let interop_at = exif_at + if self.exif.is_empty() { 0 } else { length(&self.exif) };
        let has_interop = self.exif.iter().any(|entry| entry.tag == tag::INTEROP_IFD);
        let gps_at = interop_at + if has_interop { length(&self.interop) } else { 0 };
        let places =
            [(tag::EXIF_IFD, exif_at), (tag::GPS_IFD, gps_at), (tag::INTEROP_IFD, interop_at)];
        for entry in entries.iter_mut().chain(&mut self.exif) {
            if let Some((tag, at)) = places.iter().find(|(tag, _)| *tag == entry.tag) {
                *entry = pointer(*tag, *at, big);
            }
        }
        serialise(&entries, start, big, out)?;
        if !self.exif.is_empty() {
            serialise(&self.exif, exif_at, big, out)?;
        }
        if has_interop {
            serialise(&self.interop, interop_at, big, out)?;
        }
        if !self.gps.is_empty() {
            serialise(&self.gps, gps_at, big, out)?;
        }
        Ok(())
    }
}

fn pointer(tag: u16, at: u64, big: bool) -> IfdEntry {
    if big {
        IfdEntry::bytes(tag, LONG8, at.to_le_bytes().to_vec())
    } else {
        IfdEntry::long(tag, at as u32)
    }
}

/// A block without a maker note that must stay in its place, written anew.
pub(crate) fn without_note(block: &[u8]) -> Vec<u8> {
    let mut exif = Exif::parse(block).unwrap_or_default();
    exif.exif.retain(|entry| !is_bound(entry));
    exif.into_bytes()
}

/// The entries of a block's first directory that point to those below it, as they are.
pub(crate) fn links(exif: &[u8]) -> Vec<IfdEntry> {
    let Some((mut reader, first)) = open(exif) else { return Vec::new() };
    reader.values(&first, |tag| [tag::EXIF_IFD, tag::GPS_IFD].contains(&tag))
}

/// EXIF orientation, 1 to 8; 1 when it is absent or nonsense.
pub(crate) fn orientation(exif: &[u8]) -> u8 {
    let value = || {
        let (mut reader, first) = open(exif)?;
        // A damaged block may have one that says nothing before one that does, and what is no single number may be read
        // here and not with the whole block.
        let mut places = first.places.iter().filter(|place| place.tag == tag::ORIENTATION);
        places.find_map(|place| reader.value(place).filter(|_| place.is_inline)?.as_u32())
    };
    match value() {
        Some(n @ 1..=8) => n as u8,
        _ => 1,
    }
}

/// Marks a block as upright, in place, after the pixels were turned.
pub(crate) fn set_upright(exif: &mut [u8]) {
    let Some((reader, first)) = open(exif) else {
        return;
    };
    let little = reader.little;
    for place in first.places.iter().filter(|place| place.tag == tag::ORIENTATION) {
        patch(exif, *place, 1, little);
    }
}

/// Unlinks the directory of the thumbnail, which shows the input; `true` if there was one. Its pixels go where nothing
/// stands behind them. All else stays in its place, because maker notes hold places.
pub(crate) fn drop_thumbnail(exif: &mut Vec<u8>) -> bool {
    let Some((mut reader, first)) = open(exif).filter(|(_, first)| first.next != 0) else {
        return false;
    };
    let second = reader.directory(first.next);
    let mut number = |tag| Some(reader.value_of(&second, tag)?.as_u32()? as usize);
    let pixels = number(tag::THUMBNAIL_START).zip(number(tag::THUMBNAIL_LENGTH));
    let link = first.link as usize;
    if let Some(link) = exif.get_mut(link..link.saturating_add(4)) {
        link.fill(0);
    }
    if let Some((start, length)) = pixels
        && start > link + 4
        && start.checked_add(length).is_some_and(|end| end <= exif.len() && end + 1 >= exif.len())
    {
        exif.truncate(start);
    }
    true
}

/// Writes the output's size, in place, into the fields of a block that state it.
pub(crate) fn set_size(exif: &mut [u8], width: u32, height: u32) {
    let Some((mut reader, first)) = open(exif) else {
        return;
    };
    let below = reader.below(&first, tag::EXIF_IFD);
    let little = reader.little;
    let fields = [
        (first.find(tag::IMAGE_WIDTH), width),
        (first.find(tag::IMAGE_LENGTH), height),
        (below.find(tag::PIXEL_X_DIMENSION), width),
        (below.find(tag::PIXEL_Y_DIMENSION), height),
    ];
    for (place, value) in fields {
        if let Some(place) = place {
            patch(exif, place, value, little);
        }
    }
}

/// The block (or a new one) with this text as its comment; `None` when it has one already.
/// The comment is in UTF-16, as programs write and look for the parameters of generated pictures.
pub(crate) fn add_comment(exif: Option<&[u8]>, comment: &str) -> Option<Vec<u8>> {
    let parsed = exif.and_then(Exif::parse).unwrap_or_default();
    // Blanks after the code are how cameras say that there is none.
    let says = |entry: &IfdEntry| entry.data.iter().skip(8).any(|b| !b" \0".contains(b));
    if parsed.exif.iter().any(|entry| entry.tag == tag::USER_COMMENT && says(entry)) {
        return None;
    }
    let mut data = UNICODE.to_vec();
    data.extend(comment.encode_utf16().flat_map(u16::to_be_bytes));
    if let Some(block) = exif.filter(|block| has_bound_note(block)) {
        return with_comment(block, IfdEntry::bytes(tag::USER_COMMENT, UNDEFINED, data));
    }
    let mut block = parsed;
    block.exif.retain(|entry| entry.tag != tag::USER_COMMENT);
    block.exif.push(IfdEntry::bytes(tag::USER_COMMENT, UNDEFINED, data));
    Some(block.into_bytes())
}

/// The block with a comment in its EXIF directory; nothing moves that a maker note may point to.
fn with_comment(block: &[u8], comment: IfdEntry) -> Option<Vec<u8>> {
    let (mut reader, first) = open(block)?;
    let pointer = first.find(tag::EXIF_IFD)?.start as usize;
    let directory = reader.below(&first, tag::EXIF_IFD);
    appended(block, &directory, &[comment], reader.little, pointer)
}

/// The block with the resolution in dots per inch, if it states none; nothing moves that a maker note may point to.
pub(crate) fn with_resolution(block: &[u8], (x, y): (f64, f64)) -> Option<Vec<u8>> {
    let (reader, first) =
        open(block).filter(|(_, first)| first.find(tag::X_RESOLUTION).is_none())?;
    let entries = [
        IfdEntry::dpi(tag::X_RESOLUTION, x),
        IfdEntry::dpi(tag::Y_RESOLUTION, y),
        IfdEntry::short(tag::RESOLUTION_UNIT, 2),
    ];
    appended(block, &first, &entries, reader.little, FIRST)
}

/// The block with new entries in one of its directories, which is written anew behind everything else. The link to it
/// stands at `pointer`.
fn appended(
    block: &[u8],
    directory: &Directory,
    new: &[IfdEntry],
    little: bool,
    pointer: usize,
) -> Option<Vec<u8>> {
    let short = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let long = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let kept = directory.places.iter().filter(|place| new.iter().all(|new| new.tag != place.tag));
    let mut entries: Vec<(u16, Vec<u8>)> = kept
        .filter_map(|place| {
            let entry = place.entry as usize;
            Some((place.tag, block.get(entry..entry + 12)?.to_vec()))
        })
        .collect();
    let start = block.len().next_multiple_of(2);
    let values_at = start + 2 + 12 * (entries.len() + new.len()) + 4;
    let mut values = Vec::new();
    for IfdEntry { tag, kind, count, data } in new {
        let mut data = data.clone();
        if !little {
            data.chunks_exact_mut(swap_unit(*kind)).for_each(<[u8]>::reverse);
        }
        let mut entry = [short(*tag), short(*kind)].concat();
        entry.extend(long(u32::try_from(*count).ok()?));
        if data.len() > 4 {
            entry.extend(long(u32::try_from(values_at + values.len()).ok()?));
            data.resize(data.len().next_multiple_of(2), 0);
            values.extend(data);
        } else {
            data.resize(4, 0);
            entry.extend(data);
        }
        entries.push((*tag, entry));
    }
    entries.sort_by_key(|(tag, _)| *tag);
    let mut out = block.to_vec();
    out.resize(start, 0);
    out.extend(short(u16::try_from(entries.len()).ok()?));
    entries.iter().for_each(|(_, entry)| out.extend(entry));
    out.extend([0; 4]);
    out.extend(values);
    out.get_mut(pointer..pointer + 4)?.copy_from_slice(&long(u32::try_from(start).ok()?));
    Some(out)
}

/// Replaces the single value of an entry of a classic structure; it becomes a LONG where it no longer fits a SHORT.
fn patch(bytes: &mut [u8], place: Place, value: u32, little: bool) {
    let at = place.entry as usize;
    let Some(field) = bytes.get_mut(at + 2..at + 12) else {
        return;
    };
    let kind = if value <= 0xFFFF { SHORT } else { LONG };
    let mut new = Vec::with_capacity(10);
    if little {
        new.extend(kind.to_le_bytes());
        new.extend(1u32.to_le_bytes());
        new.extend(value.to_le_bytes());
    } else {
        new.extend(kind.to_be_bytes());
        new.extend(1u32.to_be_bytes());
        if kind == SHORT {
            new.extend((value as u16).to_be_bytes());
            new.extend([0, 0]);
        } else {
            new.extend(value.to_be_bytes());
        }
    }
    field.copy_from_slice(&new);
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Found by fuzzing.
    #[test]
    fn a_directory_within_the_one_above_it_and_a_pointer_elsewhere_are_none() {
        // Its EXIF directory begins in its own second entry; then its pointer's value stands in the first entry, and in the third.
        for pointer in
            [[0, 0, 0, 1, 0, 0, 0, 22], [0, 0, 0, 2, 0, 0, 0, 14], [0, 0, 0, 2, 0, 0, 0, 38]]
        {
            let mut block = b"MM\0*\0\0\0\x08\0\x03".to_vec();
            block.extend([1, 18, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0]);
            block.extend([[0x87, 0x69, 0, 4].as_slice(), &pointer].concat());
            block.extend([0xA0, 3, 0, 3, 0, 0, 0, 1, 0xA0, 2, 0, 3]);
            block.extend([0; 24]);
            let mut once = block.clone();
            set_upright(&mut once);
            set_size(&mut once, 70_000, 3);
            let mut twice = once.clone();
            set_upright(&mut twice);
            set_size(&mut twice, 70_000, 3);
            assert_eq!(once, twice);
            assert!(Exif::parse(&block).unwrap().exif.is_empty());
        }
    }

    /// Found by fuzzing.
    #[test]
    fn a_structure_of_the_larger_kind_is_no_block() {
        // Its only directory claims so many entries that no place is behind them; an orientation of 6, a pointer to itself.
        for claimed in [2, u64::MAX] {
            let mut block = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
            block.extend(claimed.to_le_bytes());
            block.extend([18, 1, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
            block.extend([0x69, 0x87, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
            block.extend([0; 8]);
            let mut output = block.clone();
            set_upright(&mut output);
            set_size(&mut output, 70_000, 3);
            assert!(!drop_thumbnail(&mut output));
            assert_eq!((output, orientation(&block)), (block.clone(), 1));
            assert_eq!(Exif::parse(&block), None);
            // A TIFF file may be one, and its directories are read.
            let mut reader = Reader::new(Cursor::new(&block), u64::MAX).unwrap();
            let first = reader.directory(reader.first());
            assert_eq!(first.places.len(), 2);
            assert!(reader.below(&first, tag::EXIF_IFD).places.is_empty());
        }
    }

    #[test]
    fn an_orientation_that_is_no_single_number_is_passed_over_in_a_block_and_in_its_copy() {
        let mut block = b"II*\0\x08\0\0\0\x02\0".to_vec();
        // Many numbers, as a rational would be, at the block's start; then one.
        block.extend([18, 1, 3, 0, 10, 0, 0, 0, 8, 0, 0, 0]);
        block.extend([18, 1, 3, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
        block.extend([0; 4]);
        assert_eq!(orientation(&block), 3);
        assert_eq!(orientation(&Exif::parse(&block).unwrap().into_bytes()), 3);
    }

    /// Orientation 6 and a PixelXDimension of 640, big-endian, written out by hand.
    fn big_endian_block() -> Vec<u8> {
        let mut b = b"MM\0*\0\0\0\x08".to_vec();
        b.extend([0, 2]);
        b.extend([1, 18, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0]); // 274 SHORT 6
        b.extend([0x87, 0x69, 0, 4, 0, 0, 0, 1, 0, 0, 0, 38]); // Exif IFD at 38
        b.extend([0, 0, 0, 99]); // a thumbnail directory
        b.extend([0, 1]);
        b.extend([0xA0, 2, 0, 3, 0, 0, 0, 1, 2, 0x80, 0, 0]); // 640
        b.extend([0; 4]);
        b
    }

    #[test]
    fn orientation_is_read_and_reset_in_place_in_both_byte_orders() {
        let mut big = big_endian_block();
        assert_eq!(orientation(&big), 6);
        let mut little = Exif::parse(&big).unwrap().into_bytes();
        assert_eq!(orientation(&little), 6);
        for block in [&mut big, &mut little] {
            let length = block.len();
            set_upright(block);
            assert_eq!(orientation(block), 1);
            assert_eq!(block.len(), length);
        }
    }

    #[test]
    fn an_orientation_after_one_that_says_nothing_counts_and_is_reset() {
        // Two entries: a text, and the number 3.
        let mut block = b"MM\0*\0\0\0\x08\0\x02".to_vec();
        block.extend(b"\x01\x12\0\x02\0\0\0\x04abc\0");
        block.extend(b"\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0");
        assert_eq!(orientation(&block), 3);
        set_upright(&mut block);
        assert_eq!(orientation(&block), 1);
    }

    #[test]
    fn a_thumbnail_is_unlinked_and_its_pixels_go_from_the_end() {
        let mut block = big_endian_block();
        assert!(drop_thumbnail(&mut block) && !drop_thumbnail(&mut block));
        assert_eq!(&block[34..38], &[0; 4]);
        // A directory with the place and the length of a thumbnail, and that behind it.
        let mut block = big_endian_block();
        let (second, pixels) = (block.len() as u8, block.len() as u8 + 30);
        block[34..38].copy_from_slice(&[0, 0, 0, second]);
        block.extend([0, 2]);
        block.extend([2, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, pixels]);
        block.extend([2, 2, 0, 4, 0, 0, 0, 1, 0, 0, 0, 5]);
        block.extend([0; 4]);
        block.extend(b"jpeg!");
        assert!(drop_thumbnail(&mut block));
        assert_eq!(block.len(), usize::from(pixels));
        assert_eq!(orientation(&block), 6);
    }

    /// A little-endian block with a maker note that points to something behind it.
    fn noted() -> Vec<u8> {
        let mut b = b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0".to_vec();
        b.extend(b"\x01\0\x7c\x92\x07\0\x08\0\0\0\x2c\0\0\0\0\0\0\0");
        b.extend(b"Canon\x34\0\0fixed");
        b
    }

    #[test]
    fn a_comment_moves_nothing_that_a_maker_note_may_point_to() {
        let block = noted();
        assert!(has_bound_note(&block));
        let commented = add_comment(Some(&block), "hi").unwrap();
        // All but the pointer to the EXIF directory.
        assert_eq!(commented[..18], block[..18]);
        assert_eq!(commented[22..block.len()], block[22..]);
        let exif = Exif::parse(&commented).unwrap().exif;
        let tags: Vec<u16> = exif.iter().map(|entry| entry.tag).collect();
        assert_eq!(tags, [tag::MAKER_NOTE, tag::USER_COMMENT]);
        assert_eq!(exif[1].data, b"UNICODE\0\0h\0i");
        assert_eq!(add_comment(Some(&commented), "more"), None);
        let without = without_note(&block);
        assert!(!has_bound_note(&without) && Exif::parse(&without).unwrap().exif.is_empty());
    }

    #[test]
    fn the_stated_size_follows_the_output_even_beyond_sixteen_bits() {
        for block in [big_endian_block(), Exif::parse(&big_endian_block()).unwrap().into_bytes()] {
            for size in [2560, 100_000] {
                let mut block = block.clone();
                set_size(&mut block, size, 7);
                let exif = Exif::parse(&block).unwrap().exif;
                assert_eq!(exif[0].as_u32(), Some(size));
            }
        }
    }

    #[test]
    fn a_block_survives_being_parsed_and_written_again() {
        let block = Exif {
            ifd0: vec![
                IfdEntry::ascii(tag::MAKE, "A maker of some length"),
                IfdEntry::dpi(tag::X_RESOLUTION, 72.5),
            ],
            exif: vec![IfdEntry::short(0x8827, 400)],
            gps: vec![IfdEntry::bytes(1, 2, b"N\0".to_vec())],
            interop: vec![IfdEntry::ascii(1, "R98")],
        };
        assert_eq!(Exif::parse(&block.clone().into_bytes()).unwrap(), block);
    }

    #[test]
    fn a_resolution_is_added_where_there_is_none_in_either_order_of_bytes() {
        for block in [noted(), big_endian_block()] {
            let stated = with_resolution(&block, (300.0, 150.5)).unwrap();
            let [before, after] = [&block, &stated].map(|block| Exif::parse(block).unwrap());
            let value = |tag| after.ifd0.iter().find(|entry| entry.tag == tag)?.as_f64();
            assert_eq!(value(tag::X_RESOLUTION), Some(300.0));
            assert_eq!(value(tag::Y_RESOLUTION), Some(150.5));
            assert_eq!(value(tag::RESOLUTION_UNIT), Some(2.0));
            assert_eq!((before.exif, orientation(&block)), (after.exif, orientation(&stated)));
            assert_eq!(stated[8..block.len()], block[8..]);
            assert_eq!(with_resolution(&stated, (72.0, 72.0)), None);
        }
        assert_eq!(with_resolution(b"nothing", (72.0, 72.0)), None);
    }

    #[test]
    fn nonsense_bytes_are_no_exif_and_no_panic() {
        assert_eq!(orientation(b""), 1);
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), 1);
        let mut cut = big_endian_block();
        for length in (0..cut.len()).rev() {
            cut.truncate(length);
            let mut block = cut.clone();
            orientation(&block);
            set_upright(&mut block);
            set_size(&mut block, 1, 1);
            Exif::parse(&block);
            with_resolution(&block, (72.0, 72.0));
            add_comment(Some(&block), "text");
        }
    }
}
