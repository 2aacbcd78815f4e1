//! Weight storage: the place of a weight and its layout. It is decided here and nowhere else, before
//! anything is read, so that a plan of memory and the loaded model cannot differ.

use candle_core::{DType, Result, Shape, quantized::GgmlDType};

use crate::backend::{MatmulPrecision, Working, blocks, cpu, cpu::panels::Blocks};

/// Use of a weight by its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// A dense layer's, `[out, in]`, or `[out, in, 1, 1]` of a 1×1 convolution.
    Matrix,
    /// A convolution's, `[out, in, k, k]`. Its inputs are those of all pixels under the kernel, row by
    /// row, channels innermost.
    Kernel,
    /// A table of rows that are looked up, `[count, width]` or `[1, count, width]`.
    Table,
}

impl WeightUse {
    /// Outputs and inputs of a weight of this shape; of a table, its rows and their width.
    ///
    /// # Errors
    /// Another shape than the use has.
    pub fn dims(self, shape: &Shape) -> Result<(usize, usize)> {
        match (self, shape.dims()) {
            (Self::Matrix | Self::Table, &[output, input])
            | (Self::Matrix, &[output, input, 1, 1])
            | (Self::Table, &[1, output, input]) => Ok((output, input)),
            (Self::Kernel, &[output, input, height, width]) if height == width => {
                Ok((output, input * height * width))
            }
            (Self::Kernel, [_, _, _, _]) => {
                candle_core::bail!("conv2d: the kernel of {shape:?} is not square")
            }
            (Self::Matrix | Self::Table, _) => {
                candle_core::bail!("{shape:?} is no weight of a dense layer")
            }
            (Self::Kernel, _) => candle_core::bail!("{shape:?} is no weight of a convolution"),
        }
    }
}

/// Form in which a source has a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The format of its numbers.
    pub format: GgmlDType,
    /// `true` if these numbers, in this format, lie in a file that stays mapped.
    pub in_file: bool,
    /// `true` if the CPU is to keep them in their format where it computes in f32.
    pub keep: bool,
}

/// Weight storage: the place of a weight and its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightStorage {
    /// The device's memory, `[in, out]` (a table as it is), for candle's products.
    Dense(DType),
    /// Packed panels, for the CPU's kernels.
    Panels {
        /// Matmul precision.
        precision: MatmulPrecision,
        /// The type that the weight is read in. 16 bits stay 16 bits where products are f32.
        numbers: DType,
    },
    /// Rows in f32, for the CPU's convolution with a few outputs.
    Narrow {
        /// The type that the weight is read in.
        numbers: DType,
    },
    /// Rows in the mapped file, in this format.
    InFile(GgmlDType, MatmulPrecision),
    /// Rows in host memory, in this format.
    InMemory(GgmlDType, MatmulPrecision),
    /// Quantized, in a GPU's memory.
    OnDevice(GgmlDType),
}

impl WeightStorage {
    /// Decides for a weight of this shape that computes in `working`; `stored` is what its source has, if
    /// that is anything but numbers in the working precision.
    ///
    /// # Errors
    /// A shape that the use does not have.
    pub fn choose(
        weight_use: WeightUse,
        shape: &Shape,
        stored: Option<Stored>,
        working: &Working,
    ) -> Result<Self> {
        let (output, input) = weight_use.dims(shape)?;
        let &Working { dtype, precision, .. } = working;
        let on_cpu = working.has_cpu_products();
        // Weights that stay in the source's format.
        let kept = stored.filter(|stored| {
            let kept_by_cpu = on_cpu && stored.keep && stored.format != GgmlDType::F32;
            kept_by_cpu || (!working.device.is_cpu() && blocks::is_quantized(stored.format))
        });
        if weight_use == WeightUse::Kernel {
            let numbers = match kept.filter(|_| on_cpu).map(|kept| kept.format) {
                Some(GgmlDType::BF16) => DType::BF16,
                Some(_) => DType::F16,
                None => dtype,
            };
            return Ok(match on_cpu {
                true if output <= cpu::OUTPUTS => Self::Narrow { numbers },
                true => Self::Panels { precision, numbers },
                false => Self::Dense(dtype),
            });
        }
        let fits = kept.filter(|kept| input.is_multiple_of(kept.format.block_size()));
        Ok(match (fits, on_cpu) {
            (Some(Stored { format, in_file: true, .. }), true) => Self::InFile(format, precision),
            (Some(Stored { format, .. }), true) => Self::InMemory(format, precision),
            (Some(Stored { format, .. }), false) if weight_use == WeightUse::Matrix => {
                Self::OnDevice(format)
            }
            // Blocks across the ends of rows: no such row can be taken by itself.
            (None, true) if kept.is_some() => Self::InMemory(GgmlDType::F16, precision),
            (_, true) if weight_use == WeightUse::Matrix => {
                Self::Panels { precision, numbers: dtype }
            }
            _ => Self::Dense(dtype),
        })
    }

