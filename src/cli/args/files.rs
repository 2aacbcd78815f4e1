//! Options for input and output files.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;
use cupscale::image::{Format, Input, InputKind, Output};

use crate::cli::{error::CliError, values};

/// Verbs, which are not taken for pictures.
const VERBS: &[&str] = &[
    "plan",
    "caption",
    "generate",
    "edit",
    "info",
    "status",
    "raw",
    "pipe",
    #[cfg(feature = "serve")]
    "serve",
    "models",
    "doctor",
    "integrate",
];

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Files")]
pub struct FilesArgs {
    /// Pictures to enlarge, or folders of pictures; `-` reads standard input
    #[arg(value_name = "INPUT", conflicts_with = "input_option")]
    inputs: Vec<OsString>,
    /// The same as INPUT
    #[arg(short = 'i', long = "input", value_name = "INPUT")]
    input_option: Vec<OsString>,
    /// Output file, or output folder for a folder or several inputs; a slash at the end makes it a folder for a picture
    /// as well; `-` writes standard output [default: INPUT with _4x before its extension]
    #[arg(short, long, value_name = "OUTPUT")]
    output: Option<OsString>,
    /// Format of the output [default: by the output's name, else as the input]
    #[arg(short, long, value_name = "png|jpeg|webp|tiff|ppm|pam|farbfeld|exr")]
    format: Option<Format>,
    /// Skip pictures whose output exists
    #[arg(long)]
    pub skip_existing: bool,
    /// JPEG quality [default: 95]
    #[arg(long, value_name = "1-100", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: Option<u8>,
    /// Bits of the output's samples; 32 are floats, which TIFF and OpenEXR hold [default: as the input]
    #[arg(long, value_name = "8|16|32", value_parser = values::bit_depth)]
    pub bit_depth: Option<u8>,
}

impl FilesArgs {
    /// What decides how an output is written.
    pub fn encoding(&self) -> impl std::fmt::Debug {
        (self.format, self.quality, self.bit_depth)
    }

