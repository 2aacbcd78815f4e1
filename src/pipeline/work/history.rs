//! History of a multistep sampler: a ring of canvases in one mapped file, so that a job that is killed within a
//! step finds all that the step reads as it was.

use std::{io, ops::Range};

use crate::canvas::Latent;

/// The values that the latest steps kept, a canvas each: one more canvas than a step reads. Step `i` of the run writes
/// canvas `i mod n`, which holds the one value that no step from `i` on reads.
#[derive(Debug)]
pub struct History {
    /// The canvases one below the other.
    canvases: Latent,
    /// Rows of one of them.
    height: usize,
}

impl History {
    /// A ring of the canvases in this latent, each `height` rows high, of which there is a whole number.
    pub fn new(canvases: Latent, height: usize) -> Self {
        debug_assert!(height > 0 && canvases.height().is_multiple_of(height));
        Self { canvases, height }
    }

    /// The canvas that step `index` of the run writes, and those that it may read, what the latest step kept first.
    pub fn of_step(&mut self, index: usize) -> (&mut [f32], Vec<&[f32]>) {
        let count = self.canvases.height() / self.height;
        let size = self.height * self.canvases.row_len();
        let (before, from) = self.canvases.as_mut_slice().split_at_mut(index % count * size);
        let (written, after) = from.split_at_mut(size);
        // Going back from the one before, round the ring's beginning, to the one after.
        let read = before.rchunks_exact(size).chain(after.rchunks_exact(size)).collect();
        (written, read)
    }

    /// Returns when what step `index` wrote is on the disk.
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
