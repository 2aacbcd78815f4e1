//! The mask of a job: one picture for all that it enlarges, or a folder that has one for each by its name.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use cupscale::{
    image::{self, Input, InputKind, ReadOptions},
    pipeline::{Error, Mask, Settings},
};

use super::error::CliError;

/// The mask that the options name.
#[derive(Clone, Debug)]
pub struct MaskChoice {
    path: PathBuf,
    inverted: bool,
    feather: u32,
    /// The mask of all pictures, once it is read.
    of_all: OnceLock<Mask>,
}

impl MaskChoice {
    /// The mask, or the folder of masks, at `path`.
    pub fn new(path: PathBuf, inverted: bool, feather: u32) -> Self {
        Self { path, inverted, feather, of_all: OnceLock::new() }
    }

    /// The settings of the job of the picture at `input`, with its mask.
    ///
    /// # Errors
    /// A mask that cannot be read, or a folder that has none for this picture.
    pub fn settings(&self, settings: &Settings, input: &Input) -> Result<Settings, CliError> {
        let mut settings = settings.clone();
        settings.mask = Some(if self.path.is_dir() {
            self.read(Input::Path(self.find(input)?))?
        } else if let Some(mask) = self.of_all.get() {
            mask.clone()
        } else {
            let mask = self.read(Input::Path(self.path.clone())).map_err(of_all)?;
            self.of_all.get_or_init(|| mask).clone()
        });
        Ok(settings)
    }

    /// The mask in a picture's file.
    ///
    /// # Errors
    /// A picture that cannot be read.
    pub fn read(&self, input: Input) -> Result<Mask, CliError> {
        let picture = image::open(&input, &ReadOptions::default()).and_then(|it| it.decode());
        let mask = Mask::new(picture.map_err(Error::from)?);
        Ok(mask.inverted(self.inverted).feathered(self.feather))
    }

    /// The file of the folder that bears the picture's name, whatever its extension: in the folders within it by which the
    /// picture's own path ends, else in itself.
    fn find(&self, input: &Input) -> Result<PathBuf, CliError> {
        let refuse = |reason: String| {
            Err(CliError::Usage(format!("--mask {}: {reason}", self.path.display())))
        };
        let Input::Path(picture) = input else {
            return refuse(format!("is a folder, and {} has no name: name a file", input.name()));
        };
        let (Some(stem), Some(parent)) = (picture.file_stem(), picture.parent()) else {
            return refuse(format!("{}: has no name", picture.display()));
        };
        // a/b/c.jpg: a/b/c.*, b/c.*, c.*
        let parts: Vec<&OsStr> = parent.iter().collect();
        let places = (0..=parts.len()).map(|from| parts[from..].iter().collect::<PathBuf>());
        let places = places.filter(|place| place.is_relative());
        let found = places.map(|place| self.path.join(place)).find_map(|it| named(&it, stem));
        match found {
            Some(path) => Ok(path),
            None => {
                let name = Path::new(stem).with_extension("png");
                Err(CliError::NoMask {
                    name: picture.display().to_string(),
                    folder: self.path.display().to_string(),
                    wanted: name.display().to_string(),
                })
            }
        }
    }
}

/// The error of a mask of all pictures, which is no picture's own.
fn of_all(error: CliError) -> CliError {
    match error {
        CliError::Job(error) => CliError::Mask(error.to_string()),
        error => error,
    }
}

/// The first picture in this folder, by name, whose name without its extension is `stem`.
fn named(folder: &Path, stem: &OsStr) -> Option<PathBuf> {
    let files = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_stem() == Some(stem)
            && InputKind::from_extension(path).is_some()
            && path.is_file()
    };
    files.filter(is_it).min()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_has_the_mask_of_a_picture_by_its_path_or_by_its_name_alone() {
        let folder = tempfile::tempdir().unwrap();
        let masks = folder.path().join("masks");
        fs::create_dir_all(masks.join("b")).unwrap();
        for name in ["c.png", "b/c.tif", "d.txt"] {
            fs::write(masks.join(name), "").unwrap();
        }
        let choice = MaskChoice::new(masks.clone(), false, 0);
        let find = |path: &str| choice.find(&Input::Path(path.into()));
        assert_eq!(find("a/b/c.jpg").unwrap(), masks.join("b/c.tif"));
        assert_eq!(find("/a/x/c.jpg").unwrap(), masks.join("c.png"));
        assert_eq!(find("c.jpg").unwrap(), masks.join("c.png"));
        let error = find("a/d.jpg").unwrap_err().to_string();
        assert!(error.contains("a/d.jpg") && error.contains("d.png"), "{error}");
        assert!(choice.find(&Input::Stdin).is_err());
    }
}
