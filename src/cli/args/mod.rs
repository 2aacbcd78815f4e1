//! All options: names, help, ranges, and their conversion to settings of the pipeline.

mod content;
mod doctor;
mod files;
mod help;
mod llava;
mod machine;
mod model;
mod models;
mod progress;
mod read;
mod repaint;
mod sampler;
mod size;
mod work;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::ErrorKind, parser::ValueSource,
};

use crate::cli::{
    error::CliError,
    progress::{PreviewFile, Show},
};
use machine::MachineArgs;
use progress::ProgressArgs;
use read::ReadArgs;
use repaint::RepaintArgs;
use size::SizeArgs;
use work::WorkArgs;

pub use content::{CaptionerArg, ContentArgs};
pub use doctor::DoctorArgs;
pub use files::FilesArgs;
pub use llava::{CaptionEngineArg, LlavaArgs};
pub use model::ModelArgs;
pub use models::{
    AddArgs, ListArgs, ModelsArgs, ModelsVerb, PullArgs, QuantizeArgs, RemoveArgs, VerifyArgs,
};

/// Order of the help's parts: examples first.
const TEMPLATE: &str = "{about}\n\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(name = "cupscale-fast", version, args_conflicts_with_subcommands = true)]
#[command(help_template = TEMPLATE, subcommand_help_heading = "Verbs", subcommand_value_name = "VERB")]
#[command(
    about = "Enlarge a picture creatively: a few-step diffusion model repaints it region by region"
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub job: JobArgs,
    /// Log the stages on stderr; -vv logs every call [default: the filter in $RUST_LOG]
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Progress")]
    pub verbose: u8,
}

/// Options for the output picture and for unfinished work, which `caption` does not have. All other options of a job
/// apply to it.
const NOT_OF_CAPTION: [&str; 9] = [
    "format",
    "quality",
    "skip_existing",
    "preview",
    "report",
    "dry_run",
    "work_dir",
    "resume",
    "fresh",
];

/// Verbs that take the options of a job.
const JOBS: [&str; 2] = ["plan", "caption"];

impl Cli {
    /// The definition, with each verb's own options in its help, and in the `short` help what most people need.
    fn definition(short: bool) -> clap::Command {
        let hidden = |command: clap::Command| {
            NOT_OF_CAPTION
                .iter()
                .fold(command, |command, id| command.mut_arg(id, |option| option.hide(true)))
                .mut_arg("output", |option| {
                    option.help("Where to write the JSON [default: standard output]")
                })
        };
        let command = Self::command();
        let command = if short { help::short(command, &JOBS) } else { help::whole(command) };
        command.mut_subcommand("caption", hidden)
    }

    /// Parses the command line, and refuses options that the verb does not use.
    pub fn from_command_line(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let mut definition = Self::definition(words.iter().any(|word| word == "-h"));
        let matches = definition.try_get_matches_from_mut(words)?;
        let job = match matches.subcommand() {
            Some((verb, job)) if JOBS.contains(&verb) => Some((verb, job)),
            Some(_) => None,
            None => Some(("", &matches)),
        };
        let Some((verb, job)) = job else { return Self::from_arg_matches(&matches) };
        let typed = |id: &&&str| job.value_source(id) == Some(ValueSource::CommandLine);
        let option = |id: &str| id.replace('_', "-");
        if verb == "caption"
            && let Some(id) = NOT_OF_CAPTION.iter().find(typed)
        {
            let reason = format!("`caption` writes no picture: no --{}", option(id));
            return Err(definition.error(ErrorKind::ArgumentConflict, reason));
        }
        if job.get_raw("captioner").into_iter().flatten().all(|name| name != "llava")
            && let Some(id) = llava::LLAVA_ONLY.iter().find(typed)
        {
            let reason = format!("--{} is for --captioner llava", option(id));
            return Err(definition.error(ErrorKind::ArgumentConflict, reason));
        }
        Self::from_arg_matches(&matches)
    }
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the plan of the job: regions, steps, memory, time
    #[command(
        after_help = "Example:\n  cupscale-fast plan photo.jpg --long-edge 8000 --model hyper-sdxl"
    )]
    Plan(Box<PlanArgs>),
    /// Print the caption of every region as JSON, to edit and give back with --captions
    #[command(
        after_help = "Example:\n  cupscale-fast caption photo.jpg > captions.json\n  cupscale-fast photo.jpg --captions captions.json"
    )]
    Caption(Box<JobArgs>),
    /// List, add, download, check and remove models
    #[command(
        after_help = "Example:\n  cupscale-fast models pull hyper-sdxl\n  cupscale-fast photo.jpg --model hyper-sdxl"
    )]
    Models(ModelsArgs),
    /// Show the devices and what computes on them, and test their kernels
    #[command(after_help = "Example:\n  cupscale-fast doctor --device cuda:1")]
    Doctor(DoctorArgs),
    /// Captioning process of the program
    #[cfg(feature = "mistralrs")]
    #[command(name = cupscale::caption::mistralrs::VERB, hide = true)]
    CaptionWorker,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Print JSON, for programs
    #[arg(long, help_heading = "Files")]
    pub json: bool,
}

