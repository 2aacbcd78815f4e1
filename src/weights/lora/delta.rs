//! The change that a LoRA makes to one weight, `scale · up · down`: checked when the file is opened, computed when
//! the weight is read.
//!
//! Sources: LoRA (Hu et al. 2021, section 4.1); for convolutions, a `k×k` `down` followed by a `1×1`
//! `up`, and the core of a Tucker decomposition between two `1×1`, LyCORIS `functional/general.py`
//! (`rebuild_tucker`).

use std::collections::HashMap;

use candle_core::{DType, Device, Result};

use super::error::LoraError;
use crate::backend::{ParamSource as _, add_product};
use crate::weights::tensors::{Take, TensorMap};

/// Matrices of one module and their scale.
#[derive(Debug)]
pub(super) struct Delta {
    /// names in the file
    up: String,
    down: String,
    mid: Option<String>,
    /// how the rows of `up` that are this weight's are taken from all of them
    take: Take,
    rank: usize,
    scale: f32,
}

impl Delta {
    /// Checks that the matrices multiply to a weight of this shape. `scale` is called with the rank.
    ///
    /// # Errors
    /// Matrices that do not fit, or a scale that cannot be read.
    pub(super) fn new(
        file: &TensorMap,
        [up, down]: [&str; 2],
        mid: Option<&str>,
        weight: (&str, &[usize]),
        take: Take,
        scale: impl FnOnce(usize) -> std::result::Result<f64, LoraError>,
    ) -> std::result::Result<Self, LoraError> {
        let shape = |key| file.shape(key).unwrap_or_default();
        let rank = shape(down).first().copied().unwrap_or(0);
        if rank == 0 {
            return Err(LoraError::NoRank(down.to_owned()));
        }
        let fits = fits(&take.shape(shape(up)), shape(down), mid.map(shape), weight.1);
        if !fits {
            return Err(LoraError::Shape {
                down: down.to_owned(),
                shapes: [shape(up).to_vec(), shape(down).to_vec()],
                weight: weight.0.to_owned(),
                expected: weight.1.to_vec(),
            });
        }
        Ok(Self {
            up: up.to_owned(),
            down: down.to_owned(),
            mid: mid.map(str::to_owned),
            take,
            rank,
            scale: scale(rank)? as f32,
        })
    }

    fn add_to(&self, file: &TensorMap, values: &mut [f32]) -> Result<()> {
        let up = self.rows(read(file, &self.up)?);
        let mut down = read(file, &self.down)?;
        // With a core, `up` has as many columns as that has rows.
        let mut inner = self.rank;
        if let Some(key) = &self.mid {
            (down, inner) = self.with_core(file, key, &down)?;
        }
        add_product(values, &up, &down, inner, self.scale);
        Ok(())
    }

    /// Rows of `up` that change this weight.
    fn rows(&self, mut up: Vec<f32>) -> Vec<f32> {
        match self.take {
            Take::Rows { index, of } => {
                let count = up.len() / of;
                up[index * count..][..count].to_vec()
            }
            Take::SwappedHalves => {
                let half = up.len() / 2;
                up.rotate_left(half);
                up
            }
            Take::Whole | Take::Transposed => up,
        }
    }

    /// `core · down` as one `k×k` convolution, `[rank, in·k·k]`, and its rank.
    fn with_core(&self, file: &TensorMap, key: &str, down: &[f32]) -> Result<(Vec<f32>, usize)> {
        let core = read(file, key)?;
        let rows = file.shape(key).and_then(|shape| shape.first().copied()).unwrap_or(1);
        let (inputs, places) = (down.len() / self.rank, core.len() / (rows * self.rank));
        let mut product = vec![0f32; rows * inputs * places];
        for place in 0..places {
            let at: Vec<f32> = core.iter().skip(place).step_by(places).copied().collect();
            let mut one = vec![0f32; rows * inputs];
            add_product(&mut one, &at, down, self.rank, 1.0);
            for (to, from) in product.iter_mut().skip(place).step_by(places).zip(one) {
                *to = from;
            }
        }
        Ok((product, rows))
    }
}

