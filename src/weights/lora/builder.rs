//! The change that a module of an adapter file makes to a weight, checked by the shapes of its tensors alone.

use super::changes::{Change, ChangeKind, LengthAxis, Lengths};
use super::error::LoraError;
use super::factor::{Factor, product, trim};
use super::module::{Module, ModuleKind, Strength};
use super::names::LoraWeight;
use super::roles::{LoraTensorRole, Of};
use super::rotation::{ColumnRotation, RowRotation};
use crate::weights::tensors::{Take, TensorMap};

/// One number in a tensor.
fn number(file: &TensorMap, key: &str) -> Result<f64, LoraError> {
    match file.number(key) {
        Some(value) if value.is_finite() => Ok(value),
        Some(value) => Err(LoraError::Alpha { key: key.to_owned(), value }),
        None => Err(LoraError::AlphaShape(key.to_owned())),
    }
}

/// A module beside the weight that it is to change.
pub(super) struct Builder<'a, 'b> {
    pub module: &'a Module<'b>,
    /// module's name in the file, for messages
    pub name: &'a str,
    pub file: &'a TensorMap,
    pub weight: &'a LoraWeight,
    /// how the weight's rows are taken from the module's
    pub take: Take,
    pub strength: &'a Strength<'a>,
}

impl Builder<'_, '_> {
    /// The change, if the module changes a weight.
    ///
    /// # Errors
    /// Tensors that are missing, of several kinds, or that do not fit the weight.
    pub(super) fn change(&self) -> Result<Option<Change>, LoraError> {
        let Some(kind) = self.module.kind(self.name)? else { return Ok(None) };
        let Self { weight, take, .. } = *self;
        let &[rows, ref columns @ ..] = weight.shape.as_slice() else { return Ok(None) };
        let inputs = columns.first().copied().unwrap_or(1);
        let (change, lengths) = (self.kind(kind)?, self.lengths(kind)?);
        let strength = self.strength.scale;
        Ok(Some(Change { kind: change, lengths, take, rows, inputs, strength }))
    }

    fn need(&self, role: LoraTensorRole) -> Result<String, LoraError> {
        self.module.need(self.name, role).map(str::to_owned)
    }

    fn key(&self, role: LoraTensorRole) -> Option<String> {
        self.module.key(role).map(str::to_owned)
    }

    fn shape(&self, key: &str) -> &[usize] {
        self.file.shape(key).unwrap_or_default()
    }

    /// Rows of the module's whole weight, and columns with the places of a kernel.
    fn sizes(&self) -> [usize; 2] {
        let (rows, columns) = self.weight.shape.split_first().unwrap_or((&0, &[]));
        let rows = match self.take {
            Take::Rows { of, .. } => rows.saturating_mul(of),
            _ => *rows,
        };
        [rows, product(columns).unwrap_or(0)]
    }

    /// Error for matrices that do not make the weight.
    fn misfit(&self, kind: ModuleKind) -> LoraError {
        let shapes: Vec<_> = (self.module.keys())
            .filter(|&(role, _)| ModuleKind::of(role) == Some(kind))
            .map(|(role, key)| format!("{} {:?}", role.title(), self.shape(key)))
            .collect();
        LoraError::Factors {
            module: self.name.to_owned(),
            shapes: shapes.join(", "),
            weight: self.weight.name.clone(),
            expected: self.weight.shape.clone(),
        }
    }

    /// Error for blocks that do not turn the weight.
    fn turning(&self, key: &str, reason: String) -> LoraError {
        LoraError::Rotation { key: key.to_owned(), weight: self.weight.name.clone(), reason }
    }

    /// Factor of the change: alpha over rank, times what LyCORIS learned. Two whole factors have no rank and no alpha:
    /// LyCORIS writes one that means 1, and peft's is in its configuration.
    fn factor(&self, rank: Option<usize>) -> Result<f64, LoraError> {
        let alpha = self.module.key(LoraTensorRole::Alpha);
        let alpha = alpha.map(|key| number(self.file, key)).transpose()?;
        let factor = match (alpha, rank) {
            (Some(alpha), Some(rank)) => alpha / rank as f64,
            (Some(_), None) => 1.0,
            (None, rank) => self.strength.config.scale(self.strength.module, rank),
        };
        let learned = self.module.key(LoraTensorRole::Scalar);
        Ok(factor * learned.map(|key| number(self.file, key)).transpose()?.unwrap_or(1.0))
    }

    /// A matrix of its two factors, and perhaps a core between them, of a rank that is not 0.
    fn pair(&self, [up, down]: [String; 2], core: Option<String>) -> Result<Factor, LoraError> {
        if self.shape(&down).first().is_none_or(|&rank| rank == 0) {
            return Err(LoraError::NoRank(down));
        }
        Ok(match core {
            Some(core) => Factor::Core { up, core, down, up_is_transposed: true },
            None => Factor::Product { up, down },
        })
    }

