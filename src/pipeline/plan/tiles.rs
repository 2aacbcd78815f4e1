//! Tiles of the VAE: the core of a tile is kept, the padding around it is computed and discarded (docs/method.md §6).
//!
//! Padding reaches past the canvas, where picture and latent are continued by reflection. Otherwise the zero padding of
//! the VAE's convolutions would change the latents at the border, and the denoiser would leave a coloured rim there.
//! With padding of at least the receptive field the tiled result equals the untiled one, rim included.

use std::ops::Range;

use crate::canvas::latent::reflect;

/// Padding computed around a tile's core and discarded, in latent pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePadding {
    /// towards other tiles
    pub inside: usize,
    /// past the border of the canvas
    pub border: usize,
}

/// One tile along one axis, in latent pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Range that is kept.
    pub core: Range<usize>,
    /// Length of the axis.
    pub length: usize,
    /// Padding of the job's tiles.
    pub padding: TilePadding,
}

impl Span {
    /// Padding before the core.
    #[must_use]
    pub fn before(&self) -> usize {
        if self.core.start == 0 { self.padding.border } else { self.padding.inside }
    }

    /// Padding behind the core.
    #[must_use]
    pub fn after(&self) -> usize {
        if self.core.end == self.length { self.padding.border } else { self.padding.inside }
    }

    /// Computed range with `more` on each side; may reach past the canvas.
    #[must_use]
    pub fn padded_by(&self, more: usize) -> Range<isize> {
        let (before, after) = (self.before() + more, self.after() + more);
        self.core.start as isize - before as isize..(self.core.end + after) as isize
    }

    /// Computed range; may reach past the canvas on either side.
    #[must_use]
    pub fn padded(&self) -> Range<isize> {
        self.padded_by(0)
    }

    /// The core and `more` on each side of it.
    #[must_use]
    pub fn core_and(&self, more: usize) -> Range<isize> {
        self.core.start as isize - more as isize..(self.core.end + more) as isize
    }

    /// The two halves of the core, padded where they meet.
    #[must_use]
    pub fn halves(&self) -> [Self; 2] {
        let middle = self.core.start + self.core.len() / 2;
        [self.core.start..middle, middle..self.core.end].map(|core| Self {
            core,
            length: self.length,
            padding: self.padding,
        })
    }
}

/// Cuts an axis of `length` latent pixels into cores of at most `core` and nearly equal length.
#[must_use]
pub fn spans(length: usize, core: usize, padding: TilePadding) -> Vec<Span> {
    let count = length.div_ceil(core.max(1)).max(1);
    (0..count)
        .map(|index| {
            let core = index * length / count..(index + 1) * length / count;
            Span { core, length, padding }
        })
        .collect()
}

/// Index within `length` of position `at` on an axis continued by reflection (numpy's
/// `pad(mode="reflect")`).
#[must_use]
pub fn mirrored(at: isize, length: usize) -> usize {
    reflect(at.unsigned_abs(), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cores_cover_the_axis_once(
            length in 1usize..2000,
            core in 1usize..300,
            inside in 0usize..60,
            border in 0usize..60,
        ) {
            let spans = spans(length, core, TilePadding { inside, border });
            let last = spans.len() - 1;
            let mut next = 0;
            for (index, span) in spans.iter().enumerate() {
                prop_assert_eq!(span.core.start, next);
                prop_assert!(!span.core.is_empty() && span.core.len() <= core);
                let pads = [index == 0, index == last].map(|end| if end { border } else { inside });
                prop_assert_eq!([span.before(), span.after()], pads);
                prop_assert_eq!(span.padded().len(), span.core.len() + pads[0] + pads[1]);
                next = span.core.end;
            }
            prop_assert_eq!(next, length);
        }
    }

    #[test]
    fn an_axis_is_mirrored_about_its_first_and_last_pixel() {
        let row: Vec<usize> = (-3..7).map(|at| mirrored(at, 4)).collect();
        assert_eq!(row, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        assert_eq!((-5..5).map(|at| mirrored(at, 1)).collect::<Vec<_>>(), [0; 10]);
    }
}
