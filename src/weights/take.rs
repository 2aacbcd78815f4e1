//! Ways in which a tensor that a network asks for lies in one that a file has: code that trained a model keeps several of
//! ours in one, or in another order.

/// A tensor's name here, its name in the file, and how the one is taken from the other.
pub(super) type TensorName = (String, String, Take);

/// Way in which a tensor of ours is taken from a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// the whole tensor; axes of length 1 at the end may differ
    Whole,
    /// the `index`-th of `of` equal parts along the first axis
    Rows { index: usize, of: usize },
    /// the tensor with rows and columns exchanged
    Transposed,
    /// the second half of its rows before the first
    SwappedHalves,
}

impl Take {
    /// Shape of what is taken from a tensor of this shape; itself where that cannot be taken so.
    pub(super) fn shape(self, stored: &[usize]) -> Vec<usize> {
        let mut shape = stored.to_vec();
        match (self, &mut shape[..]) {
            (Self::Rows { of, .. }, [rows, ..]) if rows.is_multiple_of(of) => *rows /= of,
            (Self::Transposed, [rows, columns]) => std::mem::swap(rows, columns),
            _ => {}
        }
        shape
    }
}