    /// Lengths of rows or inputs, if the module has them.
    fn lengths(&self, kind: ModuleKind) -> Result<Option<Lengths>, LoraError> {
        let of_rows = self.key(LoraTensorRole::Magnitude);
        let Some(key) = of_rows.clone().or_else(|| self.key(LoraTensorRole::DoraScale)) else {
            return Ok(None);
        };
        if !matches!(kind, ModuleKind::Lora | ModuleKind::Loha | ModuleKind::Lokr) {
            let kinds = ["DoRA", kind.title()];
            return Err(LoraError::Mixed { module: self.name.to_owned(), kinds });
        }
        let [rows, _] = self.sizes();
        let inputs = self.weight.shape.get(1).copied().unwrap_or(1);
        let shape = self.shape(&key);
        let axis = match trim(shape) {
            // peft: as many numbers as there are rows, whatever the axis.
            trimmed if of_rows.is_some() => {
                (product(trimmed) == Some(rows)).then_some(LengthAxis::Rows)
            }
            &[length] if length == rows => Some(LengthAxis::Rows),
            &[length] if shape.len() == 1 && length == inputs => Some(LengthAxis::Inputs),
            &[1, length] if length == inputs => Some(LengthAxis::Inputs),
            &[1, length] if length == rows => Some(LengthAxis::Rows),
            [] if rows == 1 => Some(LengthAxis::Rows),
            [] if inputs == 1 => Some(LengthAxis::Inputs),
            _ => None,
        };
        match (axis, self.take) {
            (None, _) => Err(LoraError::Lengths {
                found: shape.to_vec(),
                key,
                weight: self.weight.name.clone(),
                expected: self.weight.shape.clone(),
            }),
            // The length of an input is that of all rows, of which this weight has some.
            (Some(LengthAxis::Inputs), Take::Rows { .. }) => {
                Err(self.in_pieces("DoRA of its inputs"))
            }
            (Some(axis), _) => Ok(Some(Lengths { key, axis })),
        }
    }

    fn in_pieces(&self, kind: &'static str) -> LoraError {
        LoraError::Pieces { module: self.name.to_owned(), kind }
    }
}

impl Builder<'_, '_> {
    /// Change that a module of this kind makes.
    fn kind(&self, kind: ModuleKind) -> Result<ChangeKind, LoraError> {
        use LoraTensorRole as Role;
        let Self { file, weight, take, .. } = *self;
        let [rows, columns] = self.sizes();
        if take == Take::Transposed {
            return Err(self.in_pieces(kind.title()));
        }
        let fits = |shape: Option<[usize; 2]>| match shape {
            Some(shape) if shape == [rows, columns] => Ok(()),
            _ => Err(self.misfit(kind)),
        };
        match kind {
            ModuleKind::Lora => {
                let (up, down) = (self.need(Role::Up)?, self.need(Role::Down)?);
                let core = self.key(Role::Mid);
                let shape = |key: &str| self.shape(key);
                let is_fit = fits_exactly(
                    &take.shape(shape(&up)),
                    shape(&down),
                    core.as_deref().map(shape),
                    &weight.shape,
                );
                if shape(&down).first().is_none_or(|&rank| rank == 0) {
                    return Err(LoraError::NoRank(down));
                }
                if !is_fit {
                    return Err(LoraError::Shape {
                        shapes: [shape(&up).to_vec(), shape(&down).to_vec()],
                        down,
                        weight: weight.name.clone(),
                        expected: weight.shape.clone(),
                    });
                }
                let matrix = match core {
                    Some(core) => Factor::Core { up, core, down, up_is_transposed: false },
                    None => Factor::Product { up, down },
                };
                Ok(ChangeKind::Sum { factor: self.factor(matrix.rank(file))?, matrix })
            }
            ModuleKind::Loha => {
                let matrix = |of| {
                    let pair = [self.need(Role::HadaUp(of))?, self.need(Role::HadaDown(of))?];
                    self.pair(pair, self.key(Role::HadaCore(of)))
                };
                let matrices = [matrix(Of::First)?, matrix(Of::Second)?];
                matrices.iter().try_for_each(|matrix| fits(matrix.shape(file)))?;
                Ok(ChangeKind::Hadamard { factor: self.factor(matrices[0].rank(file))?, matrices })
            }
            ModuleKind::Lokr => {
                let matrix = |of| {
                    if let Some(whole) = self.key(Role::Kron(of)) {
                        return Ok(Factor::Whole(whole));
                    }
                    let up = self.key(Role::KronUp(of));
                    let up = up.map_or_else(|| self.need(Role::Kron(of)), Ok)?;
                    let core = self.key(Role::KronCore).filter(|_| of == Of::Second);
                    self.pair([up, self.need(Role::KronDown(of))?], core)
                };
                let matrices = [matrix(Of::First)?, matrix(Of::Second)?];
                let shapes = [0, 1].map(|index| matrices[index].shape(file));
                let shape = match shapes {
                    [Some(first), Some(second)] => Some([
                        first[0].checked_mul(second[0]).unwrap_or(0),
                        first[1].checked_mul(second[1]).unwrap_or(0),
                    ]),
                    _ => None,
                };
                fits(shape)?;
                let rank = matrices[1].rank(file).or_else(|| matrices[0].rank(file));
                Ok(ChangeKind::Kronecker { factor: self.factor(rank)?, matrices })
            }
            ModuleKind::Difference => {
                let key = self.need(Role::Difference)?;
                if trim(&take.shape(self.shape(&key))) != trim(&weight.shape) {
                    return Err(self.misfit(kind));
                }
                Ok(ChangeKind::Sum { factor: 1.0, matrix: Factor::Whole(key) })
            }
            ModuleKind::Glora => self.general(fits),
            ModuleKind::Ia3 => {
                let shares = self.need(Role::Lengths)?;
                let of_columns = number(file, &self.need(Role::OnInput)?)? != 0.0;
                let inputs = weight.shape.get(1).copied().unwrap_or(1);
                let expected = if of_columns { inputs } else { rows };
                if product(self.shape(&shares)) != Some(expected) {
                    return Err(self.misfit(kind));
                }
                Ok(ChangeKind::Stretch { shares, of_columns })
            }
            ModuleKind::Oft => {
                let blocks = self.need(Role::OftBlocks)?;
                if take != Take::Whole {
                    return Err(self.in_pieces(kind.title()));
                }
                let alpha = self.module.key(Role::Alpha);
                let alpha = alpha.map(|key| number(file, key)).transpose()?.unwrap_or(0.0);
                let rescale = self.module.key(Role::Rescale);
                let turn = RowRotation::new(file, &blocks, rescale, rows, alpha);
                turn.map(ChangeKind::Rows).map_err(|reason| self.turning(&blocks, reason))
            }
            ModuleKind::PeftOft => {
                let triangles = self.need(Role::OftTriangles)?;
                let (is_shared, terms) = self.strength.config.rotation();
                let turn = ColumnRotation::new(file, &triangles, columns, is_shared, terms);
                turn.map(ChangeKind::Columns).map_err(|reason| self.turning(&triangles, reason))
            }
        }
    }

