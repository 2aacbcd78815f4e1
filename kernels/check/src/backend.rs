//! What the launches of operations import from the program: `use kernel_check::backend;` at the root of a
//! test makes their `crate::backend::launch` this one.

#[path = "../../../src/backend/launch.rs"]
pub mod launch;
#[path = "../../../src/backend/launch_metal.rs"]
pub mod launch_metal;
