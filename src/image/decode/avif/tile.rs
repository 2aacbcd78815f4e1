//! A coded picture of an AVIF: decoded, and put into its place in the whole as grey or as colours.
//! Source: ITU-T H.273, 8.3 (matrices and ranges).

use re_rav1d::dav1d::{
    Decoder, Error, Picture, PixelLayout, PlanarImageComponent, Settings, pixel,
};

use super::container::{Numbers, Refusal};
use crate::image::picture::MAX_PIXELS;

/// Times that the decoder is asked for the picture of data that it has taken.
const ASKED: usize = 16;

/// The picture that tiles are put into.
pub(super) struct Pixels<'a> {
    pub data: &'a mut [u16],
    pub width: usize,
    pub height: usize,
    pub channels: usize,
}

/// A decoded tile.
pub(super) struct Tile {
    picture: Picture,
    /// The largest value of a sample.
    highest: f32,
}

/// Samples of one plane.
struct Plane {
    bytes: re_rav1d::dav1d::Plane,
    /// Bytes of a row.
    stride: usize,
    is_wide: bool,
}

impl Plane {
    fn at(&self, x: usize, y: usize) -> f32 {
        let at = y * self.stride + if self.is_wide { 2 * x } else { x };
        match self.is_wide {
            true => f32::from(u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]])),
            false => f32::from(self.bytes[at]),
        }
    }
}

impl Tile {
    /// Decodes a still picture.
    pub fn decode(data: Vec<u8>) -> Result<Self, Refusal> {
        let damaged = |_: Error| Refusal::Damaged("damaged pixels");
        let mut settings = Settings::new();
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_frame_size_limit(MAX_PIXELS as u32);
        let mut decoder = Decoder::with_settings(&settings).map_err(damaged)?;
        if data.is_empty() {
            return Err(Refusal::Damaged("a picture without data"));
        }
        let mut sent = decoder.send_data(data, None, None, None);
        for _ in 0..ASKED {
            match decoder.get_picture() {
                Ok(picture) => {
                    let bits = picture.bits_per_component().map_or(8, |bits| bits.0);
                    let highest = ((1u32 << bits) - 1) as f32;
                    return Ok(Self { picture, highest });
                }
                Err(Error::Again) => {}
                Err(error) => return Err(damaged(error)),
            }
            sent = match sent {
                Ok(()) => Ok(()),
                Err(Error::Again) => decoder.send_pending_data(),
                Err(error) => return Err(damaged(error)),
            };
        }
        Err(Refusal::Damaged("a picture without pixels"))
    }

    pub fn size(&self) -> (usize, usize) {
        (self.picture.width() as usize, self.picture.height() as usize)
    }

    /// Samples go from 0 to the highest number: the file's word goes before the picture's.
    pub fn full_range(&self, numbers: Option<Numbers>) -> bool {
        let own = self.picture.color_range() == pixel::YUVRange::Full;
        numbers.map_or(own, |numbers| numbers.full_range)
    }

    fn plane(&self, component: PlanarImageComponent) -> Plane {
        Plane {
            stride: self.picture.stride(component) as usize,
            bytes: self.picture.plane(component),
            is_wide: self.picture.bit_depth() > 8,
        }
    }

    /// Factor and offset that bring luma and chroma to 0 to 1 and −½ to ½.
    fn scales(&self, full_range: bool) -> ([f32; 2], [f32; 2]) {
        let middle = (self.highest + 1.0) / 2.0;
        if full_range {
            return ([1.0 / self.highest, 0.0], [1.0 / self.highest, middle]);
        }
        let unit = (self.highest + 1.0) / 256.0;
        ([1.0 / (219.0 * unit), 16.0 * unit], [1.0 / (224.0 * unit), middle])
    }

    /// Puts the luma into one channel of the picture, with its first pixel at `(left, top)`, in so many steps.
    ///
    /// # Errors
    /// None; the signature is that of [`colours`](Self::colours).
    pub fn grey(
        &self,
        pixels: Pixels<'_>,
        (left, top): (usize, usize),
        channel: usize,
        steps: f32,
        full_range: bool,
    ) -> Result<(), Refusal> {
        let luma = self.plane(PlanarImageComponent::Y);
        let ([factor, black], _) = self.scales(full_range);
        let (width, height) = self.size();
        for y in 0..height.min(pixels.height.saturating_sub(top)) {
            for x in 0..width.min(pixels.width.saturating_sub(left)) {
                let at = ((top + y) * pixels.width + left + x) * pixels.channels + channel;
                pixels.data[at] = word((luma.at(x, y) - black) * factor, steps);
            }
        }
        Ok(())
    }

