//! Memory traces: a model's forward pass without values, run to measure the memory that it would take. A
//! plan has to know that before anything is loaded, and code that runs both ways cannot forget a value.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;

/// Kind of device that a traced pass would run on. The machine need not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The host.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

impl Placement {
    /// The bytes of a buffer for so many: candle rounds those of an Apple GPU up to a power of two, so that they can be used
    /// again.
    #[must_use]
    pub fn buffer(self, bytes: usize) -> usize {
        match self {
            Self::Metal if bytes > 0 => bytes.checked_next_power_of_two().unwrap_or(bytes),
            _ => bytes,
        }
    }
}

impl From<&Device> for Placement {
    fn from(device: &Device) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            Device::Cuda(_) => Self::Cuda,
            Device::Metal(_) => Self::Metal,
        }
    }
}

/// A trace: the bytes of all values that are alive, and the most that ever were.
///
/// Clones count together. Values are claimed by [`Activation`](super::Activation)s, which stop counting
/// when their last clone or view is dropped; so a function that takes and gives activations is traced by
/// calling it.
#[derive(Clone, Debug)]
pub struct Trace {
    placement: Placement,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// bytes that are alive
    live: usize,
    peak: usize,
    /// values of the largest buffer that a thread of the CPU keeps for itself
    scratch: usize,
    /// multiplications of matrix products, convolutions and attention
    products: f64,
}

impl Trace {
    /// A trace of what runs on `placement`.
    #[must_use]
    pub fn new(placement: impl Into<Placement>) -> Self {
        Self { placement: placement.into(), counts: Arc::default() }
    }

    /// Kind of device that the traced pass would run on.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// `bytes` that count as long as the claim is kept; of an Apple GPU the buffer that they take.
    pub fn hold(&self, bytes: usize) -> Claim {
        let bytes = self.placement.buffer(bytes);
        let mut counts = self.counts();
        counts.live += bytes;
        counts.peak = counts.peak.max(counts.live);
        Claim { trace: self.clone(), bytes }
    }

    /// `bytes` more are alive for a moment.
    pub fn pass(&self, bytes: usize) {
        drop(self.hold(bytes));
    }

    /// A thread of the CPU needs a buffer of so many f32 values, which it keeps for later.
    pub(super) fn scratch(&self, values: usize) {
        let mut counts = self.counts();
        counts.scratch = counts.scratch.max(values);
    }

    /// So many multiplications more are done by a matrix product, a convolution or an attention.
    pub(super) fn multiply(&self, products: f64) {
        self.counts().products += products;
    }

    /// The multiplications (each with its addition) of all matrix products, convolutions and attentions: nearly all
    /// that a network computes.
    #[must_use]
    pub fn products(&self) -> f64 {
        self.counts().products
    }

    /// The bytes of all that is alive.
    #[must_use]
    pub fn live(&self) -> usize {
        self.counts().live
    }

    /// The most bytes that were alive at any moment.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.counts().peak
    }

    /// The bytes of the buffer that every thread of the CPU keeps once it has needed it; they are no part
    /// of [`peak`](Self::peak).
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.counts().scratch * size_of::<f32>()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a [`Trace`] counts until this is dropped.
#[derive(Debug)]
#[must_use = "what is not kept counts for a moment only"]
pub struct Claim {
    trace: Trace,
    bytes: usize,
}

impl Claim {
    /// The trace that counts it.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.trace.counts().live -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn the_peak_is_what_was_alive_at_once_and_not_the_sum() {
        let trace = Trace::new(Placement::Cpu);
        let x = trace.activation((2, 10), DType::F32);
        for _ in 0..3 {
            let _y = trace.hold(40);
            assert_eq!((trace.live(), trace.peak()), (120, 120));
        }
        trace.pass(7);
        assert_eq!((trace.live(), trace.peak()), (80, 120));
        drop(x);
        assert_eq!((trace.live(), trace.peak()), (0, 120));
    }

    #[test]
    fn buffers_of_an_apple_gpu_are_powers_of_two() {
        let trace = Trace::new(Placement::Metal);
        let _x = trace.activation((3, 100), DType::F16);
        let _nothing = trace.hold(0);
        assert_eq!((trace.live(), trace.peak()), (1024, 1024));
        assert_eq!(Placement::Cuda.buffer(600), 600);
    }

    #[test]
    fn clones_of_a_trace_count_together() {
        let trace = Trace::new(Placement::Cuda);
        let held = trace.clone().hold(5);
        trace.clone().multiply(2.0);
        trace.multiply(1.0);
        assert_eq!(trace.products(), 3.0);
        assert_eq!(trace.live(), 5);
        held.trace().scratch(3);
        drop(held);
        assert_eq!((trace.live(), trace.scratch_bytes()), (0, 12));
    }
}
