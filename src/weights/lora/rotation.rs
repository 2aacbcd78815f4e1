//! Orthogonal adapters: the rows of a weight, or its columns, turned in blocks. A block is `(I + Q)·(I − Q)⁻¹` of a
//! skew-symmetric `Q` (Cayley), which the file has, or a series that stands for it.
//!
//! Sources: LyCORIS `functional/diag_oft.py` and `modules/diag_oft.py` (rows; the constraint and the rescaling),
//! `functional/boft.py` (stages of a butterfly), kohya-ss/sd-scripts `networks/oft.py` (the same as the first); peft
//! `tuners/oft/layer.py` (columns; the upper triangle of `Q` alone).

use rayon::prelude::*;

use candle_core::Result;

use super::factor::read;
use crate::backend::add_product;
use crate::weights::tensors::TensorMap;

/// Rows of a block at most: the time to invert it grows with its cube. kohya's blocks have up to 2560.
const LARGEST_BLOCK: usize = 4096;
/// Terms of peft's series at most.
pub(super) const MOST_TERMS: usize = 64;

/// Blocks that turn the rows of a weight, in one stage (OFT) or several (BOFT).
#[derive(Clone, Debug)]
pub(super) struct RowRotation {
    blocks: String,
    /// `[rows]`
    rescale: Option<String>,
    /// largest norm of all `Q` together; 0 for any
    constraint: f64,
    /// `None` for OFT
    stages: Option<usize>,
    count: usize,
    side: usize,
}

impl RowRotation {
    /// Checks that blocks turn a weight of so many rows; `alpha` is the constraint for a row (LyCORIS `modules/diag_oft.py`).
    pub(super) fn new(
        file: &TensorMap,
        blocks: &str,
        rescale: Option<&str>,
        rows: usize,
        alpha: f64,
    ) -> std::result::Result<Self, String> {
        let (stages, count, side) = match *file.shape(blocks).unwrap_or_default() {
            [count, side, width] if side == width => (None, count, side),
            [stages, count, side, width] if side == width => (Some(stages), count, side),
            _ => return Err("they are no square blocks".to_owned()),
        };
        check_side(side)?;
        if count.checked_mul(side) != Some(rows) {
            return Err(format!("{count} blocks of {side} rows do not make {rows}"));
        }
        // The last stage mixes rows that are half of this apart.
        let widest = |stage: u32| side.checked_mul(2usize.checked_pow(stage)?);
        let fits = |stages: usize| {
            let last = u32::try_from(stages.checked_sub(1)?).ok()?;
            Some(side.is_multiple_of(2) && rows.is_multiple_of(widest(last)?))
        };
        if let Some(stages) = stages
            && fits(stages) != Some(true)
        {
            return Err(format!("{stages} stages with blocks of {side} do not fit {rows} rows"));
        }
        if let Some(key) = rescale
            && file.shape(key).and_then(super::factor::product) != Some(rows)
        {
            return Err(format!("`{key}` has not one number for each of {rows} rows"));
        }
        let rescale = rescale.map(str::to_owned);
        let constraint = if alpha > 0.0 { alpha * rows as f64 } else { 0.0 };
        Ok(Self { blocks: blocks.to_owned(), rescale, constraint, stages, count, side })
    }

    /// `true` for a rotation in one stage of blocks that stay apart.
    #[cfg(test)]
    fn is_plain(&self) -> bool {
        self.stages.is_none()
    }

