//! Sizes: from the input picture to the output picture, and from that to the latent that covers it.
//!
//! The output has exactly the size asked for. The canvas covers it and is rounded up (whole VAE cells, and
//! an even number of them per side, as the Haar blocks and the denoiser's strides need); the picture is padded
//! by reflection before encoding and cropped after decoding, never resized to fit.

use super::error::CanvasError;

/// Output size as requested by the user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeSpec {
    /// Both sides times this factor, which may be any positive number.
    Scale(f64),
    /// Exactly this width and height in pixels, whatever the aspect ratio of the input.
    Exact(u32, u32),
    /// The longer side in pixels; the shorter keeps the aspect ratio.
    LongEdge(u32),
}

/// Output `(width, height)` in pixels for an input of `width × height` pixels.
///
/// Rounding is half up, and no side is less than 1. A scale is read as the decimal number the user typed:
/// a product within a billionth below a half counts as the half, so 10 × 1.15 = 11.5 gives 12 although the
/// binary fraction nearest to 1.15 is smaller than it.
///
/// # Errors
/// [`CanvasError::EmptySize`] for a side of zero, [`CanvasError::Scale`] for a scale that is not a positive
/// number, [`CanvasError::TooLarge`] for a side beyond `u32`.
pub fn target_size(width: u32, height: u32, spec: SizeSpec) -> Result<(u32, u32), CanvasError> {
    if width == 0 || height == 0 {
        return Err(CanvasError::EmptySize { width, height });
    }
    match spec {
        SizeSpec::Scale(scale) => {
            if !scale.is_finite() || scale <= 0.0 {
                return Err(CanvasError::Scale { scale });
            }
            let side = |n: u32| {
                let exact = f64::from(n) * scale;
                let rounded = (exact + 0.5 + 1e-9).floor().max(1.0);
                if rounded > f64::from(u32::MAX) {
                    return Err(CanvasError::TooLarge {
                        what: format!("{width} x {height} pixels times {scale:e}"),
                    });
                }
                Ok(rounded as u32)
            };
            Ok((side(width)?, side(height)?))
        }
        SizeSpec::Exact(w, h) => {
            if w == 0 || h == 0 {
                return Err(CanvasError::EmptySize { width: w, height: h });
            }
            Ok((w, h))
        }
        SizeSpec::LongEdge(long) => {
            if long == 0 {
                return Err(CanvasError::EmptySize { width: 0, height: 0 });
            }
            let edge = u64::from(width.max(height));
            // Never above `long`, so it fits again; u128 because 2·long·n may pass 64 bits.
            let side = |n: u32| {
                let twice = 2 * u128::from(long) * u128::from(n) + u128::from(edge);
                ((twice / (2 * u128::from(edge))) as u32).max(1)
            };
            Ok((side(width), side(height)))
        }
    }
}

/// The canvas that covers a picture, and the picture's place on it (its upper left corner).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanvasSize {
    /// Rows of the latent; even.
    pub latent_height: usize,
    /// Columns of the latent; even.
    pub latent_width: usize,
    /// Rows of the picture after padding: `latent_height × factor`.
    pub padded_height: usize,
    /// Columns of the picture after padding: `latent_width × factor`.
    pub padded_width: usize,
    /// Rows of the picture itself: what to crop to after decoding.
    pub height: usize,
    /// Columns of the picture itself: what to crop to after decoding.
    pub width: usize,
}

