//! Runs the GPU kernels of `kernels/*.cu` on the CPU: each thread of a block is a fiber, and what a GPU
//! would do wrong without a word is a panic with a message. The tests compare them with references in f64.

pub mod backend;
mod buffer;
mod compare;
mod element;
mod launch;

pub use buffer::Buffer;
pub use compare::{assert_close, uniform};
pub use element::{Element, bf16, f16};
pub use launch::{Arg, Mode, Order, launch, take_conflicts, try_launch};