    /// The type that a source's numbers are to be read in, where they are read as numbers.
    #[must_use]
    pub fn numbers(self) -> DType {
        match self {
            Self::Dense(numbers) | Self::Panels { numbers, .. } | Self::Narrow { numbers } => {
                numbers
            }
            Self::InFile(..) | Self::InMemory(..) | Self::OnDevice(_) => DType::F32,
        }
    }

    /// The bytes of a weight with so many outputs and inputs.
    #[must_use]
    pub fn bytes(self, output: usize, input: usize) -> usize {
        match self {
            Self::Dense(dtype) => output * input * dtype.size_in_bytes(),
            Self::Panels { precision, numbers } => {
                cpu::panels::panels_bytes(precision, numbers != DType::F32, input, output)
            }
            Self::Narrow { .. } => cpu::OUTPUTS * input * size_of::<f32>(),
            Self::InFile(format, _) | Self::InMemory(format, _) | Self::OnDevice(format) => {
                blocks::stored_bytes(format, input).map_or(0, |row| output * row)
            }
        }
    }

    /// Access of the CPU's products to its numbers; `None` if they have none.
    pub(in crate::backend) fn blocks(self) -> Option<Blocks> {
        match self {
            Self::Panels { precision, numbers } => Some(Blocks::of_panels(precision, numbers)),
            Self::InFile(..) | Self::InMemory(..) => Some(Blocks::OfRows),
            Self::Dense(_) | Self::Narrow { .. } | Self::OnDevice(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn working(dtype: DType) -> Working {
        Working { dtype, device: Device::Cpu, precision: MatmulPrecision::F32 }
    }

    fn chosen(
        weight_use: WeightUse,
        shape: &[usize],
        stored: Option<(GgmlDType, bool)>,
        dtype: DType,
    ) -> WeightStorage {
        let stored = stored.map(|(format, keep)| Stored { format, in_file: true, keep });
        WeightStorage::choose(weight_use, &shape.into(), stored, &working(dtype)).unwrap()
    }

    #[test]
    fn what_the_cpu_keeps_stays_in_its_file_and_all_else_is_laid_out_for_kernels() {
        use WeightStorage::{Dense, InFile, InMemory, Narrow, Panels};
        let f32 = MatmulPrecision::F32;
        let panels = |numbers| Panels { precision: f32, numbers };
        let q8 = |keep| Some((GgmlDType::Q8_0, keep));
        let matrix = |stored| chosen(WeightUse::Matrix, &[8, 64], stored, DType::F32);
        assert_eq!(matrix(None), panels(DType::F32));
        assert_eq!(matrix(q8(false)), panels(DType::F32));
        assert_eq!(matrix(q8(true)), InFile(GgmlDType::Q8_0, f32));
        assert_eq!(matrix(Some((GgmlDType::F32, true))), panels(DType::F32));
        let odd = chosen(WeightUse::Matrix, &[8, 50], q8(true), DType::F32);
        assert_eq!(odd, InMemory(GgmlDType::F16, f32));
        let kernel =
            |outputs, stored| chosen(WeightUse::Kernel, &[outputs, 4, 3, 3], stored, DType::F32);
        assert_eq!(kernel(8, q8(true)), panels(DType::F16));
        assert_eq!(kernel(8, Some((GgmlDType::BF16, true))), panels(DType::BF16));
        assert_eq!(kernel(4, None), Narrow { numbers: DType::F32 });
        let table = |stored| chosen(WeightUse::Table, &[8, 64], stored, DType::F32);
        assert_eq!(table(None), Dense(DType::F32));
        assert_eq!(table(q8(true)), InFile(GgmlDType::Q8_0, f32));
    }

    #[test]
    fn in_half_precision_the_cpu_has_no_kernels() {
        for weight_use in [WeightUse::Matrix, WeightUse::Table] {
            let stored = Some((GgmlDType::Q8_0, true));
            let storage = chosen(weight_use, &[8, 64], stored, DType::F16);
            assert_eq!(storage, WeightStorage::Dense(DType::F16));
            assert_eq!(storage.bytes(8, 64), 1024);
        }
    }

    #[test]
    fn a_shape_that_a_use_does_not_have_is_refused() {
        let refused = |weight_use: WeightUse, shape: &[usize]| {
            WeightStorage::choose(weight_use, &shape.into(), None, &working(DType::F32)).is_err()
        };
        assert!(refused(WeightUse::Matrix, &[8]));
        assert!(refused(WeightUse::Matrix, &[8, 4, 3, 3]));
        assert!(refused(WeightUse::Kernel, &[8, 4, 3, 1]));
        assert!(refused(WeightUse::Kernel, &[8, 4]));
    }
}
