//! What the launches of the Metal kernels (`kernels/*.metal`) share. Like `launch.rs`, neither this file nor the
//! `launch_metal.rs` of an operation knows of devices.

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
