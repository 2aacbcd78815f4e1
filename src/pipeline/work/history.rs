//! History of a multistep sampler: a ring of canvases in one mapped file, so that the inputs of a step are intact
//! after a kill within it.

use std::{io, ops::Range};

use crate::canvas::Latent;

/// Values of the latest steps, one canvas each: one more canvas than a step reads. Step `i` of the run writes canvas
/// `i mod n`, whose old value is not read by step `i` or later.
#[derive(Debug)]
pub struct History {
    /// The canvases, stacked vertically.
    canvases: Latent,
    /// Rows of one of them.
    height: usize,
}

impl History {
    /// A ring of canvases of `height` rows each; the latent's height is a multiple of it.
    pub fn new(canvases: Latent, height: usize) -> Self {
        debug_assert!(height > 0 && canvases.height().is_multiple_of(height));
        Self { canvases, height }
    }

    /// The canvas that step `index` of the run writes, and the canvases that it may read, latest first.
    pub fn of_step(&mut self, index: usize) -> (&mut [f32], Vec<&[f32]>) {
        let count = self.canvases.height() / self.height;
        let size = self.height * self.canvases.row_len();
        let (before, from) = self.canvases.as_mut_slice().split_at_mut(index % count * size);
        let (written, after) = from.split_at_mut(size);
        // Backwards from the previous canvas, around the ring, to the next one.
        let read = before.rchunks_exact(size).chain(after.rchunks_exact(size)).collect();
        (written, read)
    }

    /// Flushes the canvas of step `index` to the disk.
    pub fn flush(&self, index: usize) -> io::Result<()> {
        self.canvases.flush_rows(self.rows(index))
    }

    fn rows(&self, index: usize) -> Range<usize> {
        let first = index * self.height % self.canvases.height();
        first..first + self.height
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_finds_what_the_steps_before_kept_the_latest_first() {
        for count in 2..5 {
            let mut history = History::new(Latent::in_memory(count * 3, 2, 1).unwrap(), 3);
            for index in 0..11 {
                let (written, read) = history.of_step(index);
                assert_eq!(read.len(), count - 1);
                for (back, values) in read.iter().enumerate().take(index) {
                    assert_eq!(values[..], [(index - back) as f32; 6], "step {index} of {count}");
                }
                written.fill((index + 1) as f32);
                let rows = history.rows(index);
                assert_eq!(history.canvases.rows(rows), [(index + 1) as f32; 6]);
            }
        }
    }
}