    /// Turns the rows of a weight; 0 turns nothing, 1 as far as trained.
    pub(super) fn apply(&self, file: &TensorMap, values: &mut [f32], strength: f32) -> Result<()> {
        let (count, side) = (self.count, self.side);
        let blocks = read(file, &self.blocks)?;
        let skew = self.skew(&blocks);
        let columns = values.len() / (count * side);
        let stages = self.stages.unwrap_or(1);
        for stage in 0..stages {
            // Half the rows that a pair of this stage's groups spans.
            let half = (side / 2) << stage;
            if self.stages.is_some() {
                permute(values, columns, half, false);
            }
            for block in 0..count {
                let q = &skew[(stage * count + block) * side * side..][..side * side];
                let mut turn = cayley(q, side);
                if self.stages.is_none() {
                    // LyCORIS turns by the transposed matrix, save in a butterfly.
                    turn = super::factor::transposed(&turn, side);
                }
                for (index, turn) in turn.iter_mut().enumerate() {
                    let identity = f32::from(index / side == index % side);
                    *turn = identity + strength * (*turn - identity);
                }
                let rows = &mut values[block * side * columns..][..side * columns];
                let before = rows.to_vec();
                rows.fill(0.0);
                add_product(rows, &turn, &before, side, 1.0);
            }
            if self.stages.is_some() {
                permute(values, columns, half, true);
            }
        }
        if let Some(key) = &self.rescale {
            let rows = values.chunks_exact_mut(columns.max(1));
            for (row, scale) in rows.zip(read(file, key)?) {
                row.iter_mut().for_each(|value| *value *= 1.0 + strength * (scale - 1.0));
            }
        }
        Ok(())
    }

    /// The skew-symmetric matrices, shortened where all together are longer than the constraint.
    fn skew(&self, blocks: &[f32]) -> Vec<f32> {
        let side = self.side;
        let mut skew = vec![0f32; blocks.len()];
        for (skew, block) in
            skew.chunks_exact_mut(side * side).zip(blocks.chunks_exact(side * side))
        {
            for row in 0..side {
                for column in 0..side {
                    skew[row * side + column] =
                        block[row * side + column] - block[column * side + row];
                }
            }
        }
        let norm = skew.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt() + 1e-8;
        if self.constraint > 0.0 && norm > self.constraint {
            let factor = (self.constraint / norm) as f32;
            skew.iter_mut().for_each(|value| *value *= factor);
        }
        skew
    }
}

/// Blocks that turn the columns of a weight (peft's OFT).
#[derive(Clone, Debug)]
pub(super) struct ColumnRotation {
    /// `[blocks, side·(side − 1)/2]`: the upper triangle of each `Q`, row by row
    triangles: String,
    side: usize,
    /// terms of the series in place of Cayley's inverse
    terms: Option<usize>,
}

impl ColumnRotation {
    /// Checks that blocks turn a weight of so many columns. One block that is to be shared turns all of them.
    pub(super) fn new(
        file: &TensorMap,
        triangles: &str,
        columns: usize,
        is_shared: bool,
        terms: Option<usize>,
    ) -> std::result::Result<Self, String> {
        let &[count, elements] = file.shape(triangles).unwrap_or_default() else {
            return Err(
                "it is no list of triangles (peft before 0.15 wrote another form)".to_owned()
            );
        };
        let twice = elements.saturating_mul(2);
        let side = twice.isqrt() + 1;
        if elements == 0 || side.checked_mul(side - 1) != Some(twice) {
            return Err(format!("{elements} numbers are no triangle of a matrix"));
        }
        check_side(side)?;
        let count = match (is_shared, count) {
            (true, 1) => columns / side,
            _ => count,
        };
        if count.checked_mul(side) != Some(columns) {
            return Err(format!("{count} blocks of {side} columns do not make {columns}"));
        }
        Ok(Self { triangles: triangles.to_owned(), side, terms })
    }

    /// Turns the columns of a weight as far as trained.
    pub(super) fn apply(&self, file: &TensorMap, values: &mut [f32], columns: usize) -> Result<()> {
        let side = self.side;
        let triangles = read(file, &self.triangles)?;
        let turns: Vec<_> = triangles
            .chunks_exact(side * (side - 1) / 2)
            .map(|triangle| self.turn(triangle))
            .collect();
        values.par_chunks_exact_mut(columns.max(1)).for_each(|row| {
            for (block, values) in row.chunks_exact_mut(side).enumerate() {
                let turn = &turns[block % turns.len()];
                let before = values.to_vec();
                for (value, turn) in values.iter_mut().zip(turn.chunks_exact(side)) {
                    *value = turn.iter().zip(&before).map(|(turn, before)| turn * before).sum();
                }
            }
        });
        Ok(())
    }

