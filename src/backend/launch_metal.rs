//! What the launches of the Metal kernels (`kernels/*.metal`) share. Like `launch.rs`, neither this file nor the
//! `launch_metal.rs` of an operation knows of devices.

use crate::backend::launch::Launch;

/// Values that a thread reads or writes at once.
pub const RUN: u32 = 4;

/// Types of the elements that Metal kernels compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetalElement {
    /// 16 bits of IEEE 754.
    F16,
    /// 32 bits.
    F32,
}

impl MetalElement {
    /// The one of two kernels that is for this type.
    #[must_use]
    pub fn kernel(self, [f16, f32]: [&'static str; 2]) -> &'static str {
        match self {
            Self::F16 => f16,
            Self::F32 => f32,
        }
    }
}

/// Whether rows of `width` values, of buffers whose first value is at a whole number of runs if `aligned`, all begin
/// at whole runs.
#[must_use]
pub fn has_runs(aligned: bool, width: u32) -> bool {
    aligned && width.is_multiple_of(RUN)
}

/// What kernels over values of any shape take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthSizes {
    /// Values.
    pub length: u64,
    /// 1 if all buffers begin at whole runs.
    pub aligned: u64,
}

impl LengthSizes {
    /// The launch of a kernel over so many values, a run for each thread; at most 2³⁴ of them.
    #[must_use]
    pub fn launch(kernel: &'static str, length: u64, aligned: bool) -> (Launch, Self) {
        const THREADS: u32 = 256;
        let groups = length.div_ceil(u64::from(RUN * THREADS)) as u32;
        let launch = Launch { kernel, grid: [groups.max(1), 1, 1], block: THREADS, shared: 0 };
        (launch, Self { length, aligned: aligned.into() })
    }
}

/// What kernels over rows of values take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSizes {
    /// Values of a row of the output.
    pub width: u32,
    /// Rows that share a row of the bias.
    pub bias_rows: u32,
    /// 1 if there is a summand.
    pub has_other: u32,
    /// 1 if rows are whole runs.
    pub aligned: u32,
}

impl RowSizes {
    /// Sizes of so many rows, with one bias for all and without a summand.
    #[must_use]
    pub fn new(rows: u32, width: u32, aligned: bool) -> Self {
        Self { width, bias_rows: rows, has_other: 0, aligned: has_runs(aligned, width).into() }
    }

    /// The launch of a kernel over so many rows, a run for each thread.
    #[must_use]
    pub fn launch(self, kernel: &'static str, rows: u32) -> Launch {
        const THREADS: u32 = 64;
        let grid = [self.width.div_ceil(RUN * THREADS), rows, 1];
        Launch { kernel, grid, block: THREADS, shared: 0 }
    }
}
