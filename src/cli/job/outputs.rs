//! Outputs of a job: where each goes and in which format, and what the options ask of it that cannot be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cupscale::{
    image::{Format, ImageError, Input, Output},
    pipeline::{Error, Resume},
    units,
};

use super::Job;
use crate::cli::{error::CliError, report};

impl Job {
    /// Output and its format. `source` is the format of the picture at `input`.
    ///
    /// # Errors
    /// An extension that no format has, or a quality for a format without losses.
    pub fn output(&self, input: &Input, source: Format) -> Result<(Output, Format), CliError> {
        self.with_quality(self.files.output(input, source, &self.suffix)?)
    }

    /// Output and its format of a picture without an input, which `verb` makes.
    ///
    /// # Errors
    /// As [`Job::output`], and where no output is named.
    pub fn output_alone(&self, verb: &str) -> Result<(Output, Format), CliError> {
        self.with_quality(self.files.output_alone(verb)?)
    }

    fn with_quality(
        &self,
        (output, format): (Output, Format),
    ) -> Result<(Output, Format), CliError> {
        match self.files.quality {
            Some(quality) if format != Format::Jpeg => Err(CliError::Usage(format!(
                "--quality {quality}: {} is written as {format}, which loses nothing; it is for JPEG",
                output.name()
            ))),
            _ => Ok((output, format)),
        }
    }

    /// Makes the folder of `output` if the options named a folder; returns the folders that were not there, the
    /// innermost first.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn make_output_folder(&self, output: &Output) -> Result<Vec<PathBuf>, CliError> {
        let folder = match output {
            Output::Path(path) if self.files.names_output_folder() => path.parent(),
            _ => None,
        };
        let Some(folder) = folder else { return Ok(Vec::new()) };
        let missing = folder.ancestors().take_while(|folder| !folder.exists());
        let missing = missing.map(Path::to_owned).collect();
        fs::create_dir_all(folder).map_err(|error| {
            let reason = format!("its folder cannot be made: {error}");
            Error::from(ImageError::Unwritable { name: output.name(), reason })
        })?;
        Ok(missing)
    }

    /// The folder for the outputs of several inputs; `None` if each goes beside its own.
    ///
    /// # Errors
    /// One file or a stream for many pictures.
    pub fn common_folder(&self) -> Result<Option<PathBuf>, CliError> {
        self.files.common_folder()
    }

    /// Refuses what is meant for one picture where there are many: its captions, its unfinished work.
    ///
    /// # Errors
    /// The first such option.
    pub fn refuse_for_many(&self) -> Result<(), CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        if let Some(page) = self.report.as_ref().filter(|page| !page.as_os_str().is_empty()) {
            return refuse(format!(
                "--report={}: is for one picture; --report writes a page beside each output",
                page.display()
            ));
        }
        if self.work.resume == Resume::Required {
            return refuse("--resume is for one picture: many go on by themselves".to_owned());
        }
        match &self.content.captions {
            Some(captions) => refuse(format!(
                "--captions {}: describe one picture, not a folder or several",
                captions.display()
            )),
            None => Ok(()),
        }
    }

    /// The folder for the outputs of the pictures in `folder`; in `common` if there are several inputs.
    ///
    /// # Errors
    /// A combination that makes no sense: one file or a stream for many pictures, the input folder itself.
    pub fn output_folder(&self, folder: &Path, common: Option<&Path>) -> Result<PathBuf, CliError> {
        self.files.output_folder(folder, &self.suffix, common)
    }

    /// The name, below the output folder, and the format of the output of a picture of a folder.
    pub fn output_name(&self, picture: &Path, source: Format) -> (PathBuf, Format) {
        self.files.output_name(picture, source, "")
    }

    /// Path and format of the output of one of several pictures: in `common`, or beside the picture.
    pub fn output_of(
        &self,
        picture: &Path,
        source: Format,
        common: Option<&Path>,
    ) -> (PathBuf, Format) {
        match common {
            Some(common) => self.files.output_in(common, picture, source, &self.suffix),
            None => self.files.output_name(picture, source, &self.suffix),
        }
    }

    /// Name of the result in this format of a picture of this name, for one who is sent it.
    #[cfg(feature = "serve")]
    pub fn result_name(&self, picture: &str, format: Format) -> String {
        let files = self.files.with_format(format);
        let (name, _) = files.output_name(Path::new(picture), format, &self.suffix);
        name.display().to_string()
    }

    /// Name of the captions of a picture of this name, for one who is sent them.
    #[cfg(feature = "serve")]
    pub fn captions_name(&self, picture: &str) -> String {
        let stem = Path::new(picture).file_stem().unwrap_or_default();
        format!("{}_captions.json", stem.display())
    }

    /// A note on `--quality` if not all of these formats are lossy.
    pub fn idle_quality(&self, formats: impl IntoIterator<Item = Format>) -> Option<String> {
        let quality = self.files.quality?;
        let (lossy, lossless): (Vec<_>, Vec<_>) =
            formats.into_iter().partition(|format| *format == Format::Jpeg);
        let kept = lossless.first()?;
        Some(if lossy.is_empty() {
            format!("--quality {quality} has no effect: no output is a JPEG")
        } else {
            let outputs = units::count(lossless.len(), "output");
            format!("--quality {quality} is for JPEG: {outputs} without losses, as {kept}")
        })
    }

    /// Output of the verb `raw`.
    ///
    /// # Errors
    /// An output name with a picture's extension.
    pub fn stream_output(&self) -> Result<Output, CliError> {
        self.files.stream_output()
    }

    /// Output of the verb `caption`.
    ///
    /// # Errors
    /// An output name with a picture's extension.
    pub fn document_output(&self) -> Result<Output, CliError> {
        self.files.document_output()
    }

    /// Where the page about a job goes, if there is to be one; checked, as is the preview's place, before any work.
    ///
    /// # Errors
    /// A file that would take the place of the input or the output, or one that cannot be written.
    pub fn report(&self, input: &Input, output: &Output) -> Result<Option<Output>, CliError> {
        let page = self.report.as_deref().map(|asked| report::place(asked, output)).transpose()?;
        let preview = self.show.preview.as_ref().map(|preview| preview.path());
        let of_page = page.as_ref().and_then(|page| match page {
            Output::Path(path) => Some(path.as_path()),
            _ => None,
        });
        for (option, path) in [("--preview", preview), ("--report", of_page)] {
            let Some(path) = path else { continue };
            let is = |other: &Path| other == path || files_are_one(other, path);
            let taken = match (input, output) {
                (Input::Path(input), _) if is(input) => "the input itself",
                (_, Output::Path(output)) if is(output) => "the output itself",
                _ => continue,
            };
            let reason = format!("{option} {}: is {taken}", path.display());
            return Err(CliError::Usage(reason));
        }
        Ok(page)
    }

    /// `true` if this output is there and stays as it is; what a kill left of the job that made it is removed.
    pub fn is_done(&self, output: &Output) -> bool {
        let Output::Path(path) = output else { return false };
        let is_done = self.skip_existing && path.is_file();
        if is_done {
            self.work.clear_finished(output);
        }
        is_done
    }
}

