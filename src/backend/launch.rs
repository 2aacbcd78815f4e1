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
