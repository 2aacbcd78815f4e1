//! The tiny PixArt of the fixtures, put together.

use std::path::Path;

use super::{copy_folder, fixture};

/// Writes the model into a folder, in diffusers layout: its autoencoder and tokenizer are those of other fixtures.
pub fn write_folder(to: &Path) {
    copy_folder(&fixture("pixart_job/model"), to);
    copy_folder(&fixture("img2img/model/vae"), &to.join("vae"));
    copy_folder(&fixture("t5/json"), &to.join("tokenizer"));
}
