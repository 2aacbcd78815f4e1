//! A matrix that an adapter keeps as it is, as a product of two, or as two with a core between them: checked by its
//! shapes when the file is opened, computed when the weight that it changes is read.
//!
//! Sources: LoRA (Hu et al. 2021, section 4.1); for convolutions, a `k×k` `down` followed by a `1×1` `up`, and the core
//! of a Tucker decomposition between two `1×1`, LyCORIS `functional/general.py` (`rebuild_tucker`), whose LoHa and LoKr
//! keep `up` the other way round beside a core.

use candle_core::{DType, Device, Result};

use crate::backend::{ParamSource as _, add_product};
use crate::weights::tensors::{Take, TensorMap};

/// Matrix of `[rows, columns]`; the columns of a convolution are inputs and places of its kernel together.
#[derive(Clone, Debug)]
pub(super) enum Factor {
    /// `[rows, columns…]`
    Whole(String),
    /// `up` `[rows, rank]` times `down` `[rank, columns…]`
    Product { up: String, down: String },
    /// `up` `[rows, m]` (or `[m, rows]`), `core` `[m, rank, kh, kw]` and `down` `[rank, inputs]`
    Core { up: String, core: String, down: String, up_is_transposed: bool },
}

impl Factor {
    /// Rows and columns; `None` where the matrices do not multiply.
    pub(super) fn shape(&self, file: &TensorMap) -> Option<[usize; 2]> {
        let shape = |key: &str| file.shape(key).unwrap_or_default();
        match self {
            Self::Whole(key) => match shape(key) {
                &[rows, ref rest @ ..] => Some([rows, product(rest)?]),
                [] => None,
            },
            Self::Product { up, down } => match (shape(up), shape(down)) {
                (&[rows, ref inner @ ..], &[rank, ref columns @ ..]) => {
                    (rank > 0 && product(inner)? == rank).then_some([rows, product(columns)?])
                }
                _ => None,
            },
            Self::Core { up, core, down, up_is_transposed } => {
                let (up, &[above, below, ref kernel @ ..]) = (trim(shape(up)), shape(core)) else {
                    return None;
                };
                let [rows, inner] = match (up, up_is_transposed) {
                    (&[rows], false) => [rows, 1],
                    (&[rows, inner], false) => [rows, inner],
                    (&[inner], true) => [1, inner],
                    (&[inner, rows], true) => [rows, inner],
                    _ => return None,
                };
                let (rank, inputs) = match *trim(shape(down)) {
                    [rank] => (rank, 1),
                    [rank, inputs] => (rank, inputs),
                    _ => return None,
                };
                let fits = rank > 0 && above > 0 && inner == above && rank == below;
                fits.then_some([rows, inputs.checked_mul(product(kernel)?)?])
            }
        }
    }

    /// Rank by which alpha is divided: that of `down`; `None` for a whole matrix.
    pub(super) fn rank(&self, file: &TensorMap) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Product { down, .. } | Self::Core { down, .. } => {
                file.shape(down)?.first().copied()
            }
        }
    }

    /// Adds `scale` times the rows that `take` means, in row order.
    pub(super) fn add_to(
        &self,
        file: &TensorMap,
        values: &mut [f32],
        take: Take,
        scale: f32,
    ) -> Result<()> {
        match self {
            Self::Whole(key) => {
                let own = taken(read(file, key)?, take);
                values.iter_mut().zip(own).for_each(|(value, own)| *value += scale * own);
            }
            Self::Product { up, down } => {
                let rank = self.rank(file).unwrap_or(1);
                let up = taken(read(file, up)?, take);
                add_product(values, &up, &read(file, down)?, rank, scale);
            }
            Self::Core { up, core, down, up_is_transposed } => {
                let rank = self.rank(file).unwrap_or(1);
                // `up` has as many columns as the core has rows.
                let (down, inner) = with_core(file, core, &read(file, down)?, rank)?;
                let up = read(file, up)?;
                let up = if *up_is_transposed { transposed(&up, inner) } else { up };
                add_product(values, &taken(up, take), &down, inner, scale);
            }
        }
        Ok(())
    }

    /// The whole matrix, in row order.
    pub(super) fn values(&self, file: &TensorMap) -> Result<Vec<f32>> {
        if let Self::Whole(key) = self {
            return read(file, key);
        }
        let [rows, columns] = self.shape(file).unwrap_or_default();
        let mut values = vec![0f32; rows * columns];
        self.add_to(file, &mut values, Take::Whole, 1.0)?;
        Ok(values)
    }
}

