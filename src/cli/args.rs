//! Every option: its names, its help, its range, and how it becomes a setting of the pipeline.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::TypedValueParser as _, error::ErrorKind,
};
use cupscale::{
    backend::{DeviceSpec, ops::Products},
    canvas::{Fusion, SizeSpec},
    image::{DEFAULT_QUALITY, Format, Input, Output},
    pipeline::{CaptionerChoice, ColourFix, Defaults, Resume, Settings, Work},
    sampler::{Denoise, SamplerKind, TimestepSpacing},
    weights::QuantType,
};

use super::{
    CliError,
    values::{self, Lora},
};

const EXAMPLES: &str = "\
Examples:
  cupscale-fast photo.jpg                                  write photo_4x.jpg
  cupscale-fast -i in.png -o out.tif --scale 2 --prompt \"an old harbour at dusk\"
  cat in.png | cupscale-fast -i - -o - --format png > out.png
  cupscale-fast -i shots -o big --skip-existing            every picture below the folder
  cupscale-fast caption photo.jpg > captions.json          edit it, then:
  cupscale-fast photo.jpg --captions captions.json
  cupscale-fast plan photo.jpg --long-edge 8000            what would run, without running it
  cupscale-fast models list                                which models there are

Exit codes: 0 done, 1 an input failed, 2 wrong usage, 3 everything was skipped, 130 interrupted.";

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "cupscale-fast", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(
    about = "Enlarge a picture creatively: a few-step diffusion model repaints it region by region"
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub job: JobArgs,
}

/// Options that say how a picture is written, which `caption` does not do: the options of the job whose
/// regions it describes are the same otherwise.
const NOT_OF_CAPTION: [&str; 4] = ["format", "quality", "skip_existing", "dry_run"];

impl Cli {
    /// The definition, with each verb's own options in its help.
    fn definition() -> clap::Command {
        let hidden = |command: clap::Command| {
            NOT_OF_CAPTION
                .iter()
                .fold(command, |command, id| command.mut_arg(id, |option| option.hide(true)))
                .mut_arg("output", |option| {
                    option.help("Where to write the JSON [default: standard output]")
                })
        };
        Self::command().mut_subcommand("caption", hidden)
    }

