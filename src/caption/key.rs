//! Cache keys of questions to a vision model: hashes of engine, model, instruction, options and pixels.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Pixels;
use crate::units::hex;

/// Answer of a model, before anything is cut from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedText {
    pub text: String,
    /// `true` if the model ended the text itself; `false` if the length limit did.
    pub has_ended: bool,
}

/// Hash of everything a question has in common over many pictures: engine, model, instruction, options.
#[derive(Clone, Debug)]
pub struct KeyPrefix(Sha256);

impl KeyPrefix {
    /// A key that holds the engine's name only.
    #[must_use]
    pub fn new(engine: &str) -> Self {
        let mut prefix = Self(Sha256::new());
        prefix.add(engine);
        prefix
    }

    /// Adds one more input of the answer to the hash.
    pub fn add(&mut self, part: &str) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// The question about one picture; `number` is whatever else tells it from others.
    #[must_use]
    pub fn key(&self, pixels: &Pixels, number: Option<u64>) -> CacheKey {
        let mut hash = self.0.clone();
        for number in [pixels.width() as u64, pixels.height() as u64].into_iter().chain(number) {
            hash.update(number.to_le_bytes());
        }
        hash.update(pixels.rgb());
        CacheKey(hex(&hash.finalize()))
    }
}

/// The digest of a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(pub(super) String);
