//! The resolved job: arguments are resolved here, once, and later code does not see them.

use std::path::{Path, PathBuf};

use cupscale::{
    backend::{DeviceSpec, MatmulPrecision},
    canvas::SizeSpec,
    image::{Format, Input, Output, ReadOptions},
    pipeline::{Engine, Error, Settings, WorkOptions},
};

use super::{
    args::{CaptionerArg, ContentArgs, FilesArgs, JobArgs, ModelArgs},
    captioner, engine,
    error::CliError,
    progress::Show,
};

/// A job of one picture, or of every picture of a folder.
pub struct Job {
    /// Input picture or folder.
    pub input: Input,
    /// Skips pictures whose output exists.
    pub skip_existing: bool,
    /// How pictures are read.
    pub read: ReadOptions,
    /// Place of unfinished work.
    pub work: WorkOptions,
    /// Form of the progress display.
    pub show: Show,
    /// Suffix of an output name derived from the input's, before the extension.
    suffix: String,
    files: FilesArgs,
    /// All but the captioner, which is opened with the model.
    settings: Settings,
    content: ContentArgs,
    model: ModelArgs,
    device: DeviceSpec,
    /// Matmul precision on the CPU, if given.
    precision: Option<MatmulPrecision>,
}

impl Job {
    /// Resolves the arguments, and sets the size of the thread pool.
    ///
    /// # Errors
    /// A missing input, or a thread pool that cannot be made.
    pub fn resolve(args: JobArgs) -> Result<Self, CliError> {
        args.machine.set_threads()?;
        let input = args.files.input()?;
        let mut settings = args.repaint.settings();
        settings.size = args.size.spec();
        args.content.prompt.trim().clone_into(&mut settings.prompt);
        args.content.negative_prompt.trim().clone_into(&mut settings.negative_prompt);
        settings.batch = args.machine.batch.map(|batch| batch as usize);
        settings.tile = args.machine.tile.map(|tile| tile as usize);
        settings.max_memory = args.machine.max_memory;
        if let Some(quality) = args.files.quality {
            settings.jpeg_quality = quality;
        }
        Ok(Self {
            input,
            skip_existing: args.files.skip_existing,
            read: args.read.options(),
            work: args.work.work(),
            show: args.show(),
            suffix: args.size.suffix(),
            files: args.files,
            settings,
            content: args.content,
            model: args.model,
            device: args.machine.device,
            precision: args.machine.dtype,
        })
    }

    /// Refuses a folder where `verb` takes one picture.
    pub fn refuse_folder(&self, verb: &str) -> Result<(), CliError> {
        match &self.input {
            Input::Path(path) if path.is_dir() => Err(CliError::Usage(format!(
                "{}: is a folder; `{verb}` takes one picture",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Output and its format. `source` is the input's own format.
    ///
    /// # Errors
    /// An extension that no format has, or a quality for a format without losses.
    pub fn output(&self, source: Format) -> Result<(Output, Format), CliError> {
        let (output, format) = self.files.output(&self.input, source, &self.suffix)?;
        match self.files.quality {
            Some(quality) if format != Format::Jpeg => Err(CliError::Usage(format!(
                "--quality {quality}: {} is written as {format}, which loses nothing; it is for JPEG",
                output.name()
            ))),
            _ => Ok((output, format)),
        }
    }

    /// The folder for the outputs of the pictures in `folder`.
    ///
    /// # Errors
    /// A combination that makes no sense: one file or a stream for many pictures, the input folder itself, one
    /// picture's captions for many.
    pub fn output_folder(&self, folder: &Path) -> Result<PathBuf, CliError> {
        if let Some(captions) = &self.content.captions {
            return Err(CliError::Usage(format!(
                "--captions {}: describe one picture, not a folder",
                captions.display()
            )));
        }
        self.files.output_folder(folder, &self.suffix)
    }

    /// The name, below the output folder, and the format of the output of a picture of a folder.
    pub fn output_name(&self, picture: &Path, source: Format) -> (PathBuf, Format) {
        self.files.output_name(picture, source, "")
    }

    /// A warning for `--quality` if none of these formats is lossy.
    pub fn idle_quality(&self, formats: impl IntoIterator<Item = Format>) -> Option<String> {
        let quality = self.files.quality?;
        (formats.into_iter().all(|format| format != Format::Jpeg))
            .then(|| format!("--quality {quality} has no effect: no output is a JPEG"))
    }

    /// Output of the verb `caption`.
    ///
    /// # Errors
    /// An output name with a picture's extension.
    pub fn document_output(&self) -> Result<Output, CliError> {
        self.files.document_output()
    }

    /// The size asked for.
    pub fn size(&self) -> SizeSpec {
        self.settings.size
    }

    /// `true` if regions are described by a model that may not fit in memory beside the diffusion model.
    pub fn describes_with_a_model(&self) -> bool {
        self.content.captioner == CaptionerArg::Llava
    }

    /// Loads the chosen model onto the chosen device, with the settings of its jobs; `note` receives warnings.
    ///
    /// # Errors
    /// A device that is not available, a model or a captioner that cannot be loaded.
    pub fn load(&self, mut note: impl FnMut(&str)) -> Result<(Engine, Settings), CliError> {
        let device = self.device.open().map_err(Error::from)?;
        if let (Some(_), false) = (self.precision, device.is_cpu()) {
            note(
                "--dtype has no effect on a GPU, which computes in the precision that it is fast in",
            );
        }
        let engine = engine::load(
            &self.model,
            self.precision.unwrap_or(MatmulPrecision::F32),
            &device,
            note,
        )?;
        let mut settings = self.settings.clone();
        settings.captioner = captioner::open(&self.content, &device)?;
        Ok((engine, settings))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::args::Cli, *};

    fn resolve(line: &str) -> Job {
        Job::resolve(Cli::from_command_line(line.split(' ')).unwrap().job).unwrap()
    }

    #[test]
    fn a_quality_is_for_jpeg_and_refused_or_said_elsewhere() {
        let of = |line: &str| resolve(line).output(Format::Png);
        assert!(of("x a.png -o b.jpg --quality 80").is_ok());
        let error = of("x a.png --quality 80").unwrap_err().to_string();
        assert!(error.contains("--quality 80") && error.contains("a_4x.png"), "{error}");
        let folder = resolve("x shots --quality 80");
        assert!(folder.idle_quality([Format::Png, Format::Jpeg]).is_none());
        assert!(folder.idle_quality([Format::Png, Format::WebP]).is_some());
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
        ] {
            let (output, _) = resolve(line).output(Format::Jpeg).unwrap();
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
            assert_eq!(resolve(line).output(Format::Jpeg).unwrap().1, expected);
        }
        let refused = resolve("x a.jpg -o b.xyz").output(Format::Jpeg);
        assert!(matches!(refused, Err(CliError::Usage(_))));
    }
}