    /// The pictures and folders to read, at least one.
    pub fn inputs(&self) -> Result<Vec<Input>, CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        let given: Vec<_> = self.inputs.iter().chain(&self.input_option).collect();
        if given.iter().all(|input| input.is_empty()) {
            return refuse(
                "no input: name a picture, or `-` for standard input (--help)".to_owned(),
            );
        }
        if let [_, others @ ..] = given.as_slice()
            && !others.is_empty()
        {
            if given.iter().any(|input| *input == "-") {
                return refuse("`-` (standard input) is one picture and stands alone".to_owned());
            }
            let is_verb = |input: &&&OsString| VERBS.iter().any(|verb| **input == verb);
            if let Some(verb) = others.iter().find(is_verb).filter(|verb| !Path::new(verb).exists())
            {
                return refuse(format!("a verb comes first: cupscale-fast {} …", verb.display()));
            }
        }
        Ok(given.into_iter().map(|input| Input::parse(input)).collect())
    }

    /// Output and its format for one picture. `source` is the input's own format, `suffix` stands before the
    /// extension of a name that is made from the input's.
    pub fn output(
        &self,
        input: &Input,
        source: Format,
        suffix: &str,
    ) -> Result<(Output, Format), CliError> {
        let output = match (&self.output, input) {
            (Some(folder), Input::Path(path)) if self.names_output_folder() => {
                let (path, format) = self.output_in(Path::new(folder), path, source, suffix);
                return Ok((Output::Path(path), format));
            }
            (Some(folder), _) if self.names_output_folder() => {
                return Err(CliError::Usage(format!(
                    "-o {}: is a folder, and standard input has no name: name a file in it",
                    folder.display()
                )));
            }
            (Some(output), _) => Output::parse(output),
            (None, Input::Path(path)) if !is_stream(path) => {
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
                        "{}: no picture format is called `.{}` (png, jpg, webp, tif, ppm, pam, ff, exr)",
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

    /// Output and its format for a picture that has no input, which `verb` makes.
    ///
    /// # Errors
    /// No output, a folder, or a name that no format has.
    pub fn output_alone(&self, verb: &str) -> Result<(Output, Format), CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        match &self.output {
            None => refuse(format!("no output: name the file that `{verb}` writes, -o out.png")),
            Some(folder) if self.names_output_folder() => {
                refuse(format!("-o {}: is a folder: name a file in it", folder.display()))
            }
            Some(_) => self.output(&Input::Path(PathBuf::new()), Format::Png, ""),
        }
    }

    /// `true` if the output is meant as a folder: by a slash at its end, whether it is there or not, or one that is
    /// there. A folder with a picture's name is more likely a mistake.
    pub fn names_output_folder(&self) -> bool {
        self.output.as_deref().is_some_and(|output| {
            let ends = output.as_encoded_bytes().last();
            let path = Path::new(output);
            ends.is_some_and(|&end| std::path::is_separator(char::from(end)))
                || path.is_dir() && Format::from_extension(path).is_none()
        })
    }

    /// Output name and format for a picture whose output goes to `folder`.
    pub fn output_in(
        &self,
        folder: &Path,
        path: &Path,
        source: Format,
        suffix: &str,
    ) -> (PathBuf, Format) {
        let (path, format) = self.output_name(path, source, suffix);
        (folder.join(path.file_name().unwrap_or_default()), format)
    }

    /// Default output name and format for a picture: `suffix` goes before the extension, which changes only with the
    /// format. `source` is the input's own format.
    pub fn output_name(&self, path: &Path, source: Format, suffix: &str) -> (PathBuf, Format) {
        let named = Format::from_extension(path);
        let format = self.format.or(named).unwrap_or(source);
        // An unknown extension belongs to the name.
        let is_known = InputKind::from_extension(path).is_some();
        let stem = if is_known { path.file_stem() } else { path.file_name() };
        let mut name = stem.unwrap_or_default().to_owned();
        name.push(suffix);
        name.push(".");
        match path.extension() {
            // What is enlarged has greys.
            Some(own) if named == Some(format) && own.eq_ignore_ascii_case("pbm") => {
                name.push("pgm")
            }
            Some(own) if named == Some(format) => name.push(own),
            _ => name.push(format.extension()),
        }
        (path.with_file_name(name), format)
    }

    /// The folder for the outputs of several inputs; `None` if each goes beside its own.
    ///
    /// # Errors
    /// One file or a stream for many pictures.
    pub fn common_folder(&self) -> Result<Option<PathBuf>, CliError> {
        let Some(output) = &self.output else { return Ok(None) };
        let refuse =
            |reason: &str| Err(CliError::Usage(format!("-o {}: {reason}", output.display())));
        match Output::parse(output) {
            Output::Path(path) if path.is_dir() => Ok(Some(path)),
            Output::Path(path) if path.exists() => {
                refuse("is no folder, but there are several inputs")
            }
            Output::Path(path) if Format::from_extension(&path).is_some() => {
                refuse("is named like one picture, but there are several inputs: name a folder")
            }
            Output::Path(path) => Ok(Some(path)),
            _ => refuse("several pictures go to a folder"),
        }
    }

    /// The folder for the outputs of the pictures in `folder`; in `common` if there are several inputs.
    ///
    /// # Errors
    /// A combination that makes no sense: one file or a stream for many pictures, or the input folder itself.
    pub fn output_folder(
        &self,
        folder: &Path,
        suffix: &str,
        common: Option<&Path>,
    ) -> Result<PathBuf, CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        let output = match (common, self.output.as_deref().map(Output::parse)) {
            (None, Some(Output::Path(path))) => path,
            (None, Some(_)) => {
                return refuse("-o -: a folder's pictures go to a folder".to_owned());
            }
            (common, _) => {
                // `.` and `..` have no name of their own.
                let named = match folder.file_name() {
                    Some(_) => folder.to_owned(),
                    None => folder.canonicalize().unwrap_or_default(),
                };
                let Some(name) = named.file_name() else {
                    return refuse(format!("{}: name the output folder, -o", folder.display()));
                };
                match common {
                    Some(common) => common.join(name),
                    None => {
                        let mut name = name.to_owned();
                        name.push(suffix);
                        named.with_file_name(name)
                    }
                }
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

    /// The same with this format.
    #[cfg(feature = "serve")]
    pub fn with_format(&self, format: Format) -> Self {
        Self { format: Some(format), ..self.clone() }
    }

    /// Takes standard input and output where no others are named.
    pub fn name_streams(&mut self) {
        if self.input_option.is_empty() {
            self.input_option.push("-".into());
        }
        self.output.get_or_insert_with(|| "-".into());
    }

    /// Output of a verb that writes a stream of pixels.
    ///
    /// # Errors
    /// An output name with a picture's extension.
    pub fn stream_output(&self) -> Result<Output, CliError> {
        let output = self.output.as_deref().map_or(Output::Stdout, Output::parse);
        match output.format() {
            Some(format) => Err(CliError::Usage(format!(
                "-o {}: named like a {format}, but pixels without a file format are written",
                output.name()
            ))),
            None => Ok(output),
        }
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

/// `true` if a path is no place for an output beside it: a stream (`/dev/stdin`, a pipe of `<(…)`), which is like `-`.
fn is_stream(path: &Path) -> bool {
    // Behind /dev/stdin there may be a file.
    path.starts_with("/dev")
        || path.starts_with("/proc")
        || path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}
