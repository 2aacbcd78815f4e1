//! Reader of directories in a TIFF structure, in a file or in memory: it looks up the places of values first and reads
//! only those that are wanted, so that a directory whose entries claim much, or all the same bytes, costs little.

use std::io::{Cursor, Read, Seek, SeekFrom};

use super::{IfdEntry, size_of_kind, swap_unit};

/// Entries of a directory that are looked at. A camera's have fewer than 200.
const MAX_ENTRIES: u64 = 1 << 14;

/// Place of an entry and of its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub tag: u16,
    pub kind: u16,
    pub count: u64,
    /// Offset of the entry in its directory.
    pub entry: u64,
    /// Offset of the value's first byte.
    pub start: u64,
    /// Bytes of the value.
    pub length: u64,
    /// The value stands in the entry itself.
    pub is_inline: bool,
}

/// The places of a directory's readable entries.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Its own offset.
    at: u64,
    pub places: Vec<Place>,
    /// Tags of the other entries: their values lie outside the file, or their kind is unknown.
    pub unreadable: Vec<u16>,
    /// The file ends before the last entry.
    pub cut: bool,
    /// Offset of the link to the directory that follows.
    pub link: u64,
    /// That directory's offset; 0 when there is none.
    pub next: u64,
}

impl Directory {
    /// The first entry with this tag.
    pub(crate) fn find(&self, tag: u16) -> Option<Place> {
        self.places.iter().find(|place| place.tag == tag).copied()
    }
}

/// A reader of the directories of a TIFF structure.
pub(crate) struct Reader<R> {
    source: R,
    /// Offset at which the source is.
    position: u64,
    pub little: bool,
    /// BigTIFF's layout.
    big: bool,
    first: u64,
    length: u64,
    /// Bytes that values may still take. Values that do not share bytes cannot be larger than the structure.
    left: u64,
    /// `true` once a value was left out because of `left`.
    pub exceeded: bool,
}

impl<R: Read + Seek> Reader<R> {
    /// `None` when the bytes do not begin with a TIFF header. Values that are read take at most `most` bytes together,
    /// and at most as many as the structure has.
    pub(crate) fn new(mut source: R, most: u64) -> Option<Self> {
        let length = source.seek(SeekFrom::End(0)).ok()?;
        source.seek(SeekFrom::Start(0)).ok()?;
        let mut magic = [0; 4];
        source.read_exact(&mut magic).ok()?;
        let (little, big) = match &magic {
            b"II*\0" => (true, false),
            b"MM\0*" => (false, false),
            b"II+\0" => (true, true),
            b"MM\0+" => (false, true),
            _ => return None,
        };
        let mut reader = Self {
            source,
            position: magic.len() as u64,
            little,
            big,
            first: 0,
            length,
            left: length.min(most),
            exceeded: false,
        };
        reader.first = if big { reader.u64_at(8)? } else { reader.u32_at(4)?.into() };
        Some(reader)
    }

