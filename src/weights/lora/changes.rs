//! Changes that one adapter makes to one part of a model, weight by weight: what is added to a weight, or what a weight
//! is turned or stretched by. They are computed when the weight is read.
//!
//! The strength is 0 for a weight as it was and 1 for one as it was trained, whatever the kind, and a line between both
//! where the kind itself is no line: `W + s·(f(W) − W)`. So do ComfyUI `comfy/weight_adapter/base.py`
//! (`weight_decompose`) and AUTOMATIC1111 with DoRA; LyCORIS multiplies the lengths alone (`W + ΔW` is left at 0), peft the
//! matrices alone (a stretched `W` is left at 0). At 1 all agree. An OFT's blocks are brought towards the identity (as in
//! LyCORIS; a BOFT's stage by stage).
//!
//! Several adapters follow one another in the order in which they were given, each on the weight that those before it
//! left, as in ComfyUI and AUTOMATIC1111. For those that only add, the order is without effect.
//!
//! Sources: LyCORIS `functional/` and `modules/` (`get_diff_weight`, `forward`); peft `tuners/{loha,lokr,oft}/layer.py`,
//! `tuners/lora/dora.py`; ComfyUI `comfy/weight_adapter/lokr.py` (alpha of two whole factors), `glora.py` (its older names).

use std::collections::HashMap;

use candle_core::Result;

use super::factor::{Factor, read, taken, transposed};
use super::rotation::{ColumnRotation, RowRotation};
use crate::backend::add_product;
use crate::weights::tensors::{Take, TensorMap};

/// Change of one weight by one module of the file.
#[derive(Debug)]
pub(super) struct Change {
    pub kind: ChangeKind,
    /// lengths of rows or columns after the change
    pub lengths: Option<Lengths>,
    /// how the rows that are this weight's are taken from all of the module's
    pub take: Take,
    /// rows of this weight
    pub rows: usize,
    /// length of its second axis: inputs
    pub inputs: usize,
    /// scale that was asked for
    pub strength: f64,
}

/// Kind of a change; `factor` is alpha over rank.
#[derive(Debug)]
pub(super) enum ChangeKind {
    /// LoRA, and a whole difference: added
    Sum { factor: f64, matrix: Factor },
    /// LoHa: the product, value by value, is added
    Hadamard { factor: f64, matrices: [Factor; 2] },
    /// LoKr: the Kronecker product is added
    Kronecker { factor: f64, matrices: [Factor; 2] },
    /// GLoRA: `W·a₁·a₂ + b` is added
    General { factor: f64, a: [String; 2], b: Factor },
    /// IA³: a share of every row, or of every column, is added
    Stretch { shares: String, of_columns: bool },
    /// OFT and BOFT
    Rows(RowRotation),
    /// peft's OFT
    Columns(ColumnRotation),
}

/// Lengths after a change (DoRA).
#[derive(Debug)]
pub(super) struct Lengths {
    pub key: String,
    pub axis: LengthAxis,
}

/// Of what the lengths are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LengthAxis {
    Rows,
    Inputs,
}

impl Change {
    fn apply(&self, file: &TensorMap, values: &mut [f32]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let strength = self.strength as f32;
        match &self.kind {
            ChangeKind::Rows(turn) => return turn.apply(file, values, strength),
            ChangeKind::Columns(turn) => {
                let mut turned = values.to_vec();
                turn.apply(file, &mut turned, values.len() / self.rows)?;
                blend(values, &turned, strength);
                return Ok(());
            }
            ChangeKind::Stretch { shares, of_columns } => {
                let mut shares = read(file, shares)?;
                if !of_columns {
                    shares = taken(shares, self.take);
                }
                self.stretch(values, *of_columns, |index| 1.0 + strength * shares[index]);
                return Ok(());
            }
            _ => {}
        }
        let Some(lengths) = &self.lengths else {
            return self.add_to(file, values, self.strength);
        };
        let mut changed = values.to_vec();
        self.add_to(file, &mut changed, 1.0)?;
        let mut wanted = read(file, &lengths.key)?;
        if lengths.axis == LengthAxis::Rows {
            wanted = taken(wanted, self.take);
        }
        let of_inputs = lengths.axis == LengthAxis::Inputs;
        let squares = self.squares(&changed, of_inputs);
        // As in LyCORIS, what has no length stays without one.
        let length = |index: usize| squares[index].sqrt() as f32 + f32::EPSILON;
        self.stretch(&mut changed, of_inputs, |index| wanted[index] / length(index));
        blend(values, &changed, strength);
        Ok(())
    }

