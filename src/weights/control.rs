//! Files of a ControlNet, which is no part of a model but lies beside its denoiser: a folder in diffusers layout, or one
//! file with diffusers' names or those of the code that trained it.

use std::path::Path;

use candle_core::DType;

use super::families::{self, FAMILIES, control, find_control};
use super::file_kind::FileKind;
use super::form::{ModelForm, unused_note};
use super::part::{Part, PartConfig};
use super::part_file::PartFile;
use super::part_folder::PartFolder;
use super::replace::pooled_width;
use super::weights_file::open_tensors;
use super::{ModelSource, WeightsError, source, tensors::TensorMap};
use crate::model::denoiser::Control;

/// Folder of a ControlNet within a folder that has one beside other things.
const FOLDER: &str = "controlnet";

/// A ControlNet that has been found and recognised; its tensors have not been read.
#[derive(Clone, Debug)]
pub(super) struct ControlFiles {
    name: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PartFolder),
    File { file: Box<PartFile>, note: Option<String> },
}

impl ControlFiles {
    /// Finds the ControlNet at `path`, which users see under `name`, for a model.
    ///
    /// # Errors
    /// None there, or one that is not supported.
    pub(super) fn open(
        base: &dyn ModelForm,
        path: &Path,
        name: String,
    ) -> Result<Self, WeightsError> {
        let path = &source::in_hub_cache(path);
        source::refuse_foreign(path)?;
        if path.is_dir() {
            let folder = folder(path);
            folder.check()?;
            return Ok(Self { name, place: Place::Folder(folder) });
        }
        if !path.is_file() {
            return Err(WeightsError::NotFound(path.to_owned()));
        }
        let tensors = open_tensors(path)?;
        let file = path.display().to_string();
        let Some(part) = control(&file, &tensors, pooled_width(base)?)? else {
            let contents = families::contents(&tensors);
            return Err(WeightsError::NoSuchPart { file, part: "ControlNet", contents });
        };
        let note = unused_note(&file, part.unused(&tensors));
        Ok(Self { name, place: Place::File { file: Box::new(part), note } })
    }

    /// `true` if a ControlNet is at `path`, by its description or by the names of its tensors.
    pub(super) fn is_at(path: &Path) -> bool {
        let path = &source::in_hub_cache(path);
        if path.is_dir() {
            // Some whole models have one among their parts.
            let is_model = path.join("model_index.json").is_file();
            return !is_model
                && folder(path).config(None).is_ok_and(|config| Control::is_class(&config.class));
        }
        FileKind::of_file(path).is_some_and(FileKind::is_read)
            && open_tensors(path).is_ok_and(|tensors| find_control(&tensors).is_some())
    }

    /// Its name, as users and metadata see it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration.
    ///
    /// # Errors
    /// A file that is missing or not JSON.
    pub(super) fn config(&self) -> Result<PartConfig, WeightsError> {
        match &self.place {
            Place::Folder(folder) => folder.config(None),
            Place::File { file, .. } => Ok(file.config.clone()),
        }
    }

    /// Its tensors; `dtype` is the precision wanted, where files offer a choice.
    ///
    /// # Errors
    /// A file that is missing, cannot be read, or is damaged.
    pub(super) fn tensors(&self, dtype: DType) -> Result<TensorMap, WeightsError> {
        match &self.place {
            Place::Folder(folder) => folder.tensors(dtype),
            Place::File { file, .. } => Ok(file.tensors.clone()),
        }
    }

    /// Line about tensors that nothing uses.
    pub(super) fn note(&self) -> Option<String> {
        match &self.place {
            Place::Folder(folder) => folder.note(None),
            Place::File { note, .. } => note.clone(),
        }
    }
}

/// The folder of a ControlNet: `path`, or where that has no description of its own, the one in it.
fn folder(path: &Path) -> PartFolder {
    let source = ModelSource::Path(path.to_owned());
    let is_inside =
        !source.contains("config.json") && source.contains(&format!("{FOLDER}/config.json"));
    PartFolder::new(source, if is_inside { FOLDER } else { "" }, Part::Control, FAMILIES[0])
}