/// All options of a job, unresolved.
#[derive(Args, Debug)]
pub struct JobArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    #[command(flatten)]
    pub read: ReadArgs,
    #[command(flatten)]
    pub size: SizeArgs,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub repaint: RepaintArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub work: WorkArgs,

    /// Print the plan of the job and stop, as the verb `plan` does
    #[arg(long, help_heading = "Files")]
    pub dry_run: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Rewrite a small picture of the whole output after every step (.jpg, .png, .webp, .tif)
    #[arg(long, value_name = "FILE", help_heading = "Progress")]
    preview: Option<PathBuf>,
    /// Write a page (HTML, one file) that shows what the job did: before and after, captions, times [default FILE: the
    /// output's name and .html]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, help_heading = "Progress")]
    pub report: Option<Option<PathBuf>>,
    /// Errors only
    #[arg(short, long, help_heading = "Progress")]
    quiet: bool,
}

impl JobArgs {
    /// Form of the progress display.
    ///
    /// # Errors
    /// A descriptor or a preview that cannot be written to.
    pub fn show(&self) -> Result<Show, CliError> {
        let preview = self.preview.as_deref().map(PreviewFile::new).transpose()?;
        Ok(Show { preview, ..self.progress.show(self.quiet)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::LoraArg;
    use cupscale::{
        pipeline::Defaults,
        sampler::{Ddim, Tcd},
    };

    fn parse(line: &str) -> JobArgs {
        Cli::from_command_line(line.split(' ')).unwrap().job
    }

    #[test]
    fn the_definition_of_every_option_is_consistent() {
        Cli::definition(false).debug_assert();
    }

    #[test]
    fn caption_refuses_what_says_how_a_picture_is_written_and_its_help_does_not_offer_it() {
        let mut definition = Cli::definition(false);
        let caption = definition.find_subcommand_mut("caption").unwrap();
        let help = caption.render_help().to_string();
        for line in [
            "-f png",
            "--quality 90",
            "--skip-existing",
            "--dry-run",
            "--work-dir w",
            "--resume",
            "--fresh",
        ] {
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
        let help = Cli::definition(false).render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for default in [
            format!("[default: the model's, or {}]", Defaults::STEPS),
            format!("[default: the model's, or {}]", Defaults::STRENGTH),
            format!("[default: the model's, or {}]", Defaults::GUIDANCE),
            format!(
                "[default: {}, of an AutoencoderKL {}, or what fits]",
                Defaults::TILE,
                Defaults::TILE_KL
            ),
            format!("[default: {}, or what fits]", Defaults::CAPTION_BATCH),
            format!(
                "[default: {} on the CPU, {} on a GPU, or what fits]",
                Defaults::BATCH_CPU,
                Defaults::BATCH_GPU
            ),
            format!(
                "[default: {}GiB on the CPU, {} on a GPU, where",
                Defaults::VAE_DISK_CPU >> 30,
                Defaults::VAE_DISK_GPU
            ),
            format!("[default: the model's, or {} and {}]", Ddim::DEFAULT_ETA, Tcd::DEFAULT_ETA),
        ] {
            assert!(help.contains(&default), "{default} not in: {help}");
        }
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
            let expected = LoraArg { path: path.into(), scale };
            assert_eq!(parse(&format!("x in.png --lora {text}")).model.lora, [expected], "{text}");
        }
        let args = parse("x in.png --lora a --lora b:2");
        assert_eq!(args.model.lora.iter().map(|lora| lora.scale).collect::<Vec<_>>(), [1.0, 2.0]);
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
            "x a --vae-disk 8",
            "x a --lora b:inf",
            "x a --lora b:nan",
            "x a --lora :1",
            "x a --unknown",
        ] {
            assert!(Cli::from_command_line(line.split(' ')).is_err(), "{line}");
        }
    }
}
