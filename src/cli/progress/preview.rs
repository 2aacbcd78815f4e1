//! The file of `--preview`: rewritten whole with every preview of the job, so that whoever reads it sees a picture.

use std::path::{Path, PathBuf};

use cupscale::{
    image::{EncodeOptions, Encoder, Format, ImageError, Output},
    pipeline::Preview,
};

use crate::cli::error::CliError;

/// JPEG quality of a preview.
const QUALITY: u8 = 85;

/// A preview's file and format.
#[derive(Clone, Debug)]
pub struct PreviewFile {
    path: PathBuf,
    format: Format,
}

impl PreviewFile {
    /// The file at `path`.
    ///
    /// # Errors
    /// A name that does not say the format, or a place that cannot be written to.
    pub fn new(path: &Path) -> Result<Self, CliError> {
        let refuse =
            |reason: String| CliError::Usage(format!("--preview {}: {reason}", path.display()));
        let format = Format::from_extension(path).ok_or_else(|| {
            refuse("the name says no picture format (preview.jpg, preview.png)".to_owned())
        })?;
        let output = Output::Path(path.to_owned());
        output.check_writable().map_err(|error| CliError::Job(error.into()))?;
        Ok(Self { path: path.to_owned(), format })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts this preview in the place of the one before it.
    ///
    /// # Errors
    /// A file that cannot be written any more.
    pub fn write(&self, preview: &Preview<'_>) -> Result<(), ImageError> {
        let &Preview { width, height, rgb8, .. } = preview;
        let options = EncodeOptions { quality: QUALITY, ..EncodeOptions::default() };
        let output = Output::Path(self.path.clone());
        let mut writer = Encoder::create(&output, self.format, width, height, options)?;
        let rgb: Vec<f32> = rgb8.iter().map(|&value| f32::from(value) / 255.0).collect();
        writer.write_rows(&rgb, None)?;
        writer.finish()?;
        Ok(())
    }
}