/// `true` if `up · (core ·) down` has the shape of a weight, axes of length 1 at the end apart: one file keeps a
/// `1×1` convolution as a matrix, another a matrix as a `1×1` convolution.
fn fits(up: &[usize], down: &[usize], mid: Option<&[usize]>, weight: &[usize]) -> bool {
    let (&[out, ref up @ ..], &[rank, ref input @ ..]) = (up, down) else { return false };
    let (&[rows, ref expected @ ..], up) = (weight, trim(up)) else { return false };
    let columns = match up {
        [] => 1,
        &[columns] => columns,
        _ => return false,
    };
    if out != rows {
        return false;
    }
    match mid {
        None => columns == rank && trim(input) == trim(expected),
        Some(&[core_rows, core_columns, ref kernel @ ..]) => {
            let mut shape = vec![trim(input).first().copied().unwrap_or(1)];
            shape.extend(kernel);
            columns == core_rows
                && core_columns == rank
                && trim(input).len() <= 1
                && trim(&shape) == trim(expected)
        }
        Some(_) => false,
    }
}

fn trim(shape: &[usize]) -> &[usize] {
    let len = shape.iter().rposition(|&size| size != 1).map_or(0, |last| last + 1);
    &shape[..len]
}

fn read(file: &TensorMap, key: &str) -> Result<Vec<f32>> {
    let shape = file.shape(key).unwrap_or_default().into();
    file.get(key, &shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()
}

/// Changes that one LoRA makes to one part of a model.
#[derive(Debug)]
pub(in crate::weights) struct Deltas {
    pub(super) file: TensorMap,
    by_weight: HashMap<String, Vec<Delta>>,
}

impl Deltas {
    pub(super) fn new(file: TensorMap) -> Self {
        Self { file, by_weight: HashMap::new() }
    }

    pub(super) fn insert(&mut self, weight: &str, delta: Delta) {
        self.by_weight.entry(weight.to_owned()).or_default().push(delta);
    }

    /// `true` if this weight changes at all.
    pub(in crate::weights) fn contains(&self, weight: &str) -> bool {
        self.by_weight.contains_key(weight)
    }

    /// Adds the change to a weight's values, in row order.
    ///
    /// # Errors
    /// Matrices that are stored as no number.
    pub(in crate::weights) fn add_to(&self, weight: &str, values: &mut [f32]) -> Result<()> {
        let deltas = self.by_weight.get(weight).into_iter().flatten();
        for delta in deltas {
            delta.add_to(&self.file, values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_fits_a_weight_whatever_its_axes_of_length_1() {
        for (up, down, mid, weight, expected) in [
            (&[8, 2][..], &[2, 6][..], None, &[8, 6][..], true),
            (&[8, 2, 1, 1], &[2, 6, 1, 1], None, &[8, 6], true),
            (&[8, 2], &[2, 6], None, &[8, 6, 1, 1], true),
            (&[8, 2, 1, 1], &[2, 6, 3, 3], None, &[8, 6, 3, 3], true),
            (&[8, 1], &[1, 6], None, &[8, 6], true),
            (&[8, 2, 1, 1], &[3, 6, 1, 1], Some(&[2, 3, 3, 3][..]), &[8, 6, 3, 3], true),
            (&[8, 2, 1, 1], &[2, 6, 3, 3], None, &[8, 6, 1, 1], false),
            (&[8, 3], &[2, 6], None, &[8, 6], false),
            (&[7, 2], &[2, 6], None, &[8, 6], false),
            (&[8, 2], &[2, 3, 2], None, &[8, 6], false),
            (&[8, 2, 2, 1], &[2, 6], None, &[8, 6], false),
            (&[8, 2, 1, 1], &[2, 6, 1, 1], Some(&[2, 3, 3, 3]), &[8, 6, 3, 3], false),
        ] {
            assert_eq!(fits(up, down, mid, weight), expected, "{up:?} {down:?} {mid:?} {weight:?}");
        }
    }
}
