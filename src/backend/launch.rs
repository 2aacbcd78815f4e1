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
