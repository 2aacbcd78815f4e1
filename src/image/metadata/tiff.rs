//! Metadata of TIFF: entries of a directory, read as bytes and only where they are wanted. (The `tiff` crate reads a
//! list of bytes as values of 32 bytes each, and reserves a stated size before it sees it.)

use std::io::{Read, Seek};

use super::budget::Budget;
use super::ifd::{BOUND_NOTE, Directory, Exif, LONG, Reader, is_bound, tag};
use super::text::MAX_TEXTS;
use super::{Metadata, photoshop, resolution, xmp};
use crate::image::error::{Result, Warning};

/// Metadata of the picture in directory number `page` (0 is the first) of a TIFF. What describes the whole file
/// stands in the first directory, so that is asked for what the page's own does not say.
///
/// # Errors
/// A colour profile beyond the budget.
pub(crate) fn read<F: Read + Seek>(
    file: &mut F,
    page: usize,
    budget: &mut Budget<'_>,
) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let Some(mut reader) = Reader::new(file, budget.left()) else {
        return Ok(metadata);
    };
    let before = reader.left();
    let first = reader.directory(reader.first());
    let mut own = reader.directory(reader.first());
    for _ in 0..page {
        own = reader.directory(own.next);
    }
    for directory in [&own, &first] {
        if metadata.icc.is_none()
            && let Some(place) = directory.find(tag::ICC_PROFILE)
        {
            match reader.value(&place) {
                Some(profile) => metadata.icc = Some(profile.data),
                None if place.length > budget.left() => return Err(budget.profile_too_large()),
                None => {
                    let why = "the profile is damaged".to_owned();
                    budget.warn(Warning::ProfileDropped(why));
                }
            }
        }
        if metadata.dpi.is_none() {
            metadata.dpi = resolution(&mut reader, directory);
        }
        if metadata.xmp.is_none()
            && let Some(place) = directory.find(tag::XMP)
        {
            metadata.xmp = reader.value(&place).map(|entry| entry.data);
            if metadata.xmp.is_none() && place.length > budget.left() {
                budget.too_large("XMP");
            } else if metadata.xmp.is_none() {
                budget.warn(Warning::MetadataDamaged("XMP"));
            }
        }
    }
    metadata.photoshop = resources(&mut reader, &first, budget);
    // The page's orientation goes before the file's.
    let mut exif = Exif::read(&mut reader, &first, Exif::describes);
    if page > 0 {
        exif.ifd0.retain(|entry| entry.tag != tag::ORIENTATION);
        exif.ifd0.extend(reader.value_of(&own, tag::ORIENTATION));
    }
    let count = exif.exif.len();
    exif.exif.retain(|entry| !is_bound(entry));
    if exif.exif.len() < count {
        budget.warn(Warning::LeftOut(BOUND_NOTE));
    }
    if reader.exceeded {
        budget.too_large("a part of the metadata");
    }
    budget.spend(before - reader.left());
    if !exif.is_empty() {
        metadata.exif = Some(exif.into_bytes());
    }
    if let Some(packet) = metadata.xmp.take() {
        let (packet, texts) = xmp::take_texts(packet, MAX_TEXTS);
        metadata.xmp = Some(packet);
        metadata.texts = texts;
    }
    Ok(metadata)
}

/// Photoshop's resources and IPTC's records, which may stand by themselves.
fn resources<R: Read + Seek>(
    reader: &mut Reader<R>,
    directory: &Directory,
    budget: &mut Budget<'_>,
) -> Option<Vec<u8>> {
    let mut block = |reader: &mut Reader<R>, tag| {
        let place = directory.find(tag)?;
        let mut entry = reader.value(&place);
        if entry.is_none() {
            budget.warn(Warning::MetadataDamaged("IPTC"));
        }
        // Bytes in the order of the file, whatever kind of number they are said to be.
        if let Some(entry) = entry.as_mut().filter(|entry| !reader.little && entry.kind == LONG) {
            entry.data.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        }
        entry.map(|entry| entry.data)
    };
    let kept = block(reader, tag::PHOTOSHOP).and_then(|block| photoshop::kept(&block));
    if kept.as_deref().is_some_and(|kept| photoshop::iptc(kept).is_some()) {
        return kept;
    }
    let records = block(reader, tag::IPTC).and_then(|records| photoshop::of_iptc(&records));
    match (kept, records) {
        (Some(kept), Some(records)) => Some([kept, records].concat()),
        (kept, records) => kept.or(records),
    }
}

/// The packet of a TIFF.
pub(crate) fn packet<F: Read + Seek>(file: &mut F, budget: &Budget<'_>) -> Option<Vec<u8>> {
    let mut reader = Reader::new(file, budget.left())?;
    let first = reader.directory(reader.first());
    reader.value_of(&first, tag::XMP).map(|entry| entry.data)
}
