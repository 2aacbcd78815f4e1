//! What the fuzz targets share: an allocator that counts, so that every reader has a bound on memory and not only on
//! faults, and the properties of pictures and configurations.

mod config;
mod heap;
mod picture;
mod scratch;

pub use config::{config, json};
pub use heap::within;
pub use picture::picture;
pub use scratch::Scratch;

/// Bytes of a kibibyte and a mebibyte.
pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// Checks that an error can be said. What a terminal obeys is escaped where it is printed; here only its length is bounded.
#[track_caller]
pub fn told(message: impl ToString) {
    let message = message.to_string();
    assert!(
        !message.is_empty() && message.len() < 32 * KIB,
        "a message of {} bytes",
        message.len()
    );
}
