//! The resolved job: arguments are resolved here, once, and later code does not see them.

#[cfg(feature = "serve")]
use std::ffi::OsString;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use cupscale::{
    backend::{DeviceList, KernelChoice, MatmulPrecision, choose_kernels, kernel_tests},
    candle::Device,
    canvas::SizeSpec,
    image::{self, Format, ImageError, Input, Output, ReadOptions},
    model::text::LoraTag,
    pipeline::{ControlUse, Engine, Error, OwnControlPicture, Resume, Settings, WorkOptions},
    units,
    weights::LoraScale,
};

use super::{
    args::{
        CaptionerArg, ContentArgs, ControlArgs, ControlChoice, Every, FilesArgs, JobArgs,
        ModelArgs, RepaintArgs,
    },
    captioner, doctor, engine,
    error::CliError,
    mask::MaskChoice,
    progress::Show,
    prompts, report,
    shares::Share,
    values::{ControlArg, LoraArg},
};

/// A job of one picture, or of every picture of a folder.
#[derive(Clone)]
pub struct Job {
    /// Input pictures and folders: at least one, but for a job that makes its picture from words.
    pub inputs: Vec<Input>,
    /// Notes on the options, for the user.
    pub notes: Vec<String>,
    /// Skips pictures whose output exists.
    pub skip_existing: bool,
    /// Skips pictures that another process works on.
    pub skip_locked: bool,
    /// The share of the pictures that is done, if not all are.
    pub share: Option<Share>,
    /// The options that decide what the outputs are, in whatever words.
    pub made_by: String,
    /// How pictures are read.
    pub read: ReadOptions,
    /// Files of which every picture is asked for.
    pub every: Every,
    /// Place of unfinished work.
    pub work: WorkOptions,
    /// Form of the progress display.
    pub show: Show,
    /// A page about each job: at this path, or where it is empty, beside the output.
    report: Option<PathBuf>,
    /// Suffix of an output name derived from the input's, before the extension.
    suffix: String,
    files: FilesArgs,
    /// All but the captioner, which is opened with the model, what a profile sets for that, and the mask, which may be each picture's own.
    settings: Settings,
    mask: Option<MaskChoice>,
    repaint: RepaintArgs,
    content: ContentArgs,
    model: ModelArgs,
    /// LoRAs that the prompt names.
    tags: Vec<LoraTag>,
    controls: ControlArgs,
    devices: DeviceList,
    kernels: KernelChoice,
    /// Matmul precision on the CPU, if given.
    precision: Option<MatmulPrecision>,
}

impl Job {
    /// Resolves the arguments; `notes` on them are for the user.
    ///
    /// # Errors
    /// A missing input.
    pub fn resolve(args: JobArgs, notes: Vec<String>) -> Result<Self, CliError> {
        let inputs = args.files.inputs()?;
        Self::with(inputs, args, notes)
    }

    /// Resolves the arguments of a job that makes its picture from words.
    ///
    /// # Errors
    /// A descriptor or a preview that cannot be written to.
    pub fn without_input(args: JobArgs, notes: Vec<String>) -> Result<Self, CliError> {
        Self::with(Vec::new(), args, notes)
    }

    fn with(inputs: Vec<Input>, args: JobArgs, notes: Vec<String>) -> Result<Self, CliError> {
        let mut settings = args.repaint.settings();
        settings.size = args.size.spec();
        let tags = prompts::read(&args.content, &mut settings)?;
        settings.batch = args.machine.batch.map(|batch| batch as usize);
        settings.tile = args.machine.tile.map(|tile| tile as usize);
        settings.max_memory = args.machine.max_memory;
        settings.vae_disk = args.machine.vae_disk;
        settings.bit_depth = args.files.bit_depth;
        if let Some(quality) = args.files.quality {
            settings.jpeg_quality = quality;
        }
        args.control.choices()?;
        let share = args.share.share()?;
        let JobArgs { files, read, size, content, repaint, mask, model, control, .. } = &args;
        let made_by =
            format!("{:?}", (files.encoding(), read, size, content, repaint, mask, model, control));
        Ok(Self {
            inputs,
            notes,
            // A share that runs once more goes on.
            skip_existing: args.files.skip_existing || share.is_some(),
            skip_locked: args.share.skip_locked,
            share,
            made_by,
            read: args.read.options(),
            every: args.read.every(),
            work: args.work.work(),
            show: args.show()?,
            report: args.report.map(Option::unwrap_or_default),
            suffix: args.size.suffix(),
            files: args.files,
            settings,
            mask: args.mask.choice(),
            repaint: args.repaint,
            content: args.content,
            model: args.model,
            tags,
            controls: args.control,
            devices: args.machine.device,
            kernels: args.machine.kernels.choice(),
            precision: args.machine.dtype,
        })
    }

