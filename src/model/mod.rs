//! See DESIGN.

pub mod text;
pub mod vae;
