//! Pixels of decoders that give a picture as a whole, and what there is of one that ends early.

use std::error::Error;
use std::io;
use std::ops::Range;

use image::{ImageDecoder, ImageError, ImageResult};

use crate::image::error::Warning;

/// Opens the decoder of the same picture once more.
pub(super) type Again<'a> = &'a dyn Fn() -> ImageResult<Box<dyn ImageDecoder>>;

/// Decodes a picture into `data`, which has just room for it, and returns which of its rows are whole: all, or where the
/// decoder stops early and `again` is given, those that it had written by then.
///
/// # Errors
/// Those of the decoder; where `again` is given, only if no row is whole.
pub(super) fn decode(
    decoder: Box<dyn ImageDecoder>,
    again: Option<Again<'_>>,
    data: &mut [u8],
) -> ImageResult<Range<usize>> {
    let height = decoder.dimensions().1 as usize;
    let row = data.len() / height.max(1);
    data.fill(0);
    let error = match decoder.read_image_boxed(data) {
        Ok(()) => return Ok(0..height),
        Err(error) => error,
    };
    let Some(again) = again else { return Err(error) };
    // A decoder does not say how far it came. What it did not write is what was there before: zeros, or these.
    let mut other = vec![u8::MAX; data.len()];
    let _ends_there_again = again()?.read_image_boxed(&mut other);
    let is_whole = |y: &usize| data[y * row..][..row] == other[y * row..][..row];
    let Some(first) = (0..height).find(is_whole) else { return Err(error) };
    let count = (first..height).take_while(is_whole).count();
    Ok(first..first + count)
}

/// Puts the nearest row that is whole into each that is not.
pub(super) fn complete<T: Copy>(data: &mut [T], whole: Range<usize>, row: usize) -> Vec<Warning> {
    let rows = data.len() / row;
    if whole == (0..rows) {
        return Vec::new();
    }
    for y in (0..whole.start).chain(whole.end..rows) {
        let from = if y < whole.start { whole.start } else { whole.end - 1 };
        data.copy_within(from * row..(from + 1) * row, y * row);
    }
    vec![Warning::Truncated { rows_read: whole.len() as u32, rows: rows as u32 }]
}

/// `true` if the file ended too early.
pub(super) fn is_of_the_end(error: &ImageError) -> bool {
    fn is_end(error: &(dyn Error + 'static)) -> bool {
        let of_io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        of_io == Some(io::ErrorKind::UnexpectedEof) || error.source().is_some_and(is_end)
    }
    match error {
        // It is passed over among its own sources.
        ImageError::IoError(error) => is_end(error),
        error => is_end(error),
    }
}
