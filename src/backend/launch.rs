//! Launches of our own GPU kernels. This file and the `launch.rs` of each operation know nothing of
//! devices: `kernels/check` runs the same launches on the CPU.

/// Launch geometry: one kernel, and how many threads run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name in its file, `NAME_bf16`, `NAME_f16` or `NAME_f32`.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block: whole warps.
    pub block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// The type of the elements that a kernel reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 16 bits, with the exponent of f32.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl ElementType {
    /// Bytes of one.
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The one of three kernels that is for this type.
    #[must_use]
    pub fn kernel(self, [bf16, f16, f32]: [&'static str; 3]) -> &'static str {
        match self {
            Self::Bf16 => bf16,
            Self::F16 => f16,
            Self::F32 => f32,
        }
    }
}

/// Threads of a block that computes value by value.
const THREADS: u32 = 256;
/// Most of their blocks; each goes on with later values.
const BLOCKS_MAX: u64 = 1 << 20;

impl Launch {
    /// A launch over `length` values, 16 bytes of them for a thread.
    #[must_use]
    pub fn over(kernel: &'static str, element: ElementType, length: u64) -> Self {
        let of_block = u64::from(THREADS * 16 / element.bytes());
        let blocks = length.div_ceil(of_block).clamp(1, BLOCKS_MAX) as u32;
        Self { kernel, grid: [blocks, 1, 1], block: THREADS, shared: 0 }
    }
}

/// Rows of values, as kernels take them by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSizes {
    /// Rows of all samples.
    pub rows: u64,
    /// Values of a row.
    pub width: u64,
}