    fn general(
        &self,
        fits: impl Fn(Option<[usize; 2]>) -> Result<(), LoraError>,
    ) -> Result<ChangeKind, LoraError> {
        use LoraTensorRole as Role;
        let file = self.file;
        let need = |of| Ok([self.need(Role::GeneralA(of))?, self.need(Role::GeneralB(of))?]);
        let [[a1, b1], [a2, b2]] = [need(Of::First)?, need(Of::Second)?];
        let inputs = self.weight.shape.get(1).copied().unwrap_or(1);
        let matrix = |a: [&String; 2]| {
            let [first, second] = a.map(|key| trim_to_matrix(self.shape(key)));
            match (first, second) {
                (Some([rows, rank]), Some([inner, columns])) => {
                    let is_square = rows == inputs && columns == inputs;
                    (is_square && rank == inner && rank > 0).then_some(rank)
                }
                _ => None,
            }
        };
        // The first versions of LyCORIS called the second matrix the first.
        let [a, [up, down]] = match matrix([&a1, &a2]) {
            Some(_) => [[a1, a2], [b1, b2]],
            None if matrix([&a2, &a1]).is_some() => [[a2, a1], [b2, b1]],
            None => return Err(self.misfit(ModuleKind::Glora)),
        };
        if self.shape(&down).first().is_none_or(|&rank| rank == 0) {
            return Err(LoraError::NoRank(down));
        }
        let b = match self.key(Role::GeneralCore) {
            Some(core) => Factor::Core { up, core, down, up_is_transposed: false },
            None => Factor::Product { up, down },
        };
        fits(b.shape(file))?;
        let rank = matrix([&a[0], &a[1]]);
        Ok(ChangeKind::General { factor: self.factor(rank)?, a, b })
    }
}

/// Rows and columns of what is a matrix, or a `1×1` convolution.
fn trim_to_matrix(shape: &[usize]) -> Option<[usize; 2]> {
    match *trim(shape) {
        [rows] => Some([rows, 1]),
        [rows, columns] => Some([rows, columns]),
        _ => None,
    }
}

/// `true` if `up · (core ·) down` has the shape of a weight, axes of length 1 at the end apart.
fn fits_exactly(up: &[usize], down: &[usize], mid: Option<&[usize]>, weight: &[usize]) -> bool {
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
            let fits = fits_exactly(up, down, mid, weight);
            assert_eq!(fits, expected, "{up:?} {down:?} {mid:?} {weight:?}");
        }
    }
}