    /// Parses what was typed, and refuses an option where its verb does not use it.
    pub fn from_command_line(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut definition = Self::definition();
        let matches = definition.try_get_matches_from_mut(words)?;
        if let Some(("caption", caption)) = matches.subcommand() {
            let typed = |id: &&&str| {
                caption.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
            };
            if let Some(id) = NOT_OF_CAPTION.iter().find(typed) {
                let reason = format!("`caption` writes no picture: no --{}", id.replace('_', "-"));
                return Err(definition.error(ErrorKind::ArgumentConflict, reason));
            }
        }
        Self::from_arg_matches(&matches)
    }
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print what would run (regions, steps, bytes) and stop; takes every option of the job
    Plan(Box<JobArgs>),
    /// Print the caption of every region as JSON, to be edited and given back with --captions
    Caption(Box<JobArgs>),
    /// List, add, download, check and remove models
    Models(super::models::ModelsArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar when stderr is a terminal, otherwise nothing
    Auto,
    /// A bar; where stderr is no terminal, a line for every tenth of a stage
    Bar,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptionerArg {
    /// Describe what can be measured in the region: colours, brightness, contrast, texture
    Attributes,
    /// Every region gets the global prompt
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FusionArg {
    /// Overlapping regions fade into each other (raised cosine)
    Feather,
    /// Overlapping regions count alike
    Average,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorFixArg {
    /// Large-scale colour and tone from the input
    Wavelet,
    /// Colours as the model made them
    None,
}

#[derive(Args, Debug)]
pub struct JobArgs {
    /// The picture to enlarge, or a folder of pictures; `-` reads standard input
    #[arg(value_name = "INPUT", conflicts_with = "input_option")]
    input: Option<OsString>,
    /// The same as INPUT
    #[arg(short = 'i', long = "input", value_name = "INPUT")]
    input_option: Option<OsString>,
    /// Where to write, for a folder a folder; `-` writes standard output [default: INPUT with _4x before its
    /// extension]
    #[arg(short, long, value_name = "OUTPUT")]
    output: Option<OsString>,
    /// Format of the output [default: by the output's name, else as the input]
    #[arg(short, long, value_name = "png|jpeg|webp|tiff")]
    format: Option<Format>,
    /// Leave pictures alone whose output exists
    #[arg(long)]
    pub skip_existing: bool,
    /// JPEG quality
    #[arg(long, value_name = "1-100", default_value_t = DEFAULT_QUALITY,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,

    /// Enlarge by this factor
    #[arg(short, long, value_name = "FACTOR", default_value_t = Defaults::SCALE,
          value_parser = values::positive, help_heading = "Size")]
    scale: f64,
    /// Enlarge to exactly this size, in pixels
    #[arg(long, value_name = "WxH", value_parser = values::size, conflicts_with_all = ["scale", "long_edge"],
          help_heading = "Size")]
    size: Option<(u32, u32)>,
    /// Enlarge until the longer side has this many pixels
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "scale", help_heading = "Size")]
    long_edge: Option<u32>,

    /// What the whole picture shows
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        help_heading = "Content"
    )]
    prompt: String,
    /// What the picture should not show; needs --guidance above 1
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        help_heading = "Content"
    )]
    negative_prompt: String,
    /// How each region is described
    #[arg(long, value_enum, default_value_t = CaptionerArg::Attributes, help_heading = "Content")]
    captioner: CaptionerArg,
    /// Take the regions' captions from this JSON file (as `caption` writes it)
    #[arg(long, value_name = "FILE", conflicts_with = "captioner", help_heading = "Content")]
    captions: Option<PathBuf>,

    /// Same seed, same picture
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "Repainting"
    )]
    seed: u64,
    /// Steps of the whole schedule [default: the model's, or 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000),
          help_heading = "Repainting")]
    steps: Option<u32>,
    /// How much is repainted: the share of the steps that run, rounded up [default: the model's, or 0.45]
    #[arg(long, value_name = "0-1", value_parser = values::share, help_heading = "Repainting")]
    strength: Option<f64>,
    /// The same as a number of steps
    #[arg(long, value_name = "K", conflicts_with = "strength",
          value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Repainting")]
    denoise_steps: Option<u32>,
    /// How a step is taken [default: the model's]
    #[arg(long, value_name = "ddim|tcd|euler|lcm", help_heading = "Repainting")]
    sampler: Option<SamplerKind>,
    /// Share of fresh noise in each step of ddim or tcd [default: the model's, or 0 and 0.3]
    #[arg(long, value_name = "0-1", value_parser = values::weight, help_heading = "Repainting")]
    eta: Option<f64>,
    /// How timesteps are spread; few-step models want trailing [default: the model's]
    #[arg(long, value_name = "leading|trailing|linspace", help_heading = "Repainting")]
    spacing: Option<TimestepSpacing>,
    /// The very timesteps of the whole schedule, highest first
    #[arg(
        long,
        value_name = "T,T,...",
        value_delimiter = ',',
        conflicts_with = "steps",
        help_heading = "Repainting"
    )]
    timesteps: Option<Vec<usize>>,
    /// How strongly the prompt is followed against the negative prompt, at twice the work; 1 is off
    /// [default: the model's, or 1]
    #[arg(long, value_name = "0-100", value_parser = values::guidance, help_heading = "Repainting")]
    guidance: Option<f64>,
    /// Overlap of neighbouring regions, as a share of a region's side
    #[arg(long, value_name = "0-0.9", default_value_t = Defaults::OVERLAP, value_parser = values::overlap,
          help_heading = "Repainting")]
    overlap: f64,
    /// How overlapping regions are put together
    #[arg(long, value_enum, default_value_t = FusionArg::Feather, help_heading = "Repainting")]
    fusion: FusionArg,
    /// Weight of the global structure prior: keeps shapes and tones; 0 turns it off
    #[arg(long, value_name = "0-1", default_value_t = Defaults::GSP, value_parser = values::weight,
          help_heading = "Repainting")]
    gsp: f64,
    /// Weight of the regional attention prior: what the whole picture says of a region; 0 is off
    #[arg(long, value_name = "0-1", default_value_t = Defaults::RAP, value_parser = values::weight,
          help_heading = "Repainting")]
    rap: f64,
    /// Weight of the regional semantic prior: the regions' captions against the prompt; 0 is off
    #[arg(long, value_name = "0-1", default_value_t = Defaults::RSP, value_parser = values::weight,
          help_heading = "Repainting")]
    rsp: f64,

    /// How the output's colours are kept true to the input
    #[arg(long, value_enum, default_value_t = ColorFixArg::Wavelet, help_heading = "Repainting")]
    color_fix: ColorFixArg,

    /// A model that `models list` shows, a folder in diffusers layout, a .safetensors or .gguf file
    /// [default: the embedded model]
    #[arg(short = 'n', long, value_name = "NAME|PATH", help_heading = "Model")]
    model: Option<OsString>,
    /// Another VAE for the model: a name, a folder or a file
    #[arg(long, value_name = "NAME|PATH", help_heading = "Model")]
    vae: Option<OsString>,
    /// Another UNet for the model: a folder or a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    unet: Option<PathBuf>,
    /// Round the model's weights to this type as they are read: less memory, a little less exact
    #[arg(long, value_name = "q8_0|q6_k|q5_k|q4_k|f16", help_heading = "Model")]
    quantize: Option<QuantType>,
    /// LoRA to change the model's weights with (safetensors), and how much of it [default scale: 1];
    /// may be given several times
    #[arg(long, value_name = "NAME|FILE[:SCALE]", help_heading = "Model",
          value_parser = clap::builder::OsStringValueParser::new().try_map(values::lora))]
    lora: Vec<Lora>,
    /// Where to compute
    #[arg(
        short = 'g',
        long,
        value_name = "auto|cpu|cuda:N|metal",
        default_value_t,
        help_heading = "Machine"
    )]
    device: DeviceSpec,
    /// In what the CPU multiplies in the UNet: f32, bf16 (faster, with a small error), or auto: bf16
    /// where the processor has instructions for it
    #[arg(long, value_name = "f32|bf16|auto", value_parser = values::products,
          default_value = "f32", help_heading = "Machine")]
    dtype: Products,
    /// What the job may take of the device's memory: 8GiB, 512MiB, 6G, or bytes [default: what is free,
    /// less a margin]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, help_heading = "Machine")]
    max_memory: Option<usize>,
    /// Regions computed at once [default: 4 on the CPU, 8 on a GPU, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024),
          help_heading = "Machine")]
    batch: Option<u32>,
    /// Side of a VAE tile, in pixels [default: 512, or what fits]
    #[arg(short = 't', long, value_name = "PIXELS",
          value_parser = clap::value_parser!(u32).range(32..=16384), help_heading = "Machine")]
    tile: Option<u32>,
    /// Threads on the CPU [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024),
          help_heading = "Machine")]
    threads: Option<u32>,

    /// Folder for the files of a job while it runs [default: beside the output; the cache for a stream]
    #[arg(long, value_name = "DIR", help_heading = "Unfinished work")]
    work_dir: Option<PathBuf>,
    /// Go on with unfinished work, which happens by itself; fail if there is none
    #[arg(long, conflicts_with = "fresh", help_heading = "Unfinished work")]
    resume: bool,
    /// Throw unfinished work away and begin anew
    #[arg(long, help_heading = "Unfinished work")]
    fresh: bool,

    /// Print what would run and stop
    #[arg(long)]
    pub dry_run: bool,
    /// How progress is shown, on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
    /// Errors only
    #[arg(short, long)]
    pub quiet: bool,
}