    /// The matrix `R` of one block: a row of the weight becomes `R · row`.
    fn turn(&self, triangle: &[f32]) -> Vec<f32> {
        let side = self.side;
        let mut q = vec![0f32; side * side];
        let mut triangle = triangle.iter();
        for row in 0..side {
            for column in row + 1..side {
                let value = triangle.next().copied().unwrap_or_default();
                q[row * side + column] = value;
                q[column * side + row] = -value;
            }
        }
        let Some(terms) = self.terms else {
            // peft's exact form is (I − Q)·(I + Q)⁻¹, its series that of the inverse turn.
            q.iter_mut().for_each(|value| *value = -*value);
            return cayley(&q, side);
        };
        // I + 2Q + 2Q² + … with the last power once.
        let mut sum: Vec<f32> = (0..side * side).map(|i| f32::from(i / side == i % side)).collect();
        let add = |sum: &mut [f32], power: &[f32], factor: f32| {
            sum.iter_mut().zip(power).for_each(|(sum, power)| *sum += factor * power);
        };
        let times_q = |power: &[f32]| {
            let mut product = vec![0f32; side * side];
            add_product(&mut product, power, &q, side, 1.0);
            product
        };
        if terms > 1 {
            add(&mut sum, &q, 2.0);
        }
        if terms > 2 {
            let mut power = times_q(&q);
            add(&mut sum, &power, 2.0);
            for _ in 3..terms.saturating_sub(1) {
                power = times_q(&power);
                add(&mut sum, &power, 2.0);
            }
            add(&mut sum, &times_q(&power), 1.0);
        }
        sum
    }
}

fn check_side(side: usize) -> std::result::Result<(), String> {
    match side {
        0 => Err("blocks of no rows".to_owned()),
        1..=LARGEST_BLOCK => Ok(()),
        _ => Err(format!("blocks of {side} rows are larger than {LARGEST_BLOCK}")),
    }
}

/// Exchanges the two halves' rows of every group of `2·half` rows like cards, `(g k) → (k g)`, or back.
fn permute(values: &mut [f32], columns: usize, half: usize, back: bool) {
    for group in values.chunks_exact_mut(2 * half * columns) {
        let before = group.to_vec();
        for index in 0..2 * half {
            let other = (index % 2) * half + index / 2;
            let [to, from] = if back { [other, index] } else { [index, other] };
            group[to * columns..][..columns].copy_from_slice(&before[from * columns..][..columns]);
        }
    }
}

