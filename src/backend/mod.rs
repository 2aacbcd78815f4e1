//! See DESIGN.
pub mod ops;
