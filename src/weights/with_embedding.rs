//! Embeddings for a model: which files of a folder are made for it, and under which names its prompts know them.

use std::path::Path;

use super::WeightsError;
use super::embedding::{self, Embedding};
use super::model::ModelFiles;
use super::part::PartConfig;
use crate::model::text::TextArrangement;
use crate::model::text::clip::ClipTextConfig;

impl ModelFiles {
    /// Model whose prompts know a word more, which stands for the vectors in a file (textual inversion): `name`, or else the
    /// file's, by itself or as `<name>`. `path` is a safetensors file in A1111's form (`emb_params`), in diffusers' (one
    /// tensor, whose key is a word too) or with `clip_l` and `clip_g` for SDXL; or a folder, of which all files are taken that
    /// are made for this model.
    ///
    /// # Errors
    /// A file that is no embedding or is made for another model, a name that is taken, or a model that reads texts with others than
    /// CLIP.
    pub fn with_embedding(mut self, path: &Path, name: Option<&str>) -> Result<Self, WeightsError> {
        let fail = |reason: &str| {
            let file = path.display().to_string();
            Err(WeightsError::Contents { file, reason: reason.to_owned() })
        };
        if self.arrangement()? != TextArrangement::Clip {
            return fail(
                "embeddings are for models that read texts with CLIP alone (Stable Diffusion 1 and 2, SDXL)",
            );
        }
        if path.is_dir() && name.is_some() {
            return fail("a folder has no name: each of its files has its own");
        }
        let mut encoders = Vec::new();
        for part in self.form.text_encoders()? {
            let PartConfig { config, file, .. } = self.form.config(part)?;
            let config = ClipTextConfig::from_json(&config)
                .map_err(|error| WeightsError::from_text(error, &file))?;
            encoders.push((part, config.hidden_size));
        }
        let files = embedding::files_at(path)?;
        let (all, mut others) = (files.len(), Vec::new());
        for file in files {
            match Embedding::open(&file, name, &encoders) {
                Ok(embedding) => self.add_embedding(&file, embedding)?,
                Err(error) if path.is_dir() => others.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if let Some(first) = others.first() {
            if others.len() == all {
                return fail(&format!(
                    "none of its files is an embedding for this model ({first})"
                ));
            }
            self.embedding_notes.push(format!(
                "{}: {} of {all} files are not for this model and are left out ({first})",
                path.display(),
                others.len()
            ));
        }
        Ok(self)
    }

    fn add_embedding(&mut self, file: &Path, embedding: Embedding) -> Result<(), WeightsError> {
        let lower = |name: &String| name.to_lowercase();
        let mut known = self.embeddings.iter().flat_map(|other| &other.name.names).map(lower);
        let names: Vec<_> = embedding.name.names.iter().map(lower).collect();
        if let Some(taken) = known.find(|known| names.contains(known)) {
            return Err(WeightsError::Contents {
                file: file.display().to_string(),
                reason: format!(
                    "another embedding is named `{taken}`: name one as in --embedding NAME=FILE"
                ),
            });
        }
        self.embeddings.push(embedding);
        self.options.paths.push(file.to_owned());
        Ok(())
    }

    /// Names of the embeddings, in the order in which they were given.
    pub fn embeddings(&self) -> impl Iterator<Item = &str> {
        self.embeddings.iter().filter_map(|one| one.name.names.first()).map(String::as_str)
    }
}