    /// Offset of the first directory.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Bytes that values may still take.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    fn exact<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        self.bytes(at, N as u64).and_then(|bytes| bytes.try_into().ok())
    }

    /// Bytes at an offset, all that there are of `length`. Entries and values mostly stand near one another: a buffered
    /// source keeps its buffer.
    fn bytes(&mut self, at: u64, length: u64) -> Option<Vec<u8>> {
        let distance = i64::try_from(at).ok()? - i64::try_from(self.position).ok()?;
        self.source.seek_relative(distance).ok()?;
        self.position = at;
        let mut bytes = Vec::new();
        let read = self.source.by_ref().take(length).read_to_end(&mut bytes);
        self.position += bytes.len() as u64;
        read.ok().map(|_| bytes)
    }

    fn u32_at(&mut self, at: u64) -> Option<u32> {
        self.exact(at).map(|bytes| self.u32(bytes))
    }

    fn u64_at(&mut self, at: u64) -> Option<u64> {
        self.exact(at).map(|bytes| self.u64(bytes))
    }

    fn u16(&self, b: [u8; 2]) -> u16 {
        if self.little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) }
    }

    fn u32(&self, b: [u8; 4]) -> u32 {
        if self.little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) }
    }

    fn u64(&self, b: [u8; 8]) -> u64 {
        if self.little { u64::from_le_bytes(b) } else { u64::from_be_bytes(b) }
    }

    /// The directory at this offset; damaged entries are skipped.
    pub(crate) fn directory(&mut self, at: u64) -> Directory {
        self.try_directory(at).unwrap_or_default()
    }

    fn try_directory(&mut self, at: u64) -> Option<Directory> {
        let (head, each) = if self.big { (8, 20) } else { (2, 12) };
        let stated = if self.big {
            self.u64_at(at)?
        } else {
            let count = self.exact(at)?;
            self.u16(count).into()
        };
        let first = at.checked_add(head)?;
        let table = self.bytes(first, stated.min(MAX_ENTRIES) * each)?;
        let cut = (table.len() as u64) < stated.saturating_mul(each);
        let (mut places, mut unreadable) = (Vec::new(), Vec::new());
        for (entry, i) in table.chunks_exact(each as usize).zip(0u64..) {
            match self.place(entry, first + each * i) {
                Some(place) => places.push(place),
                None => unreadable.push(self.u16([entry[0], entry[1]])),
            }
        }
        let link = first.saturating_add(stated.saturating_mul(each));
        let next = if self.big { self.u64_at(link) } else { self.u32_at(link).map(u64::from) };
        Some(Directory { at, places, unreadable, cut, link, next: next.unwrap_or(0) })
    }

    fn place(&self, entry: &[u8], at: u64) -> Option<Place> {
        let (tag, kind) = (self.u16([entry[0], entry[1]]), self.u16([entry[2], entry[3]]));
        let (count, start, inline, field) = if self.big {
            let (count, start) = (entry[4..].first_chunk()?, entry[12..].first_chunk()?);
            (self.u64(*count), self.u64(*start), 8, 12)
        } else {
            let (count, start) = (entry[4..].first_chunk()?, entry[8..].first_chunk()?);
            (self.u32(*count).into(), self.u32(*start).into(), 4, 8)
        };
        let length = size_of_kind(kind)?.checked_mul(count)?;
        let is_inline = length <= inline;
        let start = if is_inline { at + field } else { start };
        Some(Place { tag, kind, count, entry: at, start, length, is_inline })
    }

    /// The value at a place, little-endian; `None` when it cannot be read or is too large.
    pub(crate) fn value(&mut self, place: &Place) -> Option<IfdEntry> {
        if place.start.checked_add(place.length).is_none_or(|end| end > self.length) {
            return None;
        }
        // A number costs nothing: there is room for it in its entry.
        let cost = if place.length <= 8 { 0 } else { place.length };
        if cost > self.left {
            self.exceeded = true;
            return None;
        }
        self.left -= cost;
        let mut data = self.bytes(place.start, place.length)?;
        if (data.len() as u64) < place.length {
            return None;
        }
        if !self.little {
            for unit in data.chunks_exact_mut(swap_unit(place.kind)) {
                unit.reverse();
            }
        }
        data.shrink_to_fit();
        Some(IfdEntry { tag: place.tag, kind: place.kind, count: place.count, data })
    }

    /// The value of a directory's first entry with this tag.
    pub(crate) fn value_of(&mut self, directory: &Directory, tag: u16) -> Option<IfdEntry> {
        let place = directory.find(tag)?;
        self.value(&place)
    }

    /// The values of the entries whose tags are wanted.
    pub(crate) fn values(
        &mut self,
        directory: &Directory,
        wanted: impl Fn(u16) -> bool,
    ) -> Vec<IfdEntry> {
        let places = directory.places.iter().filter(|place| wanted(place.tag));
        places.filter_map(|place| self.value(place)).collect()
    }

    /// A directory that an entry points to; empty when there is none. One that shares bytes with the directory above it is
    /// none: what is patched in one would be something else in the other.
    pub(crate) fn below(&mut self, directory: &Directory, tag: u16) -> Directory {
        let pointer = directory.find(tag).filter(|place| place.is_inline);
        let at = pointer.and_then(|place| self.value(&place)?.as_u64());
        let below = at.map(|at| self.directory(at)).unwrap_or_default();
        let link = if self.big { 8 } else { 4 };
        let ends_before = |a: &Directory, b: &Directory| a.link.saturating_add(link) <= b.at;
        let is_apart = ends_before(&below, directory) || ends_before(directory, &below);
        if is_apart { below } else { Directory::default() }
    }
}

/// The first directory of an EXIF block, and its reader. BigTIFF's layout is none of EXIF's (section 4.5.2), and what is patched
/// here has the classic one.
pub(crate) fn open(exif: &[u8]) -> Option<(Reader<Cursor<&[u8]>>, Directory)> {
    let mut reader = Reader::new(Cursor::new(exif), u64::MAX).filter(|reader| !reader.big)?;
    let first = reader.directory(reader.first());
    Some((reader, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A classic directory of `count` entries that all hold the same `length` bytes.
    fn sharing(count: u16, length: u32) -> Vec<u8> {
        let mut b = b"II*\0\x08\0\0\0".to_vec();
        b.extend(count.to_le_bytes());
        for i in 0..count {
            b.extend((40_000 + i % 20_000).to_le_bytes());
            b.extend(7u16.to_le_bytes());
            b.extend(length.to_le_bytes());
            b.extend(0u32.to_le_bytes());
        }
        b.resize(b.len().max(length as usize) + 4, 0);
        b
    }

    #[test]
    fn entries_that_share_bytes_are_read_no_larger_than_the_whole_structure() {
        let block = sharing(5000, 100_000);
        let mut reader = Reader::new(Cursor::new(&block), u64::MAX).unwrap();
        let directory = reader.directory(reader.first());
        assert_eq!(directory.places.len(), 5000);
        let read = reader.values(&directory, |_| true);
        assert!(read.iter().map(|entry| entry.data.len()).sum::<usize>() <= block.len());
        assert!(reader.exceeded);
    }

    #[test]
    fn a_value_larger_than_the_budget_or_the_file_is_not_read() {
        let block = sharing(1, 1000);
        let mut reader = Reader::new(Cursor::new(&block), 999).unwrap();
        let directory = reader.directory(8);
        assert!(reader.value(&directory.places[0]).is_none() && reader.exceeded);
        let mut reader = Reader::new(Cursor::new(&block[..26]), u64::MAX).unwrap();
        let directory = reader.directory(8);
        assert!(reader.value(&directory.places[0]).is_none() && !reader.exceeded);
    }
}