    /// Adds what the matrices make.
    fn add_to(&self, file: &TensorMap, values: &mut [f32], strength: f64) -> Result<()> {
        let scaled = |factor: &f64| (strength * factor) as f32;
        let add = |values: &mut [f32], change: Vec<f32>, scale: f32| {
            let change = taken(change, self.take);
            values.iter_mut().zip(change).for_each(|(value, change)| *value += scale * change);
        };
        match &self.kind {
            ChangeKind::Sum { factor, matrix } => {
                matrix.add_to(file, values, self.take, scaled(factor))?;
            }
            ChangeKind::Hadamard { factor, matrices: [first, second] } => {
                let mut change = first.values(file)?;
                let second = second.values(file)?;
                change.iter_mut().zip(second).for_each(|(value, other)| *value *= other);
                add(values, change, scaled(factor));
            }
            ChangeKind::Kronecker { factor, matrices } => {
                add(values, kronecker(file, matrices)?, scaled(factor));
            }
            ChangeKind::General { factor, a, b } => {
                let through = self.through(file, values, a)?;
                b.add_to(file, values, self.take, scaled(factor))?;
                let scale = scaled(factor);
                values.iter_mut().zip(through).for_each(|(value, own)| *value += scale * own);
            }
            ChangeKind::Stretch { .. } | ChangeKind::Rows(_) | ChangeKind::Columns(_) => {}
        }
        Ok(())
    }

    /// `W·a₁·a₂` over the inputs of every place of a kernel.
    fn through(&self, file: &TensorMap, weight: &[f32], a: &[String; 2]) -> Result<Vec<f32>> {
        let (inputs, places) = (self.inputs, weight.len() / (self.rows * self.inputs));
        // Every row is [inputs, places], and the product wants the inputs last.
        let turned = |values: &[f32], rows: usize| -> Vec<f32> {
            values.chunks_exact(inputs * places).flat_map(|row| transposed(row, rows)).collect()
        };
        let weight = if places > 1 { turned(weight, inputs) } else { weight.to_vec() };
        let [first, second] = [read(file, &a[0])?, read(file, &a[1])?];
        let rank = first.len() / inputs;
        // The product takes as many rows of its second matrix as there are inner values.
        let mut inner = vec![0f32; self.rows * places * rank];
        add_product(&mut inner, &weight, &first, inputs, 1.0);
        let mut product = vec![0f32; weight.len()];
        add_product(&mut product, &inner, &second, rank, 1.0);
        Ok(if places > 1 { turned(&product, places) } else { product })
    }

    /// Multiplies every row, or every input, by a factor of its own.
    fn stretch(&self, values: &mut [f32], of_inputs: bool, factor: impl Fn(usize) -> f32) {
        let row = values.len() / self.rows;
        let places = row / self.inputs.max(1);
        for (index, row) in values.chunks_exact_mut(row).enumerate() {
            if of_inputs {
                for (input, values) in row.chunks_exact_mut(places).enumerate() {
                    let factor = factor(input);
                    values.iter_mut().for_each(|value| *value *= factor);
                }
            } else {
                let factor = factor(index);
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
    }

    /// Sums of squares of every row, or of every input.
    fn squares(&self, values: &[f32], of_inputs: bool) -> Vec<f64> {
        let row = values.len() / self.rows;
        let places = row / self.inputs.max(1);
        let square =
            |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        if !of_inputs {
            return values.chunks_exact(row).map(square).collect();
        }
        let mut squares = vec![0f64; self.inputs];
        for row in values.chunks_exact(row) {
            for (sum, values) in squares.iter_mut().zip(row.chunks_exact(places)) {
                *sum += square(values);
            }
        }
        squares
    }
}

/// `first ⊗ second`, in row order of `[rows of both, columns of both]`.
fn kronecker(file: &TensorMap, matrices: &[Factor; 2]) -> Result<Vec<f32>> {
    let shapes = [0, 1].map(|index| matrices[index].shape(file).unwrap_or_default());
    let [[rows, columns], [inner_rows, inner_columns]] = shapes;
    let (first, second) = (matrices[0].values(file)?, matrices[1].values(file)?);
    let mut product = Vec::with_capacity(first.len() * second.len());
    for row in 0..rows {
        for inner in 0..inner_rows {
            let second = &second[inner * inner_columns..][..inner_columns];
            for &value in &first[row * columns..][..columns] {
                product.extend(second.iter().map(|second| value * second));
            }
        }
    }
    Ok(product)
}

/// Brings values towards others by a share of the way.
fn blend(values: &mut [f32], wanted: &[f32], share: f32) {
    if share == 1.0 {
        values.copy_from_slice(wanted);
        return;
    }
    for (value, wanted) in values.iter_mut().zip(wanted) {
        *value += share * (wanted - *value);
    }
}

/// Changes that one adapter makes to one part of a model.
#[derive(Debug)]
pub(in crate::weights) struct Changes {
    pub(super) file: TensorMap,
    by_weight: HashMap<String, Vec<Change>>,
}

impl Changes {
    pub(super) fn new(file: TensorMap) -> Self {
        Self { file, by_weight: HashMap::new() }
    }

    pub(super) fn insert(&mut self, weight: &str, change: Change) {
        self.by_weight.entry(weight.to_owned()).or_default().push(change);
    }

    /// `true` if this weight changes at all.
    pub(in crate::weights) fn contains(&self, weight: &str) -> bool {
        self.by_weight.contains_key(weight)
    }

    /// Changes a weight's values, in row order.
    ///
    /// # Errors
    /// Matrices that are stored as no number.
    pub(in crate::weights) fn apply(&self, weight: &str, values: &mut [f32]) -> Result<()> {
        let changes = self.by_weight.get(weight).into_iter().flatten();
        changes.into_iter().try_for_each(|change| change.apply(&self.file, values))
    }
}
