//! See DESIGN.
pub mod attention;