    /// The one picture that `verb` takes.
    ///
    /// # Errors
    /// A folder, or several inputs.
    pub fn only_input(&self, verb: &str) -> Result<&Input, CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        if self.every.page || self.every.frame {
            return refuse(format!("`{verb}` takes one picture: name it with --page N"));
        }
        match self.inputs.as_slice() {
            [Input::Path(path)] if path.is_dir() => {
                refuse(format!("{}: is a folder; `{verb}` takes one picture", path.display()))
            }
            [input] => Ok(input),
            several => refuse(format!("{} inputs; `{verb}` takes one picture", several.len())),
        }
    }

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

    /// `settings` with the mask of the picture at `input`, if the options name one.
    ///
    /// # Errors
    /// A mask that cannot be read, or a folder that has none for this picture.
    pub fn masked(&self, settings: &Settings, input: &Input) -> Result<Settings, CliError> {
        match &self.mask {
            Some(mask) => mask.settings(settings, input),
            None => Ok(settings.clone()),
        }
    }

    /// `settings` with the mask in these bytes, a picture's file, as the options ask for it.
    ///
    /// # Errors
    /// A mask that cannot be read.
    pub fn masked_by(&self, settings: &Settings, bytes: Vec<u8>) -> Result<Settings, CliError> {
        let mut settings = settings.clone();
        if let Some(mask) = &self.mask {
            settings.mask = Some(mask.read(Input::Bytes(bytes.into()))?);
        }
        Ok(settings)
    }

    /// The size asked for.
    pub fn size(&self) -> SizeSpec {
        self.settings.size
    }

    /// `true` if regions are described by a model that may not fit in memory beside the diffusion model.
    pub fn describes_with_a_model(&self) -> bool {
        self.content.captioner == CaptionerArg::Llava
    }

    /// This job on another model, by its name or the default one, with nothing that options add to a model: LoRAs, embeddings,
    /// ControlNets, other parts.
    #[cfg(feature = "serve")]
    pub fn with_model(&self, name: Option<OsString>) -> Self {
        let mut job = self.clone();
        job.model = self.model.of_other(name);
        job.tags = Vec::new();
        job.controls = ControlArgs::none();
        job
    }

    /// Settings of a request that `verb` got while this job's model, with these settings, is loaded: the machine is this
    /// job's, and so is the captioner, unless the request names another.
    ///
    /// # Errors
    /// A captioner that is not loaded, or captions that cannot be read.
    pub fn settings_of(
        &self,
        request: &Self,
        names_captioner: bool,
        (engine, loaded): (&Engine, &Settings),
        verb: &str,
    ) -> Result<Settings, CliError> {
        // They are merged into the weights as these are read.
        let is_loaded = |tag: &LoraTag| {
            let is = |lora: &LoraArg| {
                lora.is_named(&tag.name) && lora.scale == LoraScale::from(tag.scale)
            };
            self.model.lora.iter().any(is)
        };
        if let Some(tag) = request.tags.iter().find(|tag| !is_loaded(tag)) {
            return Err(CliError::Usage(format!(
                "prompt {}: LoRAs are chosen when `{verb}` starts; start it with --lora {}:{}",
                tag.tag, tag.name, tag.scale
            )));
        }
        let mut settings = request.settings.clone();
        request.repaint.add_profile(engine, &mut settings)?;
        settings.batch = loaded.batch;
        settings.tile = loaded.tile;
        settings.max_memory = loaded.max_memory;
        settings.vae_disk = loaded.vae_disk;
        settings.controls.clone_from(&loaded.controls);
        settings.first.clone_from(&loaded.first);
        let wants_model = names_captioner && request.describes_with_a_model();
        if wants_model && !self.describes_with_a_model() {
            return Err(CliError::Usage(format!(
                "captioner llava: it is not loaded; start `{verb}` with --captioner llava"
            )));
        }
        settings.captioner =
            if request.content.captions.is_some() || names_captioner && !wants_model {
                captioner::open(&request.content, &[])?
            } else {
                Arc::clone(&loaded.captioner)
            };
        Ok(settings)
    }

    /// Loads the chosen model onto the chosen devices, with the settings of its jobs; `note` receives warnings.
    ///
    /// # Errors
    /// A device that is not available, a model or a captioner that cannot be loaded.
    pub fn load(&self, mut note: impl FnMut(&str)) -> Result<(Engine, Settings), CliError> {
        choose_kernels(self.kernels);
        let devices = self.devices.open().map_err(Error::from)?;
        let on_cpu = devices.iter().all(Device::is_cpu);
        if on_cpu && self.kernels == KernelChoice::Composed {
            note("--kernels has no effect on the CPU, which always has its own");
        }
        for test in devices.iter().flat_map(kernel_tests).filter(|test| !test.passed()) {
            note(&doctor::failure(&test));
        }
        if let (Some(_), false) = (self.precision, on_cpu) {
            note(
                "--dtype has no effect on a GPU, which computes in the precision that it is fast in",
            );
        }
        let choices = self.controls.choices()?;
        // One that is named twice is loaded once.
        let mut controls: Vec<&ControlArg> = Vec::new();
        let mut uses = Vec::new();
        for ControlChoice { arg, kind, image } in choices {
            let known = controls.iter().position(|known| known.name == arg.name);
            let mut of = ControlUse::of(known.unwrap_or(controls.len()));
            if known.is_none() {
                controls.push(arg);
            }
            (of.scale, of.start, of.end, of.kind) = (arg.scale, arg.start, arg.end, kind);
            of.picture = image.map(control_picture).transpose()?;
            uses.push(of);
        }
        let engine = engine::load(
            &self.model,
            &self.tags,
            &controls,
            self.precision.unwrap_or(MatmulPrecision::F32),
            &devices,
            &mut note,
        )?;
        let mut settings = self.settings.clone();
        settings.controls = uses;
        if settings.vae_disk.is_some() && !engine.vae_sees_the_whole() {
            note("--vae-disk has no effect: no norm of this model's VAE sees the whole picture");
        }
        settings.first = engine::first(&self.model.first)?;
        settings.captioner = captioner::open(&self.content, &devices)?;
        self.repaint.add_profile(&engine, &mut settings)?;
        Ok((engine, settings))
    }
}

/// A picture that a ControlNet sees in place of the input.
fn control_picture(path: &Path) -> Result<OwnControlPicture, CliError> {
    let picture = image::decode(&Input::Path(path.to_owned())).map_err(Error::from)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(OwnControlPicture { name, picture: Arc::new(picture) })
}

/// `true` if both paths lead to one file that is there.
fn files_are_one(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::{super::args::Cli, *};

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
