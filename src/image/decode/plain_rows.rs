//! Rows of formats that hold samples one behind the other: bands, and what becomes of a picture that ends early.

use std::io::{self, ErrorKind};

use super::header::Header;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::plane::band_rows;

/// Passes on the rows that `read` appends one by one, in [0, 1]. Where they end early, and that is allowed, the last one
/// stands for the others. An error of the kind [`ErrorKind::InvalidData`] is told in its own words.
///
/// # Errors
/// Those of `take`; pixels that are damaged or missing.
pub(super) fn pass_rows(
    name: &str,
    format: Format,
    header: &Header,
    allow_truncated: bool,
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
    mut read: impl FnMut(&mut Vec<f32>) -> io::Result<()>,
) -> Result<Vec<Warning>> {
    let (height, row) = (header.height as usize, header.width as usize * header.layout.channels());
    let band = band_rows(header.width).min(height) * row;
    let mut samples = Vec::with_capacity(band);
    let mut warnings = Vec::new();
    let mut last = Vec::new();
    let mut rows_read = 0;
    while rows_read < height {
        match read(&mut samples) {
            Ok(()) => rows_read += 1,
            Err(error) => {
                let what = match error.kind() {
                    ErrorKind::UnexpectedEof => "truncated".to_owned(),
                    ErrorKind::InvalidData => error.to_string(),
                    _ => return Err(ImageError::Read { name: name.to_owned(), source: error }),
                };
                if !allow_truncated || rows_read == 0 {
                    let reason = format!("{what}, {rows_read} of {height} rows are there");
                    return Err(ImageError::unreadable(name, format, reason));
                }
                // Of the row that broke, nothing is kept.
                samples.truncate(samples.len() / row * row);
                warnings
                    .push(Warning::Truncated { rows_read: rows_read as u32, rows: height as u32 });
                break;
            }
        }
        if samples.len() >= band || rows_read == height {
            take(&samples)?;
            last.clear();
            last.extend_from_slice(&samples[samples.len() - row..]);
            samples.clear();
        }
    }
    if !warnings.is_empty() {
        if !samples.is_empty() {
            take(&samples)?;
            last = samples.split_off(samples.len() - row);
        }
        for _ in rows_read..height {
            take(&last)?;
        }
    }
    Ok(warnings)
}
