//! Writer of one directory, for EXIF blocks and TIFF files alike.

use std::io::{self, Write};

use super::IfdEntry;

/// Entries that a classic directory can count.
const MAX_ENTRIES: usize = u16::MAX as usize;

/// Bytes around and of the entries of a directory: its head, each entry, its tail, and the longest value in an entry.
fn layout(big: bool) -> (u64, u64, u64, u64) {
    if big { (8, 20, 8, 8) } else { (2, 12, 4, 4) }
}

/// Bytes of [`serialise`].
pub(crate) fn serialised_length(entries: &[IfdEntry], big: bool) -> u64 {
    let (head, each, tail, inline) = layout(big);
    let values = entries.iter().map(|entry| entry.data.len() as u64);
    let outside: u64 = values.filter(|&n| n > inline).map(|n| n.next_multiple_of(2)).sum();
    head + each * entries.len() as u64 + tail + outside
}

/// One directory (tags in ascending order, no successor) followed by its out-of-line values, for a
/// file offset of `start`; `big` is BigTIFF's layout.
pub(crate) fn serialise(
    entries: &[IfdEntry],
    start: u64,
    big: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    if !big && entries.len() > MAX_ENTRIES {
        return Err(io::Error::other("more entries than a directory can count"));
    }
    let mut sorted: Vec<&IfdEntry> = entries.iter().collect();
    sorted.sort_by_key(|e| e.tag);
    let (head, each, tail, inline) = layout(big);
    let mut value_at = start + head + each * sorted.len() as u64 + tail;
    let number = |out: &mut Vec<u8>, value: u64| {
        if big {
            out.extend(value.to_le_bytes());
        } else {
            out.extend((value as u32).to_le_bytes());
        }
    };
    let mut table = Vec::new();
    if big {
        table.extend((sorted.len() as u64).to_le_bytes());
    } else {
        table.extend((sorted.len() as u16).to_le_bytes());
    }
    let outside = |entry: &IfdEntry| entry.data.len() as u64 > inline;
    for entry in &sorted {
        table.extend(entry.tag.to_le_bytes());
        table.extend(entry.kind.to_le_bytes());
        number(&mut table, entry.count);
        if outside(entry) {
            number(&mut table, value_at);
            value_at += (entry.data.len() as u64).next_multiple_of(2);
        } else {
            table.extend(&entry.data);
            table.extend(std::iter::repeat_n(0, inline as usize - entry.data.len()));
        }
    }
    table.extend(std::iter::repeat_n(0, tail as usize));
    out.write_all(&table)?;
    for entry in sorted.into_iter().filter(|entry| outside(entry)) {
        out.write_all(&entry.data)?;
        // Values begin on a word boundary.
        out.write_all(&[0][..entry.data.len() % 2])?;
    }
    Ok(())
}
