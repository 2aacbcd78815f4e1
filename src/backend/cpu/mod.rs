//! Building blocks of the CPU's kernels: products with weights in packed panels, micro-kernels for each
//! instruction set, arithmetic that compilers vectorize, and the memory that they read and write. The
//! kernels themselves lie beside the operations that they implement ([`ops`](super::ops));
//! `docs/cpu-kernels.md` draws how they work.
//!
//! **Same bytes whatever the batch and the threads.** A sum is taken in one order, by one thread,
//! whatever else is computed beside it; where sums are taken in pieces, the pieces follow from the
//! shape of one sample alone. So a sample's result is the same, bit for bit, in any batch on any
//! number of threads.

pub(in crate::backend) mod element;
mod epilogue;
pub(in crate::backend) mod kernel;
pub(in crate::backend) mod matmul;
mod narrow;
pub(in crate::backend) mod panels;
pub(in crate::backend) mod pointwise;
pub(in crate::backend) mod product;
pub(in crate::backend) mod simd;
pub(in crate::backend) mod transpose;
mod values;

pub(in crate::backend) use epilogue::{Epilogue, with_epilogue};
pub(crate) use matmul::add_product;
pub(in crate::backend) use narrow::{Narrow, OUTPUTS};
pub(in crate::backend) use panels::{Panels, Right};
pub(in crate::backend) use values::{Shared, with_scratch, with_values, written};
