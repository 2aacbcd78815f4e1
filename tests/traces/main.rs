//! Memory traces held against reality: every kind of model is run, and the peak of the bytes that are then
//! alive is compared with what a trace of the very same call says, in the CPU's kernel form (f32) and in
//! the composed form that other devices run (f16).

#[path = "../common/mod.rs"]
mod common;
mod counting;
mod models;
mod weights;

use candle_core::{DType, Device, Tensor};
use cupscale::backend::{Activation, Placement, Trace};

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Source of a call's inputs: real tensors, or those of a memory trace.
type Inputs<'a> = &'a dyn Fn(&[usize], DType) -> Activation;

/// Ratio of a trace's peak to the measured peak.
const BOUNDS: std::ops::RangeInclusive<f64> = 0.95..=1.15;

/// Runs `call` for real and within a trace, inputs and all, and holds the peaks together.
#[track_caller]
fn compare(what: &str, call: impl Fn(Inputs<'_>, Option<&Trace>)) {
    let real = |shape: &[usize], dtype| {
        Activation::from(Tensor::zeros(shape, dtype, &Device::Cpu).unwrap())
    };
    let run = || call(&real, None);
    // The buffers that threads keep are no part of a trace's peak: they are there when it is measured.
    run();
    let measured = counting::peak_of(run);
    let trace = Trace::new(Placement::Cpu);
    call(&|shape, dtype| trace.activation(shape, dtype), Some(&trace));
    assert_eq!(trace.live(), 0, "{what}: something outlives the call");
    let ratio = trace.peak() as f64 / measured as f64;
    println!("{what:<40} traced {:>11} measured {measured:>11} ratio {ratio:.3}", trace.peak());
    assert!(
        BOUNDS.contains(&ratio),
        "{what}: {} traced, {measured} measured, ratio {ratio:.3}",
        trace.peak()
    );
}