impl JobArgs {
    /// The picture to read.
    pub fn input(&self) -> Result<Input, CliError> {
        let given = self.input.as_deref().or(self.input_option.as_deref());
        given.filter(|given| !given.is_empty()).map(Input::parse).ok_or_else(|| {
            CliError::Usage("no input: name a picture, or `-` for standard input (--help)".into())
        })
    }

    /// The one picture that `verb` reads.
    pub fn one_input(&self, verb: &str) -> Result<Input, CliError> {
        match self.input()? {
            Input::Path(path) if path.is_dir() => Err(CliError::Usage(format!(
                "{}: is a folder; `{verb}` takes one picture",
                path.display()
            ))),
            input => Ok(input),
        }
    }

    /// Where to write, and in which format. `source` is the input's own format.
    pub fn output(&self, input: &Input, source: Format) -> Result<(Output, Format), CliError> {
        let output = match (&self.output, input) {
            (Some(output), _) => Output::parse(output),
            (None, Input::Path(path)) => {
                let (path, format) = self.output_name(path, source, &self.suffix());
                return Ok((Output::Path(path), format));
            }
            (None, Input::Stdin) => Output::Stdout,
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
            Output::Stdout => None,
        };
        Ok((output, self.format.or(named).unwrap_or(source)))
    }

