//! The canvas's kernels against the program's own code for the CPU, bit for bit.

use kernel_check::{backend, uniform};

mod field;
mod regions;
mod step;

#[path = "../../../../src/backend/ops/canvas/launch.rs"]
mod canvas_launch;

#[allow(dead_code)]
#[path = "."]
mod canvas {
    #[path = "../../../../src/canvas/elementary.rs"]
    mod elementary;
    #[path = "../../../../src/canvas/error.rs"]
    mod error;
    #[path = "../../../../src/canvas/fuse.rs"]
    pub mod fuse;
    #[path = "../../../../src/canvas/grid.rs"]
    pub mod grid;
    #[path = "../../../../src/canvas/noise.rs"]
    pub mod noise;
    #[path = "../../../../src/canvas/weights.rs"]
    pub mod weights;
}

#[allow(dead_code)]
#[path = "."]
mod priors {
    #[path = "../../../../src/priors/structure.rs"]
    pub mod structure;
}

#[allow(dead_code)]
#[path = "../../../../src/ranges.rs"]
mod ranges;

#[allow(dead_code, unused_imports)]
#[path = "../../../../src/sampler/mod.rs"]
mod sampler;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[track_caller]
fn assert_bits(what: &str, ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let differs = |(ours, expected): (&f32, &f32)| ours.to_bits() != expected.to_bits();
    if let Some(at) = ours.iter().zip(expected).position(differs) {
        panic!("{what}: {} at {at}, not {}", ours[at], expected[at]);
    }
}

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    uniform::<f32>(seed, len).into_iter().map(|x| 2.5 * x).collect()
}
