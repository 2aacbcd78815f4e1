//! A model with one of its parts taken from elsewhere: another VAE (the one that stands f16, say), or
//! a UNet that is handed around without the rest of its model.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use serde_json::Value;

use super::form::{Form, Part, PartConfig, TokenizerBytes, unused_note};
use super::part_file::{self, PartFile, Prediction};
use super::part_folder::PartFolder;
use super::{ModelSource, WeightsError, source, tensors::TensorMap};

/// A model in some form, and a part that is not its own.
#[derive(Debug)]
pub(super) struct Replaced {
    base: Arc<dyn Form>,
    part: Part,
    with: Replacement,
}

/// Where the part comes from.
#[derive(Debug)]
enum Replacement {
    Folder(PartFolder),
    File { file: Box<PartFile>, prediction: Option<Prediction>, note: Option<String> },
}

impl Replaced {
    /// Takes the VAE from `path`: a folder with its `config.json`, a whole model in a folder or file,
    /// or a file of its own.
    ///
    /// # Errors
    /// No VAE there, or one that is not supported.
    pub(super) fn vae(base: Arc<dyn Form>, path: &Path) -> Result<Self, WeightsError> {
        if let Some(folder) = part_folder(path, Part::Vae)? {
            return Ok(Self { base, part: Part::Vae, with: Replacement::Folder(folder) });
        }
        let tensors = part_file::open_tensors(path)?;
        let name = path.display().to_string();
        let scale = latent_scale(&*base)?;
        let Some(file) = part_file::vae(&name, &tensors, scale)? else {
            return Err(WeightsError::Contents {
                file: name,
                reason: format!("no VAE in it: {}", part_file::describe(&tensors)),
            });
        };
        let note = unused_note(&name, file.unused(&tensors));
        let with = Replacement::File { file: Box::new(file), prediction: None, note };
        Ok(Self { base, part: Part::Vae, with })
    }

    /// Takes the UNet from `path`: a folder with its `config.json`, a whole model in a folder or
    /// file, or a file of its own.
    ///
    /// # Errors
    /// No UNet there, or one that is not supported.
    pub(super) fn unet(base: Arc<dyn Form>, path: &Path) -> Result<Self, WeightsError> {
        if let Some(folder) = part_folder(path, Part::Unet)? {
            return Ok(Self { base, part: Part::Unet, with: Replacement::Folder(folder) });
        }
        let tensors = part_file::open_tensors(path)?;
        let name = path.display().to_string();
        let (file, prediction) = part_file::unet(&name, &tensors, pooled_width(&*base)?)?;
        let note = unused_note(&name, file.unused(&tensors));
        let with = Replacement::File { file: Box::new(file), prediction, note };
        Ok(Self { base, part: Part::Unet, with })
    }
}

/// The folder of a part that `path` is or has; `None` for a file.
fn part_folder(path: &Path, part: Part) -> Result<Option<PartFolder>, WeightsError> {
    let path = &source::in_hub_cache(path);
    source::refuse_pickle(path)?;
    if path.is_file() {
        return Ok(None);
    }
    if !path.is_dir() {
        return Err(WeightsError::NotFound(path.to_owned()));
    }
    let source = ModelSource::Path(path.to_owned());
    let folder = if source.contains("model_index.json") { part.folder() } else { "" };
    let folder = PartFolder::new(source, folder, part);
    folder.check()?;
    Ok(Some(folder))
}

/// The scale of a model's latents, which a VAE's tensors do not show: that of the VAE in whose place
/// another one comes, else that of the model's family.
fn latent_scale(base: &dyn Form) -> Result<f64, WeightsError> {
    if let Ok(own) = base.config(Part::Vae)
        && own.class == "AutoencoderKL"
        && let Some(scale) = own.config.get("scaling_factor").and_then(Value::as_f64)
    {
        return Ok(scale);
    }
    let unet = base.config(Part::Unet)?.config;
    let sdxl = unet.get("addition_embed_type").is_some_and(|kind| kind == "text_time");
    Ok(part_file::latent_scale(sdxl))
}

/// The width of a model's pooled text embedding, if it has one.
fn pooled_width(base: &dyn Form) -> Result<Option<usize>, WeightsError> {
    let Some(&last) = base.text_encoders()?.last() else { return Ok(None) };
    let PartConfig { class, config, .. } = base.config(last)?;
    let width = config.get("projection_dim").and_then(Value::as_u64);
    Ok(width
        .filter(|_| class == "CLIPTextModelWithProjection")
        .and_then(|width| usize::try_from(width).ok()))
}

impl Form for Replaced {
    fn source(&self) -> &ModelSource {
        self.base.source()
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        self.base.text_encoders()
    }

    fn index(&self) -> &Value {
        self.base.index()
    }

    /// The model's own, unless the UNet comes with a mark of what it predicts.
    fn scheduler(&self) -> Result<Value, WeightsError> {
        let mut scheduler = self.base.scheduler()?;
        if let Replacement::File { prediction: Some(prediction), .. } = &self.with {
            prediction.write(&mut scheduler);
        }
        Ok(scheduler)
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        match &self.with {
            _ if part != self.part => self.base.config(part),
            Replacement::Folder(folder) => folder.config(None),
            Replacement::File { file, .. } => Ok(file.config.clone()),
        }
    }

    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError> {
        match &self.with {
            _ if part != self.part => self.base.tensors(part, dtype),
            Replacement::Folder(folder) => folder.tensors(dtype),
            Replacement::File { file, .. } => Ok(file.tensors.clone()),
        }
    }

    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        self.base.tokenizer(encoder)
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        match &self.with {
            _ if part != self.part => self.base.check_part(part),
            Replacement::Folder(folder) => folder.check(),
            Replacement::File { .. } => Ok(()),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.base.notes();
        notes.extend(match &self.with {
            Replacement::Folder(folder) => folder.note(None),
            Replacement::File { note, .. } => note.clone(),
        });
        notes
    }
}
