//! The protocol of the program's `pipe`, by which an editor talks with it over standard input and output: frames of a JSON
//! header and a payload ([`frame`]), and what the headers say ([`request`], [`answer`]). docs/pipe-protocol.md is its
//! description for those who write the other side.
//!
//! This room imports nothing from the others.

pub mod answer;
pub mod frame;
pub mod request;

/// Name of the protocol, as the greeting says it.
pub const NAME: &str = "cupscale-pipe";
/// Version of the protocol. What is added keeps it: other sides skip fields and answers that they do not know.
pub const VERSION: u32 = 1;
