//! The resolved job: arguments are resolved here, once, and later code does not see them.

mod outputs;

#[cfg(feature = "serve")]
use std::ffi::OsString;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cupscale::{
    backend::{DeviceList, KernelChoice, MatmulPrecision, choose_kernels, kernel_tests},
    candle::Device,
    canvas::SizeSpec,
    image::{self, Input, ReadOptions},
    model::text::LoraTag,
    pipeline::{ControlUse, Engine, Error, First, OwnControlPicture, Settings, WorkOptions},
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
    prompts,
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
        settings.first = match request.model.first.as_deref() {
            // All that a request may choose.
            Some(_) => First::Lanczos,
            None => loaded.first.clone(),
        };
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
        settings.first = engine::first(self.model.first.as_deref())?;
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
