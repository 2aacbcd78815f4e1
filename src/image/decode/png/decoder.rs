//! What all share that decode with the `png` crate: its limit, and its messages in our words.

use std::io;

use png::DecodingError;

/// Most bytes that the decoder may use: for a palette, and for a row of the widest picture.
pub(super) const LIMIT: usize = 1 << 30;

/// The decoder's message; a file that ends is told in our words.
pub(super) fn reason(error: &DecodingError) -> String {
    match error {
        DecodingError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "truncated".to_owned()
        }
        other => other.to_string(),
    }
}