    /// Puts red, green and blue into the first channels of the picture.
    ///
    /// # Errors
    /// A matrix that is not known.
    pub fn colours(
        &self,
        pixels: Pixels<'_>,
        (left, top): (usize, usize),
        steps: f32,
        numbers: Option<Numbers>,
    ) -> Result<(), Refusal> {
        let layout = self.picture.pixel_layout();
        let (across, down) = match layout {
            PixelLayout::I400 => return Err(Refusal::Damaged("a tile without colours")),
            PixelLayout::I420 => (2, 2),
            PixelLayout::I422 => (2, 1),
            PixelLayout::I444 => (1, 1),
        };
        let matrix = numbers.map_or(2, |numbers| numbers.matrix);
        // Shares of red and blue in the luma; of green, blue and red as they are there are none.
        let shares = match matrix {
            0 if layout == PixelLayout::I444 => None,
            1 => Some((0.2126, 0.0722)),
            2 | 5 | 6 => Some((0.299, 0.114)),
            4 => Some((0.3, 0.11)),
            7 => Some((0.212, 0.087)),
            9 => Some((0.2627, 0.0593)),
            _ => return Err(Refusal::Unsupported("a matrix of colours that is rare")),
        };
        let full_range = self.full_range(numbers);
        let ([y_factor, black], [c_factor, middle]) = self.scales(full_range);
        let [luma, cb, cr] =
            [PlanarImageComponent::Y, PlanarImageComponent::U, PlanarImageComponent::V]
                .map(|component| self.plane(component));
        let (width, height) = self.size();
        let (c_width, c_height) = (width.div_ceil(across), height.div_ceil(down));
        for y in 0..height.min(pixels.height.saturating_sub(top)) {
            let (row, next_row, below) = between(y, down, c_height);
            for x in 0..width.min(pixels.width.saturating_sub(left)) {
                let (column, next, right) = between(x, across, c_width);
                let chroma = |plane: &Plane| {
                    let of_row = |row: usize| {
                        plane.at(column, row) * (1.0 - right) + plane.at(next, row) * right
                    };
                    of_row(row) * (1.0 - below) + of_row(next_row) * below
                };
                let (luma, cb, cr) = (luma.at(x, y), chroma(&cb), chroma(&cr));
                let rgb = match shares {
                    // Green, blue, red.
                    None => [cr, luma, cb].map(|v| (v - black) * y_factor),
                    Some((kr, kb)) => {
                        let luma = (luma - black) * y_factor;
                        let (cb, cr) = ((cb - middle) * c_factor, (cr - middle) * c_factor);
                        let red = luma + 2.0 * (1.0 - kr) * cr;
                        let blue = luma + 2.0 * (1.0 - kb) * cb;
                        [red, (luma - kr * red - kb * blue) / (1.0 - kr - kb), blue]
                    }
                };
                let at = ((top + y) * pixels.width + left + x) * pixels.channels;
                for (to, value) in pixels.data[at..at + 3].iter_mut().zip(rgb) {
                    *to = word(value, steps);
                }
            }
        }
        Ok(())
    }
}

/// The samples before and after a pixel in a plane with one sample for `apart` pixels, and the share of the second.
fn between(at: usize, apart: usize, count: usize) -> (usize, usize, f32) {
    if apart == 1 {
        return (at, at, 0.0);
    }
    // A sample lies in the middle of its two pixels.
    let place = ((at as f32 + 0.5) / 2.0 - 0.5).max(0.0);
    let first = place as usize;
    (first.min(count - 1), (first + 1).min(count - 1), place - first as f32)
}

/// A value in [0, 1], in so many steps, as a number of 16 bits.
fn word(value: f32, steps: f32) -> u16 {
    let step = (value.clamp(0.0, 1.0) * steps).round();
    (step * (65_535.0 / steps)) as u16
}