    /// The name and the format of the output of a picture that is named itself: with `suffix` before the
    /// extension, which changes only with the format. `source` is the format of what it holds.
    pub fn output_name(&self, path: &Path, source: Format, suffix: &str) -> (PathBuf, Format) {
        let named = Format::from_extension(path);
        let format = self.format.or(named).unwrap_or(source);
        // What is no extension of ours belongs to the name.
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
    /// What cannot be meant: one file or a stream for many pictures, the input folder itself, one
    /// picture's captions for many.
    pub fn output_folder(&self, folder: &Path) -> Result<PathBuf, CliError> {
        let refuse = |reason: String| Err(CliError::Usage(reason));
        if let Some(captions) = &self.captions {
            let captions = captions.display();
            return refuse(format!("--captions {captions}: describe one picture, not a folder"));
        }
        let output = match self.output.as_deref().map(Output::parse) {
            Some(Output::Path(path)) => path,
            Some(Output::Stdout) => {
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
                name.push(self.suffix());
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

    /// Where a verb that writes no picture should write.
    ///
    /// # Errors
    /// A name that a picture would have.
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

    /// What stands before the extension of a default output name: `_4x`, `_1.5x`, `_800x600`.
    fn suffix(&self) -> String {
        match self.size_spec() {
            SizeSpec::Scale(scale) => format!("_{scale}x"),
            SizeSpec::Exact(width, height) => format!("_{width}x{height}"),
            SizeSpec::LongEdge(edge) => format!("_{edge}px"),
        }
    }

    fn size_spec(&self) -> SizeSpec {
        match (self.size, self.long_edge) {
            (Some((width, height)), _) => SizeSpec::Exact(width, height),
            (None, Some(edge)) => SizeSpec::LongEdge(edge),
            (None, None) => SizeSpec::Scale(self.scale),
        }
    }

    /// The resolved settings of the job.
    pub fn settings(&self) -> Settings {
        Settings {
            size: self.size_spec(),
            prompt: self.prompt.trim().to_owned(),
            negative_prompt: self.negative_prompt.trim().to_owned(),
            seed: self.seed,
            sampler: self.sampler,
            eta: self.eta,
            spacing: self.spacing,
            timesteps: self.timesteps.clone(),
            steps: self.steps.map(|steps| steps as usize),
            denoise: match (self.denoise_steps, self.strength) {
                (Some(steps), _) => Some(Denoise::Steps(steps as usize)),
                (None, strength) => strength.map(Denoise::Strength),
            },
            guidance: self.guidance,
            overlap: self.overlap,
            fusion: match self.fusion {
                FusionArg::Feather => Fusion::Feather,
                FusionArg::Average => Fusion::Average,
            },
            gsp: self.gsp,
            rap: self.rap,
            rsp: self.rsp,
            captioner: match (&self.captions, self.captioner) {
                (Some(file), _) => CaptionerChoice::File(file.clone()),
                (None, CaptionerArg::Attributes) => CaptionerChoice::Attributes,
                (None, CaptionerArg::None) => CaptionerChoice::None,
            },
            colour_fix: match self.color_fix {
                ColorFixArg::Wavelet => ColourFix::Wavelet,
                ColorFixArg::None => ColourFix::None,
            },
            batch: self.batch.map(|batch| batch as usize),
            tile: self.tile.map(|tile| tile as usize),
            max_memory: self.max_memory,
            jpeg_quality: self.quality,
        }
    }

    /// Where the job keeps what it has done, and what becomes of what is there.
    pub fn work(&self) -> Work {
        Work {
            folder: self.work_dir.clone(),
            resume: match (self.resume, self.fresh) {
                (true, _) => Resume::Required,
                (_, true) => Resume::Never,
                _ => Resume::Auto,
            },
        }
    }

    pub fn model(&self) -> Option<&OsStr> {
        self.model.as_deref()
    }

    pub fn vae(&self) -> Option<&OsStr> {
        self.vae.as_deref()
    }

    pub fn unet(&self) -> Option<&Path> {
        self.unet.as_deref()
    }

    /// The type to which the model's weights are rounded.
    pub fn quantize(&self) -> Option<QuantType> {
        self.quantize
    }

    pub fn loras(&self) -> &[Lora] {
        &self.lora
    }

    pub fn device(&self) -> DeviceSpec {
        self.device
    }

    pub fn products(&self) -> Products {
        self.dtype
    }

    /// Sets the size of the thread pool, once, before any work.
    pub fn set_threads(&self) -> Result<(), CliError> {
        let Some(threads) = self.threads else { return Ok(()) };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .build_global()
            .map_err(|error| CliError::Usage(format!("--threads {threads}: {error}")))
    }

    pub fn progress_mode(&self) -> ProgressMode {
        if self.quiet && self.progress == ProgressMode::Auto {
            ProgressMode::None
        } else {
            self.progress
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cupscale::sampler::{Ddim, Tcd};

    fn parse(line: &str) -> JobArgs {
        Cli::from_command_line(line.split(' ')).unwrap().job
    }

    #[test]
    fn the_definition_of_every_option_is_consistent() {
        Cli::definition().debug_assert();
    }

    #[test]
    fn caption_refuses_what_says_how_a_picture_is_written_and_its_help_does_not_offer_it() {
        let mut definition = Cli::definition();
        let caption = definition.find_subcommand_mut("caption").unwrap();
        let help = caption.render_help().to_string();
        for line in ["-f png", "--quality 90", "--skip-existing", "--dry-run"] {
            let words = format!("x caption a.png {line}");
            let error = Cli::from_command_line(words.split(' ')).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
            assert!(error.to_string().contains("writes no picture"), "{error}");
            assert!(Cli::from_command_line(words.replace("caption", "plan").split(' ')).is_ok());
        }
        for id in NOT_OF_CAPTION {
            assert!(!help.contains(&format!("--{}", id.replace('_', "-"))), "{id} in: {help}");
        }
        assert!(help.contains("--overlap") && help.contains("Where to write the JSON"), "{help}");
        assert!(Cli::from_command_line(["x", "caption", "a.png", "--overlap", "0.25"]).is_ok());
    }

    #[test]
    fn the_help_states_the_real_defaults() {
        let help = Cli::definition().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for default in [
            format!("[default: the model's, or {}]", Defaults::STEPS),
            format!("[default: the model's, or {}]", Defaults::STRENGTH),
            format!("[default: the model's, or {}]", Defaults::GUIDANCE),
            format!("[default: {}, or what fits]", Defaults::TILE),
            format!(
                "[default: {} on the CPU, {} on a GPU, or what fits]",
                Defaults::BATCH_CPU,
                Defaults::BATCH_GPU
            ),
            format!("[default: the model's, or {} and {}]", Ddim::DEFAULT_ETA, Tcd::DEFAULT_ETA),
        ] {
            assert!(help.contains(&default), "{default} not in: {help}");
        }
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
            let args = parse(line);
            let (output, _) = args.output(&args.input().unwrap(), Format::Jpeg).unwrap();
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
            let args = parse(line);
            assert_eq!(args.output(&args.input().unwrap(), Format::Jpeg).unwrap().1, expected);
        }
        let args = parse("x a.jpg -o b.xyz");
        assert!(matches!(
            args.output(&args.input().unwrap(), Format::Jpeg),
            Err(CliError::Usage(_))
        ));
    }

    #[test]
    fn a_lora_has_a_scale_if_a_number_follows_its_last_colon() {
        for (text, path, scale) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.safetensors:0.7", "a.safetensors", 0.7),
            ("a.safetensors:-1", "a.safetensors", -1.0),
            ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
            ("C:\\loras\\a.safetensors:.5", "C:\\loras\\a.safetensors", 0.5),
            ("night:2.safetensors", "night:2.safetensors", 1.0),
            ("a:1:2", "a:1", 2.0),
            ("a:", "a:", 1.0),
        ] {
            let expected = Lora { path: path.into(), scale };
            assert_eq!(parse(&format!("x in.png --lora {text}")).loras(), [expected], "{text}");
        }
        let args = parse("x in.png --lora a --lora b:2");
        assert_eq!(args.loras().iter().map(|lora| lora.scale).collect::<Vec<_>>(), [1.0, 2.0]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "x a --scale 0",
            "x a --scale nan",
            "x a --strength 0",
            "x a --strength 1.1",
            "x a --overlap 1",
            "x a --sampler heun",
            "x a --eta 1.1",
            "x a --spacing even",
            "x a --timesteps 800,x",
            "x a --timesteps 800 --steps 2",
            "x a --guidance -1",
            "x a --guidance inf",
            "x a --gsp -1",
            "x a --size 10",
            "x a --size 0x5",
            "x a --scale 2 --size 5x5",
            "x a -i b",
            "x a --max-memory 8",
            "x a --max-memory 8QiB",
            "x a --max-memory -1G",
            "x a --lora b:inf",
            "x a --lora b:nan",
            "x a --lora :1",
            "x a --unknown",
        ] {
            assert!(Cli::from_command_line(line.split(' ')).is_err(), "{line}");
        }
    }
}