/// `core · down` as one `k×k` convolution, `[m, inputs·k·k]`, and `m`.
fn with_core(file: &TensorMap, key: &str, down: &[f32], rank: usize) -> Result<(Vec<f32>, usize)> {
    let core = read(file, key)?;
    let rows = file.shape(key).and_then(|shape| shape.first().copied()).unwrap_or(1);
    let (inputs, places) = (down.len() / rank, core.len() / (rows * rank));
    let mut product = vec![0f32; rows * inputs * places];
    for place in 0..places {
        let at: Vec<f32> = core.iter().skip(place).step_by(places).copied().collect();
        let mut one = vec![0f32; rows * inputs];
        add_product(&mut one, &at, down, rank, 1.0);
        for (to, from) in product.iter_mut().skip(place).step_by(places).zip(one) {
            *to = from;
        }
    }
    Ok((product, rows))
}

/// Rows of what changes a whole module that change the weight which `take` takes from it.
pub(super) fn taken(mut values: Vec<f32>, take: Take) -> Vec<f32> {
    match take {
        Take::Rows { index, of } => {
            let count = values.len() / of;
            values[index * count..][..count].to_vec()
        }
        Take::SwappedHalves => {
            let half = values.len() / 2;
            values.rotate_left(half);
            values
        }
        Take::Whole | Take::Transposed => values,
    }
}

/// A matrix of so many rows with rows and columns exchanged.
pub(super) fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    let column = |column| values.iter().skip(column).step_by(columns.max(1)).copied();
    (0..columns).flat_map(column).collect()
}

/// Shape without the axes of length 1 at its end: one file keeps a `1×1` convolution as a matrix, another a matrix as
/// a `1×1` convolution.
pub(super) fn trim(shape: &[usize]) -> &[usize] {
    let len = shape.iter().rposition(|&size| size != 1).map_or(0, |last| last + 1);
    &shape[..len]
}

/// Number of values of a shape; `None` for more than there can be.
pub(super) fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size))
}

/// A tensor of the file, in row order.
pub(super) fn read(file: &TensorMap, key: &str) -> Result<Vec<f32>> {
    let shape = file.shape(key).unwrap_or_default().into();
    file.get(key, &shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_factor_follows_from_those_of_its_matrices() {
        let shape = |up: &[usize], core: Option<&[usize]>, down: &[usize], up_is_transposed| {
            let names = ["up", "core", "down"].map(str::to_owned);
            let shapes = [Some(up), core, Some(down)];
            let file = TensorMap::of_shapes(
                (names.clone().into_iter().zip(shapes))
                    .filter_map(|(name, shape)| Some((name, shape?.to_vec())))
                    .collect(),
            );
            let [up, core_name, down] = names;
            let factor = match core {
                Some(_) => Factor::Core { up, core: core_name, down, up_is_transposed },
                None => Factor::Product { up, down },
            };
            factor.shape(&file)
        };
        assert_eq!(shape(&[8, 2], None, &[2, 6, 3, 3], false), Some([8, 54]));
        assert_eq!(shape(&[8, 2, 1, 1], None, &[2, 6], false), Some([8, 6]));
        assert_eq!(shape(&[8, 3], None, &[2, 6], false), None);
        assert_eq!(shape(&[8, 0], None, &[0, 6], false), None);
        assert_eq!(shape(&[8, 2], Some(&[2, 3, 3, 3]), &[3, 6], false), Some([8, 54]));
        assert_eq!(shape(&[2, 8], Some(&[2, 3, 3, 3]), &[3, 6], true), Some([8, 54]));
        assert_eq!(shape(&[2, 8], Some(&[2, 3, 3, 3]), &[3, 6], false), None);
        assert_eq!(shape(&[8, 2], Some(&[3, 2, 3, 3]), &[3, 6], false), None);
        assert_eq!(shape(&[8, 2], None, &[2, usize::MAX, 3], false), None);
    }

    #[test]
    fn a_transposed_matrix_has_its_columns_as_rows() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
