//! Conversion of working-space floats to the samples of a file: numbers, background, grey, rounding, byte order.

use half::f16;
use rayon::prelude::*;

use super::numbers::{Cut, Numbers};
use super::shape::{Depth, SampleShape};
use crate::image::colour::srgb_encode;

/// Rec. 709 luma weights; they sum to 1, so that equal channels are unchanged.
const LUMA: [f32; 3] = [0.2126, 0.7152, 0.0722];

pub(super) struct Quantizer {
    pub shape: SampleShape,
    pub numbers: Numbers,
    /// Light above white, which numbers up to 1 leave out.
    pub cut: Option<Cut>,
    /// Composite over white and drop the alpha.
    pub flatten: bool,
    /// Byte order of samples of several bytes.
    pub big_endian: bool,
}

impl Quantizer {
    /// Converts `rgb`, `[n, width, 3]`, and `alpha`, `[n, width]`, to rows of file samples.
    pub fn rows(&self, rgb: &[f32], alpha: Option<&[f32]>) -> Vec<u8> {
        let width = self.shape.width as usize;
        let mut out = vec![0u8; rgb.len() / (3 * width) * self.shape.row_bytes()];
        out.par_chunks_mut(self.shape.row_bytes())
            .zip(rgb.par_chunks(3 * width))
            .enumerate()
            .for_each(|(y, (out, rgb))| {
                let alpha = alpha.map(|a| &a[y * width..(y + 1) * width]);
                let mut rgb = rgb.to_vec();
                if let Some(cut) = self.cut {
                    for v in &mut rgb {
                        *v = srgb_encode(cut.light((*v).into()).min(1.0)) as f32;
                    }
                }
                if let (Some(alpha), true) = (alpha, self.flatten) {
                    for (pixel, a) in rgb.chunks_exact_mut(3).zip(alpha) {
                        for v in pixel {
                            *v = 1.0 + (*v - 1.0) * a.clamp(0.0, 1.0);
                        }
                    }
                }
                match &self.numbers {
                    Numbers::Encoded(colour) => colour.to_file(&mut rgb),
                    Numbers::Srgb(Some(to_srgb)) => to_srgb.convert(&mut rgb),
                    Numbers::Srgb(None) => {}
                    Numbers::Above(colour, shoulder) => colour.leave_shoulder(&mut rgb, *shoulder),
                    Numbers::Light(light) => {
                        rgb.iter_mut().for_each(|v| *v = light.light((*v).into()) as f32);
                        if let Some(alpha) = alpha {
                            for (pixel, a) in rgb.chunks_exact_mut(3).zip(alpha) {
                                pixel.iter_mut().for_each(|v| *v *= a.clamp(0.0, 1.0));
                            }
                        }
                    }
                }
                self.row(&rgb, alpha.filter(|_| self.shape.alpha), out);
            });
        out
    }

    fn row(&self, rgb: &[f32], alpha: Option<&[f32]>, out: &mut [u8]) {
        let (channels, depth) = (self.shape.channels(), self.shape.depth);
        let size = depth.bytes();
        for (x, (pixel, out)) in
            rgb.chunks_exact(3).zip(out.chunks_exact_mut(channels * size)).enumerate()
        {
            let mut samples = [0.0f32; 4];
            let colours = if self.shape.grey {
                samples[0] = pixel.iter().zip(LUMA).map(|(v, w)| v * w).sum();
                1
            } else {
                samples[..3].copy_from_slice(pixel);
                3
            };
            if let Some(alpha) = alpha {
                samples[colours] = alpha[x];
            }
            for (out, v) in out.chunks_exact_mut(size).zip(samples) {
                // A cast from float cuts to the type's range and makes NaN 0.
                match depth {
                    Depth::Eight => out[0] = (v * 255.0).round() as u8,
                    Depth::Sixteen => self.put((v * 65535.0).round() as u16, out),
                    // What is brighter than its greatest number would be infinite.
                    Depth::Half => self.put(f16::from_f32(v.min(f16::MAX.to_f32())).to_bits(), out),
                    Depth::Float => out.copy_from_slice(&v.to_le_bytes()),
                }
            }
        }
    }

    fn put(&self, v: u16, out: &mut [u8]) {
        out.copy_from_slice(&if self.big_endian { v.to_be_bytes() } else { v.to_le_bytes() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::colour::Colour;

    fn quantizer(grey: bool, alpha: bool, sixteen: bool) -> Quantizer {
        let depth = if sixteen { Depth::Sixteen } else { Depth::Eight };
        Quantizer {
            shape: SampleShape { width: 1, height: 1, grey, alpha, depth },
            numbers: Numbers::Encoded(Colour::Same),
            cut: None,
            flatten: false,
            big_endian: true,
        }
    }

    #[test]
    fn values_are_rounded_to_the_nearest_sample_and_cut_to_the_range() {
        let q = quantizer(false, false, false);
        assert_eq!(q.rows(&[0.5, -1.0, 2.0], None), [128, 0, 255]);
        assert_eq!(q.rows(&[0.4999 / 255.0, 0.5001 / 255.0, f32::NAN], None), [0, 1, 0]);
        let q = quantizer(false, false, true);
        assert_eq!(q.rows(&[1.0, 0.0, 258.0 / 65535.0], None), [255, 255, 0, 0, 1, 2]);
    }

    #[test]
    fn every_grey_sample_of_sixteen_bits_survives_becoming_three_channels_and_one_again() {
        let q = quantizer(true, false, true);
        for v in 0..=u16::MAX {
            let rgb = [f32::from(v) / 65535.0; 3];
            assert_eq!(q.rows(&rgb, None), v.to_be_bytes());
        }
    }

    #[test]
    fn flattening_puts_transparent_pixels_on_white() {
        let mut q = quantizer(false, false, false);
        q.flatten = true;
        assert_eq!(q.rows(&[0.2, 0.4, 0.6], Some(&[0.0])), [255; 3]);
        assert_eq!(q.rows(&[0.2, 0.4, 0.6], Some(&[0.5])), [153, 179, 204]);
        assert_eq!(q.rows(&[0.2, 0.4, 0.6], Some(&[1.0])), [51, 102, 153]);
    }
}
