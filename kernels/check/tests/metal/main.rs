//! The Metal kernels, run on the CPU, against references in f64.

use kernel_check::{Arg, Element, Mode, backend};

use backend::{launch::Launch, launch_metal::MetalElement};

mod address_spaces;
mod attention;
mod canvas;
mod conv2d;
mod norm;
mod pointwise;
mod shim;

#[path = "../../../../src/backend/ops/attention/launch_metal.rs"]
mod attention_launch;
#[allow(dead_code, reason = "noise is the host's where there is Metal")]
#[path = "../../../../src/backend/ops/canvas/launch.rs"]
mod canvas_launch;
#[path = "../../../../src/backend/ops/combine/launch_metal.rs"]
mod combine_launch;
#[path = "../../../../src/backend/ops/conv2d/launch_metal.rs"]
mod conv2d_launch;
#[path = "../../../../src/backend/ops/crop_resize/launch.rs"]
mod crop_resize_launch;
#[path = "../../../../src/backend/ops/nonlinear/launch_metal.rs"]
mod nonlinear_launch;
#[path = "../../../../src/backend/ops/norm/launch_metal.rs"]
mod norm_launch;
#[path = "../../../../src/backend/ops/upsample/launch_metal.rs"]
mod upsample_launch;

/// Runs a Metal kernel; kernels for CUDA may have the same names.
#[track_caller]
fn launch(geometry: &Launch, arguments: &mut [Arg], mode: Mode) {
    let kernel = Box::leak(format!("metal/{}", geometry.kernel).into_boxed_str());
    kernel_check::launch(&Launch { kernel, ..*geometry }, arguments, mode);
}

/// The kernels for `T`: f16 has 11 bits.
fn element<T: Element>() -> MetalElement {
    if T::BITS == 11 { MetalElement::F16 } else { MetalElement::F32 }
}

/// Share of the largest value that a result may be off by.
fn bar<T: Element>() -> f64 {
    match element::<T>() {
        MetalElement::F16 => 2e-3,
        MetalElement::F32 => 1e-5,
    }
}

/// The bits of values, where numbers that are none are equal to themselves.
fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.widen().to_bits()).collect()
}

/// What `run` gives, which must be the same bits in every mode.
#[track_caller]
fn in_every_mode<T: Element>(what: &str, run: impl Fn(Mode) -> Vec<T>) -> Vec<T> {
    let values = run(Mode::ALL[0]);
    for mode in &Mode::ALL[1..] {
        assert!(bits(&run(*mode)) == bits(&values), "{what}: other values in {mode:?}");
    }
    values
}
