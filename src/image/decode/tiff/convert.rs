//! Conversion of a TIFF's rows from bytes to channels in [0, 1], in whichever planes they come.

use super::layout::Layout;
use super::samples::{Colour, Format, Range, whole};

/// Numbers of a row, pixel after pixel, from the bytes of its planes.
pub(super) fn numbers(layout: &Layout, planes: &[Vec<u8>], out: &mut Vec<f64>) {
    let (kind, samples) = (layout.kind, layout.samples);
    if let [row] = planes {
        return kind.numbers(row, layout.width * samples, out);
    }
    let start = out.len();
    out.resize(start + layout.width * samples, 0.0);
    let mut plane = Vec::new();
    for (at, row) in planes.iter().enumerate() {
        plane.clear();
        kind.numbers(row, layout.width, &mut plane);
        for (out, &v) in out[start + at..].iter_mut().step_by(samples).zip(&plane) {
            *out = v;
        }
    }
}

/// Ranges of a picture's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub colour: Range,
    pub alpha: Range,
}

/// A converter of rows of bytes to channels in [0, 1].
pub(super) struct Converter<'a> {
    layout: &'a Layout,
    ranges: Ranges,
    numbers: Vec<f64>,
}

impl<'a> Converter<'a> {
    pub(super) fn new(layout: &'a Layout, ranges: Ranges) -> Self {
        Self { layout, ranges, numbers: Vec::new() }
    }

    /// Appends the channels of a row.
    pub(super) fn row(&mut self, planes: &[Vec<u8>], out: &mut Vec<f32>) {
        let layout = self.layout;
        let (kind, samples) = (layout.kind, layout.colour.samples());
        let as_they_are = matches!(layout.colour, Colour::BlackIsZero | Colour::Rgb | Colour::Cmyk);
        if let [row] = planes
            && as_they_are
            && layout.samples == samples
            && kind.format == Format::Unsigned
        {
            // Nearly every picture.
            let count = layout.width * samples;
            match kind.bits {
                8 => return out.extend(row.iter().take(count).map(|&v| f32::from(v) / 255.0)),
                16 => {
                    let pairs = row.chunks_exact(2).take(count);
                    let word = |b: &[u8]| whole(b, kind.little) as f32 / 65535.0;
                    return out.extend(pairs.map(word));
                }
                _ => {}
            }
        }
        self.numbers.clear();
        numbers(layout, planes, &mut self.numbers);
        for pixel in self.numbers.chunks_exact(layout.samples) {
            let start = out.len();
            layout.colour.channels(&pixel[..samples], kind, self.ranges.colour, out);
            let Some((at, associated)) = layout.alpha else { continue };
            let alpha = self.ranges.alpha.unit(pixel[at]);
            if associated && alpha > 0.0 {
                let limit = self.ranges.colour.limit() as f32;
                out[start..].iter_mut().for_each(|v| *v = (*v / alpha).min(limit));
            }
            out.push(alpha);
        }
    }
}
