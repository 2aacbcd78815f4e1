//! The tiny Stable Diffusion 3.5 of the fixtures, put together.

use std::{fs, path::Path};

use super::{copy_folder, fixture};

/// Writes the model into a folder, in diffusers layout: its text encoders and tokenizers are those of other fixtures.
pub fn write_folder(to: &Path) {
    for part in ["transformer", "vae", "scheduler"] {
        copy_folder(&fixture("sd3/model").join(part), &to.join(part));
    }
    fs::copy(fixture("sd3/model/model_index.json"), to.join("model_index.json")).unwrap();
    for part in ["text_encoder", "text_encoder_2", "text_encoder_3"] {
        copy_folder(&fixture("t5/pipelines").join(part), &to.join(part));
    }
    for part in ["tokenizer", "tokenizer_2"] {
        copy_folder(&fixture("img2img/model").join(part), &to.join(part));
    }
    copy_folder(&fixture("t5/json"), &to.join("tokenizer_3"));
}

/// Leaves T5 out of a model that [`write_folder`] wrote.
pub fn remove_t5(folder: &Path) {
    let path = folder.join("model_index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["text_encoder_3"] = serde_json::json!([null, null]);
    index["tokenizer_3"] = serde_json::json!([null, null]);
    fs::write(path, index.to_string()).unwrap();
    for part in ["text_encoder_3", "tokenizer_3"] {
        fs::remove_dir_all(folder.join(part)).unwrap();
    }
}
