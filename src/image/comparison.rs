//! Comparison of a picture with its enlargement, to be looked at: both sides of the whole, no larger than a screen, and
//! details at full size where the two differ most, as JPEGs.

use super::{
    encode::{EncodeOptions, Encoder},
    error::Result,
    format::Format,
    output::{Buffer, Output},
    picture::Picture,
    resize::Resizer,
};

/// The longer side of the whole picture at most, in pixels.
const LONGEST: u32 = 2048;
const QUALITY: u8 = 85;

/// Side of a detail in pixels of the output, their quality, and how many there are.
const DETAIL: u32 = 480;
const DETAIL_QUALITY: u8 = 92;
const DETAILS: usize = 3;

/// Rows that are resized at once.
const BAND: u32 = 64;

/// Both sides of a picture.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Comparison {
    /// The input at the size of the output, or no larger than 2048 pixels a side: a JPEG.
    pub before: Vec<u8>,
    /// The output at the same size.
    pub after: Vec<u8>,
    /// Where they differ most; none of a picture of which the whole shows everything.
    pub details: Vec<Detail>,
}

/// A detail at full size: its place in pixels of the output, and both sides as JPEGs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Detail {
    /// Its left edge.
    pub x: u32,
    /// Its upper edge.
    pub y: u32,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The enlarged input.
    pub before: Vec<u8>,
    /// The output.
    pub after: Vec<u8>,
}

impl Comparison {
    /// An input and its output.
    ///
    /// # Errors
    /// Those of encoding into memory.
    pub fn new(input: &Picture, output: &Picture) -> Result<Self> {
        let (width, height) = (output.width, output.height);
        let longest = width.max(height);
        let side = |length: u32| match longest {
            ..=LONGEST => length,
            _ => ((u64::from(length) * u64::from(LONGEST) / u64::from(longest)) as u32).max(1),
        };
        let size = (side(width), side(height));
        let whole = |picture| encoded(picture, size, (0, 0, size.0, size.1), QUALITY);
        let detail = |(x, y): (u32, u32)| -> Result<Detail> {
            let (part_width, part_height) = (DETAIL.min(width - x), DETAIL.min(height - y));
            let part = (x, y, part_width, part_height);
            Ok(Detail {
                x,
                y,
                width: part_width,
                height: part_height,
                before: encoded(input, (width, height), part, DETAIL_QUALITY)?,
                after: encoded(output, (width, height), part, DETAIL_QUALITY)?,
            })
        };
        // A picture that is shown at full size has no details that are not seen already.
        let places = if longest > DETAIL * 2 { places(input, output, size)? } else { Vec::new() };
        Ok(Self {
            before: whole(input)?,
            after: whole(output)?,
            details: places.into_iter().map(detail).collect::<Result<_>>()?,
        })
    }
}

/// The JPEG of a part (left, top, width, height) of a picture that is resized to `size`.
fn encoded(
    picture: &Picture,
    size: (u32, u32),
    (left, top, width, height): (u32, u32, u32, u32),
    quality: u8,
) -> Result<Vec<u8>> {
    let rgb = picture.resizer(size.0, size.1)?;
    let alpha = picture.alpha_resizer(size.0, size.1)?;
    let buffer = Buffer::default();
    let options = EncodeOptions {
        quality,
        icc: picture.metadata.icc.clone(),
        alpha: alpha.is_some(),
        grey: picture.grey,
        ..EncodeOptions::default()
    };
    let output = Output::Buffer(buffer.clone());
    let mut writer = Encoder::create(&output, Format::Jpeg, width, height, options)?;
    for y in (top..top + height).step_by(BAND as usize) {
        let rows = y..(y + BAND).min(top + height);
        let columns = left..left + width;
        let window = |it: &Resizer<'_>| it.window(columns.clone(), rows.clone());
        writer.write_rows(&window(&rgb), alpha.as_ref().map(window).as_deref())?;
    }
    writer.finish()?;
    Ok(buffer.take())
}

/// Places (left, top) in the output of the details in which the two pictures, at this size, differ most.
fn places(input: &Picture, output: &Picture, size: (u32, u32)) -> Result<Vec<(u32, u32)>> {
    let (before, after) = (input.resizer(size.0, size.1)?, output.resizer(size.0, size.1)?);
    let scale = f64::from(output.width) / f64::from(size.0);
    let cell = ((f64::from(DETAIL) / scale).round() as u32).clamp(1, size.0.min(size.1));
    let (columns, rows) = (size.0.div_ceil(cell), size.1.div_ceil(cell));
    let mut differences = vec![0.0f64; (columns * rows) as usize];
    for row in 0..rows {
        let end = ((row + 1) * cell).min(size.1);
        for y in (row * cell..end).step_by(BAND as usize) {
            let band = y..(y + BAND).min(end);
            let (before, after) = (before.rows(band.clone()), after.rows(band));
            for (at, (a, b)) in before.iter().zip(&after).enumerate() {
                let column = at as u32 / 3 % size.0 / cell;
                differences[(row * columns + column) as usize] += f64::from((a - b).abs());
            }
        }
    }
    let mut cells: Vec<usize> = (0..differences.len()).collect();
    cells.sort_by(|&a, &b| differences[b].total_cmp(&differences[a]));
    let place = |cell_at: usize| {
        let (column, row) = (cell_at as u32 % columns, cell_at as u32 / columns);
        let start = |index: u32, length: u32| {
            let start = (f64::from(index * cell) * scale) as u32;
            start.min(length.saturating_sub(DETAIL))
        };
        (start(column, output.width), start(row, output.height))
    };
    Ok(cells.into_iter().take(DETAILS).map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_where_the_pictures_differ() {
        let (width, height) = (1200, 1000);
        let flat = Picture::from_rgb8(width, height, &vec![100; (3 * width * height) as usize]);
        let mut samples = vec![100u8; (3 * width * height) as usize];
        for y in 500..900 {
            for x in 1000..1100 {
                samples[3 * (y * width as usize + x)] = 200;
            }
        }
        let other = Picture::from_rgb8(width, height, &samples).unwrap();
        let shown = Comparison::new(&flat.unwrap(), &other).unwrap();
        assert_eq!(shown.details.len(), 3);
        let first = &shown.details[0];
        assert_eq!((first.x, first.y, first.width, first.height), (720, 480, 480, 480));
        assert!(first.after.starts_with(b"\xff\xd8\xff"));
        assert_ne!(first.before, first.after);
    }
}
