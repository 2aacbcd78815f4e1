//! TIFF image file directories, the structure that EXIF blocks and TIFF files share: read in either
//! byte order, patched in place, written little-endian (classic or BigTIFF).
//! Source: TIFF 6.0 specification, section 2; the BigTIFF design; EXIF 2.32, section 4.6.

/// Tags used by name here and in the TIFF writer.
pub(crate) mod tag {
    pub const IMAGE_DESCRIPTION: u16 = 270;
    pub const MAKE: u16 = 271;
    pub const MODEL: u16 = 272;
    pub const ORIENTATION: u16 = 274;
    pub const X_RESOLUTION: u16 = 282;
    pub const Y_RESOLUTION: u16 = 283;
    pub const RESOLUTION_UNIT: u16 = 296;
    pub const SOFTWARE: u16 = 305;
    pub const DATE_TIME: u16 = 306;
    pub const ARTIST: u16 = 315;
    pub const HOST_COMPUTER: u16 = 316;
    pub const XMP: u16 = 700;
    pub const COPYRIGHT: u16 = 33432;
    pub const EXIF_IFD: u16 = 34665;
    pub const ICC_PROFILE: u16 = 34675;
    pub const GPS_IFD: u16 = 34853;
    pub const PIXEL_X_DIMENSION: u16 = 0xA002;
    pub const PIXEL_Y_DIMENSION: u16 = 0xA003;
    pub const INTEROP_IFD: u16 = 0xA005;
}

pub(crate) const SHORT: u16 = 3;
pub(crate) const LONG: u16 = 4;
pub(crate) const RATIONAL: u16 = 5;
pub(crate) const LONG8: u16 = 16;

/// One directory entry with its value, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IfdEntry {
    pub tag: u16,
    /// TIFF field type.
    pub kind: u16,
    /// Values of that type, so `data.len()` is `count` times the type's size.
    pub count: u64,
    pub data: Vec<u8>,
}

impl IfdEntry {
    pub(crate) fn bytes(tag: u16, kind: u16, data: Vec<u8>) -> Self {
        let count = (data.len() / size_of_kind(kind).unwrap_or(1)) as u64;
        Self { tag, kind, count, data }
    }

    pub(crate) fn short(tag: u16, value: u16) -> Self {
        Self::bytes(tag, SHORT, value.to_le_bytes().to_vec())
    }

    pub(crate) fn long(tag: u16, value: u32) -> Self {
        Self::bytes(tag, LONG, value.to_le_bytes().to_vec())
    }

    /// Dots per inch to a thousandth, which no scanner or camera exceeds.
    pub(crate) fn dpi(tag: u16, dpi: f64) -> Self {
        let mut data = ((dpi * 1000.0).round() as u32).to_le_bytes().to_vec();
        data.extend(1000u32.to_le_bytes());
        Self::bytes(tag, RATIONAL, data)
    }

    pub(crate) fn ascii(tag: u16, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        Self::bytes(tag, 2, data)
    }

    pub(crate) fn as_u32(&self) -> Option<u32> {
        match (self.kind, self.data.as_slice()) {
            (SHORT, [a, b, ..]) => Some(u32::from(u16::from_le_bytes([*a, *b]))),
            (LONG | 13, [a, b, c, d, ..]) => Some(u32::from_le_bytes([*a, *b, *c, *d])),
            _ => None,
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        if self.kind == RATIONAL && self.data.len() >= 8 {
            let word = |at: usize| {
                u32::from_le_bytes([
                    self.data[at],
                    self.data[at + 1],
                    self.data[at + 2],
                    self.data[at + 3],
                ])
            };
            let (n, d) = (word(0), word(4));
            (d != 0).then(|| f64::from(n) / f64::from(d))
        } else {
            self.as_u32().map(f64::from)
        }
    }
}

fn size_of_kind(kind: u16) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

/// Bytes that are swapped together: a rational is two words.
fn swap_unit(kind: u16) -> usize {
    match kind {
        5 | 10 => 4,
        _ => size_of_kind(kind).unwrap_or(1),
    }
}

/// A reader of directories in a classic TIFF structure.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    little: bool,
}