impl CanvasSize {
    /// The canvas for `width × height` pixels under a VAE that reduces each side by `factor`:
    /// `⌈side / factor⌉`, rounded up to an even number. Padding goes to the right and the bottom.
    ///
    /// # Errors
    /// [`CanvasError::EmptySize`] for a side of zero, [`CanvasError::Factor`] for a factor of zero,
    /// [`CanvasError::TooLarge`] for a padded side beyond the address space.
    pub fn for_pixels(width: u32, height: u32, factor: usize) -> Result<Self, CanvasError> {
        if width == 0 || height == 0 {
            return Err(CanvasError::EmptySize { width, height });
        }
        if factor == 0 {
            return Err(CanvasError::Factor);
        }
        let too_large = || CanvasError::TooLarge {
            what: format!("{width} x {height} pixels under a VAE factor of {factor}"),
        };
        let cells = |side: u32| {
            let side = usize::try_from(side).ok()?;
            let latent = side.div_ceil(factor).checked_next_multiple_of(2)?;
            Some((side, latent, latent.checked_mul(factor)?))
        };
        let (width, latent_width, padded_width) = cells(width).ok_or_else(too_large)?;
        let (height, latent_height, padded_height) = cells(height).ok_or_else(too_large)?;
        Ok(Self { latent_height, latent_width, padded_height, padded_width, height, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_round_half_up_as_the_decimal_the_user_typed() {
        let cases = [
            ((1, 1), 1.1, (1, 1)),
            ((5, 3), 1.1, (6, 3)),      // 5.5 -> 6, 3.3 -> 3
            ((10, 30), 1.15, (12, 35)), // 11.5 -> 12, 34.5 -> 35
            ((5, 7), 3.7, (19, 26)),    // 18.5 -> 19, 25.9 -> 26
            ((333, 1), 2.0, (666, 2)),
            ((641, 427), 4.0, (2564, 1708)),
            ((3, 3), 0.1, (1, 1)), // 0.3 -> 0 -> 1
            ((1000, 10), 0.25, (250, 3)),
        ];
        for ((w, h), scale, expected) in cases {
            assert_eq!(
                target_size(w, h, SizeSpec::Scale(scale)).unwrap(),
                expected,
                "{w} x {h} times {scale}"
            );
        }
    }

    #[test]
    fn the_long_edge_is_exact_and_the_short_one_keeps_the_aspect_ratio() {
        assert_eq!(target_size(1000, 500, SizeSpec::LongEdge(4096)).unwrap(), (4096, 2048));
        assert_eq!(target_size(500, 1000, SizeSpec::LongEdge(4095)).unwrap(), (2048, 4095)); // 2047.5
        assert_eq!(target_size(10_000, 1, SizeSpec::LongEdge(100)).unwrap(), (100, 1));
        assert_eq!(
            target_size(u32::MAX, u32::MAX, SizeSpec::LongEdge(u32::MAX)).unwrap(),
            (u32::MAX, u32::MAX)
        );
    }

    #[test]
    fn sizes_without_sense_are_errors_that_name_the_number() {
        assert!(matches!(
            target_size(0, 4, SizeSpec::Scale(2.0)),
            Err(CanvasError::EmptySize { width: 0, height: 4 })
        ));
        for scale in [0.0, -2.0, f64::NAN, f64::INFINITY] {
            assert!(
                matches!(target_size(4, 4, SizeSpec::Scale(scale)), Err(CanvasError::Scale { .. })),
                "{scale}"
            );
        }
        assert!(matches!(
            target_size(4, 4, SizeSpec::Exact(0, 9)),
            Err(CanvasError::EmptySize { .. })
        ));
        assert!(matches!(
            target_size(4, 4, SizeSpec::LongEdge(0)),
            Err(CanvasError::EmptySize { .. })
        ));
        assert!(matches!(
            target_size(1 << 31, 1, SizeSpec::Scale(4.0)),
            Err(CanvasError::TooLarge { .. })
        ));
        assert!(matches!(CanvasSize::for_pixels(8, 8, 0), Err(CanvasError::Factor)));
    }

    #[test]
    fn the_canvas_covers_the_picture_with_an_even_number_of_cells() {
        let size = CanvasSize::for_pixels(2049, 1, 8).unwrap();
        assert_eq!((size.latent_width, size.latent_height), (258, 2)); // ceil(256.125) = 257 -> 258
        assert_eq!((size.padded_width, size.padded_height), (2064, 16));
        assert_eq!((size.width, size.height), (2049, 1));
        let exact = CanvasSize::for_pixels(4096, 4096, 8).unwrap();
        assert_eq!((exact.latent_width, exact.padded_width), (512, 4096));
    }
}
