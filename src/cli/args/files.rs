//! Options for input and output files.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;
use cupscale::image::{Format, Input, Output};

use crate::cli::error::CliError;

#[derive(Args, Debug)]
pub struct FilesArgs {
    /// The picture to enlarge, or a folder of pictures; `-` reads standard input
    #[arg(value_name = "INPUT", conflicts_with = "input_option")]
    input: Option<OsString>,
    /// The same as INPUT
    #[arg(short = 'i', long = "input", value_name = "INPUT")]
    input_option: Option<OsString>,
    /// Output file, or output folder for a folder; a slash at the end makes it a folder for a picture as well; `-`
    /// writes standard output [default: INPUT with _4x before its extension]
    #[arg(short, long, value_name = "OUTPUT")]
    output: Option<OsString>,
    /// Format of the output [default: by the output's name, else as the input]
    #[arg(short, long, value_name = "png|jpeg|webp|tiff")]
    format: Option<Format>,
    /// Skip pictures whose output exists
    #[arg(long)]
    pub skip_existing: bool,
    /// JPEG quality [default: 95]
    #[arg(long, value_name = "1-100", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: Option<u8>,
}

impl FilesArgs {
    /// The picture to read.
    pub fn input(&self) -> Result<Input, CliError> {
        let given = self.input.as_deref().or(self.input_option.as_deref());
        given.filter(|given| !given.is_empty()).map(Input::parse).ok_or_else(|| {
            CliError::Usage("no input: name a picture, or `-` for standard input (--help)".into())
        })
    }

    /// Output and its format. `source` is the input's own format, `suffix` stands before the
    /// extension of a name that is made from the input's.
    pub fn output(
        &self,
        input: &Input,
        source: Format,
        suffix: &str,
    ) -> Result<(Output, Format), CliError> {
        let output = match (&self.output, input) {
            (Some(folder), Input::Path(path)) if self.names_output_folder() => {
                let (path, format) = self.output_name(path, source, suffix);
                let name = path.file_name().unwrap_or_default();
                return Ok((Output::Path(Path::new(folder).join(name)), format));
            }
            (Some(folder), _) if self.names_output_folder() => {
                return Err(CliError::Usage(format!(
                    "-o {}: is a folder, and standard input has no name: name a file in it",
                    folder.display()
                )));
            }
            (Some(output), _) => Output::parse(output),
            (None, Input::Path(path)) => {
                let (path, format) = self.output_name(path, source, suffix);
                return Ok((Output::Path(path), format));
            }
            (None, _) => Output::Stdout,
        };
        let named = match &output {
            Output::Path(path) => {
                let format = Format::from_extension(path);
                if let (None, None, Some(extension)) = (format, self.format, path.extension()) {
                    return Err(CliError::Usage(format!(
                        "{}: no picture format is called `.{}` (png, jpg, webp, tif)",
                        path.display(),
                        extension.display()
                    )));
                }
                format
            }
            _ => None,
        };
        Ok((output, self.format.or(named).unwrap_or(source)))
    }

    /// True if the output names a folder, by a slash at its end, whether it is there or not.
    pub fn names_output_folder(&self) -> bool {
        let end = self.output.as_ref().and_then(|output| output.as_encoded_bytes().last());
        end.is_some_and(|&byte| std::path::is_separator(char::from(byte)))
    }

    /// Default output name and format for a picture: `suffix` goes before the extension, which changes only with the
    /// format. `source` is the input's own format.
    pub fn output_name(&self, path: &Path, source: Format, suffix: &str) -> (PathBuf, Format) {
        let named = Format::from_extension(path);
        let format = self.format.or(named).unwrap_or(source);
        // An unknown extension belongs to the name.
        let stem = if named.is_some() { path.file_stem() } else { path.file_name() };
        let mut name = stem.unwrap_or_default().to_owned();
        name.push(suffix);
        name.push(".");
        match path.extension() {
            Some(own) if named == Some(format) => name.push(own),
            _ => name.push(format.extension()),
        }
        (path.with_file_name(name), format)
    }

    /// The folder for the outputs of the pictures in `folder`.
    ///
    /// # Errors
    /// A combination that makes no sense: one file or a stream for many pictures, or the input folder itself.
    pub fn output_folder(&self, folder: &Path, suffix: &str) -> Result<PathBuf, CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        let output = match self.output.as_deref().map(Output::parse) {
            Some(Output::Path(path)) => path,
            Some(_) => {
                return refuse("-o -: a folder's pictures go to a folder".to_owned());
            }
            None => {
                // `.` and `..` have no name of their own.
                let named = match folder.file_name() {
                    Some(_) => folder.to_owned(),
                    None => folder.canonicalize().unwrap_or_default(),
                };
                let Some(name) = named.file_name() else {
                    return refuse(format!("{}: name the output folder, -o", folder.display()));
                };
                let mut name = name.to_owned();
                name.push(suffix);
                named.with_file_name(name)
            }
        };
        if output.exists() && !output.is_dir() {
            return refuse(format!("-o {}: is no folder, but the input is", output.display()));
        }
        if output
            .canonicalize()
            .is_ok_and(|real| folder.canonicalize().is_ok_and(|own| own == real))
        {
            return refuse(format!("-o {}: is the input folder itself", output.display()));
        }
        Ok(output)
    }

    /// Output of a verb that writes no picture.
    ///
    /// # Errors
    /// An output name with a picture's extension.
    pub fn document_output(&self) -> Result<Output, CliError> {
        let output = self.output.as_deref().map_or(Output::Stdout, Output::parse);
        match output.format() {
            Some(format) => Err(CliError::Usage(format!(
                "-o {}: named like a {format}, but JSON is written",
                output.name()
            ))),
            None => Ok(output),
        }
    }
}
