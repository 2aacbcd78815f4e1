//! Tiles of the VAE: the core of a tile is kept, the padding around it is computed and discarded (docs/method.md §6).
//!
//! A tile ends where the canvas ends, with the zero padding of the network's own convolutions, as the whole canvas
//! does. So a single tile is what diffusers computes, and with padding of at least the receptive field tiles equal it
//! everywhere.

use std::ops::Range;

/// One tile along one axis, in latent pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Range that is kept.
    pub core: Range<usize>,
    /// Length of the axis.
    pub length: usize,
    /// Padding towards other tiles, computed around the core and discarded.
    pub padding: usize,
}

impl Span {
    /// True if the core is the whole axis.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.core == (0..self.length)
    }

    /// Computed range: the core and its padding, as far as the axis reaches.
    #[must_use]
    pub fn padded(&self) -> Range<usize> {
        self.widened(self.padding)
    }

    /// Latent pixels that are computed before the core.
    #[must_use]
    pub fn before(&self) -> usize {
        self.core.start - self.padded().start
    }

    /// The tile with `rim` more latent pixels kept on each side, as far as the axis reaches.
    #[must_use]
    pub fn with_rim(&self, rim: usize) -> Self {
        Self { core: self.widened(rim), ..*self }
    }

    fn widened(&self, more: usize) -> Range<usize> {
        self.core.start.saturating_sub(more)..(self.core.end + more).min(self.length)
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
pub fn spans(length: usize, core: usize, padding: usize) -> Vec<Span> {
    let count = length.div_ceil(core.max(1)).max(1);
    (0..count)
        .map(|index| {
            let core = index * length / count..(index + 1) * length / count;
            Span { core, length, padding }
        })
        .collect()
}

/// Area in latent pixels of the largest of these tiles with its padding.
#[must_use]
pub fn largest_area(rows: &[Span], columns: &[Span]) -> usize {
    let longest = |spans: &[Span]| spans.iter().map(|span| span.padded().len()).max().unwrap_or(0);
    longest(rows) * longest(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cores_cover_the_axis_once_and_tiles_end_with_it(
            length in 1usize..2000,
            core in 1usize..300,
            padding in 0usize..60,
            rim in 0usize..9,
        ) {
            let spans = spans(length, core, padding);
            let mut next = 0;
            for span in &spans {
                prop_assert_eq!(span.core.start, next);
                prop_assert!(!span.core.is_empty() && span.core.len() <= core);
                let kept = span.with_rim(rim);
                for (range, more) in [(span.padded(), padding), (kept.padded(), padding + rim)] {
                    prop_assert_eq!(range.start, span.core.start.saturating_sub(more));
                    prop_assert_eq!(range.end, length.min(span.core.end + more));
                }
                prop_assert_eq!(span.padded().start + span.before(), span.core.start);
                next = span.core.end;
            }
            prop_assert_eq!(next, length);
            prop_assert_eq!(spans.len() == 1, spans[0].is_whole());
        }
    }
}