impl<'a> Reader<'a> {
    /// `None` when the bytes do not begin with a classic TIFF header.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let little = match bytes.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        Some(Self { bytes, little })
    }

    pub(crate) fn first_ifd(&self) -> Option<usize> {
        self.u32(4).map(|at| at as usize)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let b: [u8; 2] = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let b: [u8; 4] = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) })
    }

    /// Offsets of the 12-byte entries of the directory at `ifd`.
    fn entry_offsets(&self, ifd: usize) -> impl Iterator<Item = usize> + use<> {
        let count = usize::from(self.u16(ifd).unwrap_or(0));
        (0..count).map(move |i| ifd.saturating_add(2 + 12 * i))
    }

    /// The readable entries of a directory; damaged ones are skipped.
    pub(crate) fn entries(&self, ifd: usize) -> Vec<IfdEntry> {
        self.entry_offsets(ifd).filter_map(|at| self.entry(at)).collect()
    }

    fn entry(&self, at: usize) -> Option<IfdEntry> {
        let (tag, kind, count) = (self.u16(at)?, self.u16(at + 2)?, self.u32(at + 4)?);
        let length = size_of_kind(kind)?.checked_mul(count as usize)?;
        let start = if length <= 4 { at + 8 } else { self.u32(at + 8)? as usize };
        let mut data = self.bytes.get(start..start.checked_add(length)?)?.to_vec();
        if !self.little {
            for unit in data.chunks_exact_mut(swap_unit(kind)) {
                unit.reverse();
            }
        }
        Some(IfdEntry { tag, kind, count: u64::from(count), data })
    }

    /// Offset of the entry with this tag.
    fn find(&self, ifd: usize, tag: u16) -> Option<usize> {
        self.entry_offsets(ifd).find(|&at| self.u16(at) == Some(tag))
    }

    /// A directory that an entry of `ifd` points to.
    fn sub_ifd(&self, ifd: usize, tag: u16) -> Option<usize> {
        let pointer = self.entry(self.find(ifd, tag)?)?;
        pointer.as_u32().map(|at| at as usize)
    }
}

/// The directories of an EXIF block.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exif {
    pub ifd0: Vec<IfdEntry>,
    pub exif: Vec<IfdEntry>,
    pub gps: Vec<IfdEntry>,
    pub interop: Vec<IfdEntry>,
}

