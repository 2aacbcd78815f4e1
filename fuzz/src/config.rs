//! Properties of readers of configuration files: they are deterministic, do not depend on the order of fields or on white
//! space, hold little memory, and refuse with a message of bounded length.

use std::fmt::{Debug, Display};

use serde_json::Value;

use crate::{MIB, told, within};

/// The JSON value that `text` is, if it has a value for every field once (a later one would win).
pub fn json(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

/// Checks a reader on a configuration; `use_it` does something with what is accepted.
pub fn config<T: Debug, E: Display>(
    file: &[u8],
    read: impl Fn(&Value) -> Result<T, E>,
    use_it: impl FnOnce(&T),
) {
    let Some(value) = json(file) else { return };
    let most = MIB + 64 * file.len();
    let first = within(most, || read(&value));
    // Written and read again, as a model is when it is converted.
    let text = value.to_string();
    let Ok(anew) = serde_json::from_str::<Value>(&text) else {
        panic!("a value that does not come back: {text}");
    };
    match (first, read(&anew)) {
        (Ok(first), Ok(second)) => {
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
            use_it(&first);
        }
        (Err(first), Err(second)) => {
            told(&first);
            assert_eq!(first.to_string(), second.to_string());
        }
        (first, _) => panic!("accepted once of two times, at first: {}", first.is_ok()),
    }
}
