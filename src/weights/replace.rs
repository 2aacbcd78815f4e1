//! A model with one of its parts taken from elsewhere: another VAE (the one that stands f16, say), or a denoiser
//! that is handed around without the rest of its model.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use serde_json::Value;

use super::families::{self, Family, autoencoder_kl};
use super::form::{ModelForm, unused_note};
use super::part::{Part, PartConfig, TokenizerBytes};
use super::part_file::{LatentScale, PartFile, Prediction};
use super::part_folder::{PartFolder, read_json};
use super::weights_file::open_tensors;
use super::{ModelSource, WeightsError, source, tensors::TensorMap};

/// A model in some form, and a part that is not its own.
#[derive(Debug)]
pub(super) struct Replaced {
    base: Arc<dyn ModelForm>,
    family: &'static dyn Family,
    part: Part,
    with: Replacement,
}

/// Place where the part comes from.
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
    pub(super) fn vae(base: Arc<dyn ModelForm>, path: &Path) -> Result<Self, WeightsError> {
        let (part, family) = (Part::Vae, base.family());
        if let Some((folder, _)) = part_folder(path, part, family)? {
            return Ok(Self { base, family, part, with: Replacement::Folder(folder) });
        }
        let tensors = open_tensors(path)?;
        let name = path.display().to_string();
        let Some(file) = autoencoder_kl::part(&name, &tensors, latent_scale(&*base)?)? else {
            let contents = families::contents(&tensors);
            return Err(WeightsError::NoSuchPart { file: name, part: "VAE", contents });
        };
        let note = unused_note(&name, file.unused(&tensors));
        let with = Replacement::File { file: Box::new(file), prediction: None, note };
        Ok(Self { base, family, part, with })
    }

    /// Takes the denoiser from `path`: a folder with its `config.json`, a whole model in a folder or
    /// file, or a file of its own.
    ///
    /// # Errors
    /// No denoiser there, or one that is not supported.
    pub(super) fn denoiser(base: Arc<dyn ModelForm>, path: &Path) -> Result<Self, WeightsError> {
        let part = Part::Denoiser;
        if let Some((folder, family)) = part_folder(path, part, base.family())? {
            return Ok(Self { base, family, part, with: Replacement::Folder(folder) });
        }
        let tensors = open_tensors(path)?;
        let name = path.display().to_string();
        let pooled = pooled_width(&*base)?;
        let (family, file, prediction) =
            families::denoiser(&name, &tensors, pooled, base.family())?;
        let note = unused_note(&name, file.unused(&tensors));
        let with = Replacement::File { file: Box::new(file), prediction, note };
        Ok(Self { base, family, part, with })
    }
}

/// Folder of a part that `path` is or has, and the family that it is of: the one that its index or its class
/// says, else `family`. `None` for a file.
fn part_folder(
    path: &Path,
    part: Part,
    family: &'static dyn Family,
) -> Result<Option<(PartFolder, &'static dyn Family)>, WeightsError> {
    let path = &source::in_hub_cache(path);
    source::refuse_foreign(path)?;
    if path.is_file() {
        return Ok(None);
    }
    if !path.is_dir() {
        return Err(WeightsError::NotFound(path.to_owned()));
    }
    let source = ModelSource::Path(path.to_owned());
    let (folder, family) = if source.contains("model_index.json") {
        let family = families::of_index(&read_json(&source, "model_index.json")?);
        (PartFolder::new(source, &family.folder(part), part, family), family)
    } else {
        // A folder of the part's own, or one that has the part's folder and nothing else of a model.
        let inner = family.folder(part);
        let is_inside =
            !source.contains("config.json") && source.contains(&format!("{inner}/config.json"));
        let folder = if is_inside { &*inner } else { "" };
        let alone = PartFolder::new(source.clone(), folder, part, family);
        let class = alone.config(None).map(|config| config.class).unwrap_or_default();
        let family = families::of_class(&class).unwrap_or(family);
        (PartFolder::new(source, folder, part, family), family)
    };
    folder.check()?;
    Ok(Some((folder, family)))
}

/// Scale of a model's latents: that of the VAE in whose place another one comes, else that of the model's family.
fn latent_scale(base: &dyn ModelForm) -> Result<LatentScale, WeightsError> {
    let number = |config: &Value, field| config.get(field).and_then(Value::as_f64);
    if let Ok(own) = base.config(Part::Vae)
        && autoencoder_kl::is_class(&own.class)
        && let Some(factor) = number(&own.config, "scaling_factor")
    {
        return Ok(LatentScale { factor, shift: number(&own.config, "shift_factor") });
    }
    Ok(base.family().latent_scale(&base.config(Part::Denoiser)?.config))
}

/// Width of a model's pooled text embedding, if it has one.
pub(super) fn pooled_width(base: &dyn ModelForm) -> Result<Option<usize>, WeightsError> {
    let Some(&last) = base.text_encoders()?.last() else { return Ok(None) };
    let PartConfig { class, config, .. } = base.config(last)?;
    let width = config.get("projection_dim").and_then(Value::as_u64);
    Ok(width
        .filter(|_| class == "CLIPTextModelWithProjection")
        .and_then(|width| usize::try_from(width).ok()))
}

impl ModelForm for Replaced {
    fn source(&self) -> &ModelSource {
        self.base.source()
    }

    fn family(&self) -> &'static dyn Family {
        self.family
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        self.base.text_encoders()
    }

    fn index(&self) -> &Value {
        self.base.index()
    }

    /// The model's own, unless the denoiser's file marks the target of its prediction.
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