impl Exif {
    /// Reads an EXIF block, or the descriptive part of a whole classic TIFF file.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let reader = Reader::new(bytes)?;
        let first = reader.first_ifd()?;
        let below = |ifd: Option<usize>, tag| ifd.and_then(|ifd| reader.sub_ifd(ifd, tag));
        let exif = below(Some(first), tag::EXIF_IFD);
        let read = |ifd: Option<usize>| {
            let mut entries = ifd.map(|at| reader.entries(at)).unwrap_or_default();
            // Pointers are made anew when the block is written.
            entries.retain(|e| ![tag::EXIF_IFD, tag::GPS_IFD, tag::INTEROP_IFD].contains(&e.tag));
            entries
        };
        Some(Self {
            ifd0: read(Some(first)),
            exif: read(exif),
            gps: read(below(Some(first), tag::GPS_IFD)),
            interop: read(below(exif, tag::INTEROP_IFD)),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ifd0.is_empty() && self.exif.is_empty() && self.gps.is_empty()
    }

    /// Leaves in the first directory only what describes the picture, not how a TIFF stores it.
    pub(crate) fn keep_descriptive(&mut self) {
        self.ifd0.retain(|e| {
            matches!(
                e.tag,
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
        });
    }

    /// The block as a little-endian TIFF structure of its own. Sub-directories move, so offsets inside
    /// a maker note (which only its maker understands) lose their meaning; its bytes are kept.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"II*\0\x08\0\0\0".to_vec();
        let with_pointers = |pointers: [u64; 2]| {
            let mut ifd0 = self.ifd0.clone();
            self.push_pointers(&mut ifd0, pointers, false);
            ifd0
        };
        let ifd0_len = serialise(&with_pointers([0, 0]), 8, false).len() as u64;
        let (subs, pointers) = self.serialise_subs(8 + ifd0_len, false);
        out.extend(serialise(&with_pointers(pointers), 8, false));
        out.extend(subs);
        out
    }

    /// The Exif and GPS directories laid out from file offset `start`, and where each begins
    /// (0 for one that is empty).
    pub(crate) fn serialise_subs(&self, start: u64, big: bool) -> (Vec<u8>, [u64; 2]) {
        let mut out = Vec::new();
        let mut pointers = [0, 0];
        if !self.exif.is_empty() {
            pointers[0] = start;
            let mut exif = self.exif.clone();
            if !self.interop.is_empty() {
                exif.push(pointer(tag::INTEROP_IFD, 0, big));
                let at = start + serialise(&exif, start, big).len() as u64;
                exif.pop();
                exif.push(pointer(tag::INTEROP_IFD, at, big));
                out.extend(serialise(&exif, start, big));
                out.extend(serialise(&self.interop, at, big));
            } else {
                out.extend(serialise(&exif, start, big));
            }
        }
        if !self.gps.is_empty() {
            pointers[1] = start + out.len() as u64;
            out.extend(serialise(&self.gps, pointers[1], big));
        }
        (out, pointers)
    }

    /// Adds the pointers to the sub-directories that exist.
    pub(crate) fn push_pointers(&self, ifd0: &mut Vec<IfdEntry>, at: [u64; 2], big: bool) {
        if !self.exif.is_empty() {
            ifd0.push(pointer(tag::EXIF_IFD, at[0], big));
        }
        if !self.gps.is_empty() {
            ifd0.push(pointer(tag::GPS_IFD, at[1], big));
        }
    }
}

fn pointer(tag: u16, at: u64, big: bool) -> IfdEntry {
    if big {
        IfdEntry::bytes(tag, LONG8, at.to_le_bytes().to_vec())
    } else {
        IfdEntry::long(tag, at as u32)
    }
}

/// One directory (tags in ascending order, no successor) followed by its out-of-line values, for a
/// file offset of `start`; `big` is BigTIFF's layout.
pub(crate) fn serialise(entries: &[IfdEntry], start: u64, big: bool) -> Vec<u8> {
    let mut sorted: Vec<&IfdEntry> = entries.iter().collect();
    sorted.sort_by_key(|e| e.tag);
    let (head, each, tail, inline) = if big { (8, 20, 8, 8) } else { (2, 12, 4, 4) };
    let table = head + each * sorted.len() + tail;
    let mut out = Vec::with_capacity(table);
    let mut values = Vec::new();
    if big {
        out.extend((sorted.len() as u64).to_le_bytes());
    } else {
        out.extend((sorted.len() as u16).to_le_bytes());
    }
    for entry in sorted {
        out.extend(entry.tag.to_le_bytes());
        out.extend(entry.kind.to_le_bytes());
        let mut number = |value: u64| {
            if big {
                out.extend(value.to_le_bytes());
            } else {
                out.extend((value as u32).to_le_bytes());
            }
        };
        number(entry.count);
        if entry.data.len() <= inline {
            out.extend(&entry.data);
            out.extend(std::iter::repeat_n(0, inline - entry.data.len()));
        } else {
            number(start + (table + values.len()) as u64);
            values.extend(&entry.data);
            // Values begin on a word boundary.
            values.extend(std::iter::repeat_n(0, entry.data.len() % 2));
        }
    }
    out.extend(std::iter::repeat_n(0, tail));
    out.extend(values);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out
}

/// EXIF orientation, 1 to 8; 1 when it is absent or nonsense.
pub(crate) fn orientation(exif: &[u8]) -> u8 {
    let value = || {
        let reader = Reader::new(exif)?;
        let at = reader.find(reader.first_ifd()?, tag::ORIENTATION)?;
        reader.entry(at)?.as_u32()
    };
    match value() {
        Some(n @ 1..=8) => n as u8,
        _ => 1,
    }
}

/// Marks a block as upright, in place, after the pixels were turned. The thumbnail directory is
/// unlinked, because the thumbnail was not turned with them.
pub(crate) fn set_upright(exif: &mut [u8]) {
    let Some(reader) = Reader::new(exif) else {
        return;
    };
    let Some(first) = reader.first_ifd() else {
        return;
    };
    let little = reader.little;
    let next = first.saturating_add(2 + 12 * usize::from(reader.u16(first).unwrap_or(0)));
    if let Some(at) = reader.find(first, tag::ORIENTATION) {
        patch(exif, at, 1, little);
    }
    if let Some(link) = exif.get_mut(next..next.saturating_add(4)) {
        link.fill(0);
    }
}

/// Writes the output's size, in place, into the fields of a block that state it.
pub(crate) fn set_size(exif: &mut [u8], width: u32, height: u32) {
    let find = |tag| {
        let reader = Reader::new(exif)?;
        let sub = reader.sub_ifd(reader.first_ifd()?, tag::EXIF_IFD)?;
        Some((reader.find(sub, tag)?, reader.little))
    };
    let fields = [(find(tag::PIXEL_X_DIMENSION), width), (find(tag::PIXEL_Y_DIMENSION), height)];
    for (field, value) in fields {
        if let Some((at, little)) = field {
            patch(exif, at, value, little);
        }
    }
}

/// Replaces the single value of the entry at `at`; it becomes a LONG where it no longer fits a SHORT.
fn patch(bytes: &mut [u8], at: usize, value: u32, little: bool) {
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
    use super::*;

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
        let mut little = Exif::parse(&big).unwrap().to_bytes();
        assert_eq!(orientation(&little), 6);
        for block in [&mut big, &mut little] {
            let length = block.len();
            set_upright(block);
            assert_eq!(orientation(block), 1);
            assert_eq!(block.len(), length);
        }
        assert_eq!(&big[34..38], &[0; 4], "the thumbnail is unlinked");
    }

    #[test]
    fn the_stated_size_follows_the_output_even_beyond_sixteen_bits() {
        for block in [big_endian_block(), Exif::parse(&big_endian_block()).unwrap().to_bytes()] {
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
        assert_eq!(Exif::parse(&block.to_bytes()).unwrap(), block);
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
        }
    }
}