/// `(I + Q)·(I − Q)⁻¹` of a skew-symmetric `Q`, which always has an inverse: the transposed matrix solves
/// `(I + Q)·Rᵀ = I − Q`. In f64, since elimination adds up what many steps round.
fn cayley(q: &[f32], side: usize) -> Vec<f32> {
    let wide = 2 * side;
    let mut system = vec![0f64; side * wide];
    for (row, values) in system.chunks_exact_mut(wide).enumerate() {
        for column in 0..side {
            let (q, identity) = (f64::from(q[row * side + column]), f64::from(row == column));
            values[column] = identity + q;
            values[side + column] = identity - q;
        }
    }
    for pivot in 0..side {
        let size = |row: usize| system[row * wide + pivot].abs();
        let best = (pivot..side).max_by(|&a, &b| size(a).total_cmp(&size(b))).unwrap_or(pivot);
        if best != pivot {
            let (before, after) = system.split_at_mut(best * wide);
            before[pivot * wide..][..wide].swap_with_slice(&mut after[..wide]);
        }
        let factor = 1.0 / system[pivot * wide + pivot];
        let own: Vec<f64> = system[pivot * wide + pivot..(pivot + 1) * wide]
            .iter()
            .map(|value| value * factor)
            .collect();
        system.par_chunks_exact_mut(wide).with_min_len(16).enumerate().for_each(|(row, values)| {
            let values = &mut values[pivot..];
            if row == pivot {
                values.copy_from_slice(&own);
            } else {
                let factor = values[0];
                values.iter_mut().zip(&own).for_each(|(value, own)| *value -= factor * own);
            }
        });
    }
    let mut turn = vec![0f32; side * side];
    for (row, values) in system.chunks_exact(wide).enumerate() {
        for (column, &value) in values[side..].iter().enumerate() {
            turn[column * side + row] = value as f32;
        }
    }
    turn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_two_is_that_of_the_angle_whose_half_has_this_tangent() {
        let turn = cayley(&[0.0, 0.5, -0.5, 0.0], 2);
        let angle = 2.0 * 0.5f32.atan();
        let expected = [angle.cos(), angle.sin(), -angle.sin(), angle.cos()];
        turn.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{turn:?}"));
    }

    #[test]
    fn a_turn_keeps_lengths_and_angles() {
        let side = 23;
        let upper = |row: usize, column: usize| ((row * 31 + column * 17) % 13) as f32 / 4.0 - 1.5;
        let q: Vec<f32> = (0..side * side)
            .map(|index| match (index / side, index % side) {
                (row, column) if row < column => upper(row, column),
                (row, column) if row > column => -upper(column, row),
                _ => 0.0,
            })
            .collect();
        let turn = cayley(&q, side);
        let mut square = vec![0f32; side * side];
        let across = crate::weights::lora::factor::transposed(&turn, side);
        add_product(&mut square, &turn, &across, side, 1.0);
        for (index, value) in square.iter().enumerate() {
            let identity = f32::from(index / side == index % side);
            assert!((value - identity).abs() < 1e-5, "{index}: {value}");
        }
    }

    #[test]
    fn a_shuffle_and_one_back_leave_rows_where_they_are() {
        let mut values: Vec<f32> = (0..24).map(|value| value as f32).collect();
        permute(&mut values, 2, 3, false);
        assert_eq!(values[..6], [0.0, 1.0, 6.0, 7.0, 2.0, 3.0]);
        permute(&mut values, 2, 3, true);
        assert_eq!(values, (0..24).map(|value| value as f32).collect::<Vec<_>>());
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        let refused = |shape: &[usize], rows: usize| {
            let file = TensorMap::of_shapes(vec![("blocks".to_owned(), shape.to_vec())]);
            RowRotation::new(&file, "blocks", None, rows, 0.0).map(|turn| turn.is_plain())
        };
        assert_eq!(refused(&[4, 2, 2], 8), Ok(true));
        assert_eq!(refused(&[3, 4, 2, 2], 8), Ok(false));
        for (shape, rows) in [
            (&[4, 2, 3][..], 8),
            (&[4, 2, 2], 9),
            (&[0, 2, 2], 8),
            (&[8, 0, 0], 0),
            (&[1, 4097, 4097], 4097),
            (&[4, 4, 2, 2], 8),
            (&[0, 4, 2, 2], 8),
            (&[2, 8, 1, 1], 8),
            (&[100, 4, 2, 2], 8),
            (&[1 << 40, 4, 2, 2], 8),
            (&[8], 8),
        ] {
            assert!(refused(shape, rows).is_err(), "{shape:?}");
        }
        let triangle = |shape: &[usize], columns: usize, is_shared: bool| {
            let file = TensorMap::of_shapes(vec![("oft_R".to_owned(), shape.to_vec())]);
            ColumnRotation::new(&file, "oft_R", columns, is_shared, None).is_ok()
        };
        assert!(triangle(&[3, 6], 12, false) && triangle(&[1, 6], 12, true));
        assert!(triangle(&[6, 1], 12, false) && !triangle(&[1, 6], 12, false));
        for shape in [&[3, 5][..], &[3, 0], &[0, 6], &[2, 6], &[1, usize::MAX], &[3, 4, 4]] {
            assert!(!triangle(shape, 12, false) && !triangle(shape, 12, true), "{shape:?}");
        }
    }
}
