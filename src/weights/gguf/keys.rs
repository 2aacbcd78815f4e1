//! Keys of the metadata in our GGUF files, one for each text of a folder in diffusers layout.

use crate::weights::families::{Family, tokenizer_folder};
use crate::weights::part::Part;

/// Key of the architecture in every GGUF file.
pub(super) const ARCHITECTURE_KEY: &str = "general.architecture";
/// Architecture of our files.
pub(super) const ARCHITECTURE: &str = "cupscale";
/// Key of `model_index.json`.
pub(super) const INDEX_KEY: &str = "cupscale.model_index";
/// Key of `scheduler_config.json`.
pub(super) const SCHEDULER_KEY: &str = "cupscale.scheduler.config";
/// Files of a tokenizer that are kept, by transformers' names.
pub(super) const TOKENIZER_FILES: [&str; 5] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Key of a part's `config.json`.
pub(super) fn config_key(family: &dyn Family, part: Part) -> String {
    format!("cupscale.{}.config", family.folder(part))
}

/// Key of a file of a text encoder's tokenizer.
pub(super) fn tokenizer_key(encoder: Part, file: &str) -> String {
    format!("cupscale.{}.{file}", tokenizer_folder(encoder))
}