/// `true` if both paths lead to one file that is there.
fn files_are_one(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;

    fn resolve(line: &str) -> Job {
        Job::resolve(Cli::from_command_line(line.split(' ')).unwrap().job, Vec::new()).unwrap()
    }

    #[test]
    fn a_quality_is_for_jpeg_and_refused_or_said_elsewhere() {
        let of = |line: &str| {
            let job = resolve(line);
            job.output(&job.inputs[0], Format::Png)
        };
        assert!(of("x a.png -o b.jpg --quality 80").is_ok());
        let error = of("x a.png --quality 80").unwrap_err().to_string();
        assert!(error.contains("--quality 80") && error.contains("a_4x.png"), "{error}");
        let folder = resolve("x shots --quality 80");
        assert_eq!(folder.idle_quality([Format::Jpeg]), None);
        assert!(folder.idle_quality([Format::Png, Format::WebP]).unwrap().contains("no effect"));
        let mixed = folder.idle_quality([Format::WebP, Format::Jpeg]).unwrap();
        assert!(mixed.contains("1 output without losses, as WebP"), "{mixed}");
    }

    #[test]
    fn the_default_output_stands_beside_the_input_and_says_the_size() {
        for (line, expected) in [
            ("x a/photo.jpeg", "a/photo_4x.jpeg"),
            ("x photo.jpeg -s 1.5", "photo_1.5x.jpeg"),
            ("x photo.jpeg --size 800x600", "photo_800x600.jpeg"),
            ("x photo.jpeg --long-edge 5000 -f png", "photo_5000px.png"),
            ("x photo.PNG -f jpeg", "photo_4x.jpg"),
            ("x 2024.01 -f tiff", "2024.01_4x.tif"),
            ("x photo", "photo_4x.jpg"),
            ("x a/photo.jpg -o nodir/", "nodir/photo_4x.jpg"),
            ("x a/photo.jpg -o b/nodir// -f png", "b/nodir/photo_4x.png"),
        ] {
            let job = resolve(line);
            let (output, _) = job.output(&job.inputs[0], Format::Jpeg).unwrap();
            assert!(matches!(output, Output::Path(path) if path == std::path::Path::new(expected)));
        }
    }

    #[test]
    fn the_format_is_the_option_then_the_name_then_the_input() {
        for (line, expected) in [
            ("x a.jpg -o b.png", Format::Png),
            ("x a.jpg -o b.png -f tiff", Format::Tiff),
            ("x a.jpg -o -", Format::Jpeg),
            ("x a.jpg -o b", Format::Jpeg),
        ] {
            let job = resolve(line);
            assert_eq!(job.output(&job.inputs[0], Format::Jpeg).unwrap().1, expected);
        }
        for line in ["x a.jpg -o b.xyz", "x - -o nodir/"] {
            let job = resolve(line);
            let refused = job.output(&job.inputs[0], Format::Jpeg);
            assert!(matches!(refused, Err(CliError::Usage(_))), "{line}");
        }
    }
}
