//! See DESIGN.
pub mod unet;
