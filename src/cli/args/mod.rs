//! All options: names, help, ranges, and their conversion to settings of the pipeline.

mod content;
mod doctor;
mod files;
mod integrate;
mod llava;
mod machine;
mod model;
mod models;
mod read;
mod repaint;
mod sampler;
mod size;
mod work;

use std::ffi::OsString;

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::ErrorKind, parser::ValueSource,
};

use crate::cli::progress::{ProgressMode, Show};
use machine::MachineArgs;
use read::ReadArgs;
use repaint::RepaintArgs;
use size::SizeArgs;
use work::WorkArgs;

pub use content::{CaptionerArg, ContentArgs};
pub use doctor::DoctorArgs;
pub use files::FilesArgs;
pub use integrate::IntegrateArgs;
pub use llava::{CaptionEngineArg, LlavaArgs};
pub use model::ModelArgs;
pub use models::{
    AddArgs, ListArgs, ModelsArgs, ModelsVerb, PullArgs, QuantizeArgs, RemoveArgs, VerifyArgs,
};

const EXAMPLES: &str = "\
Examples:
  cupscale-fast photo.jpg                                  write photo_4x.jpg
  cupscale-fast -i in.png -o out.tif --scale 2 --prompt \"an old harbour at dusk\"
  cat in.png | cupscale-fast -i - -o - --format png > out.png
  cupscale-fast *.png                                      several pictures, each output beside its own
  cupscale-fast -i shots -o big --skip-existing            every picture below the folder
  cupscale-fast caption photo.jpg > captions.json          edit it, then:
  cupscale-fast photo.jpg --captions captions.json
  cupscale-fast plan photo.jpg --long-edge 8000            what would run, without running it
  cupscale-fast models list                                which models there are
  cupscale-fast doctor                                     which devices there are, and whether they compute right

Exit codes: 0 done, 1 an input failed, 2 wrong usage, 3 everything was skipped, 130 interrupted.";

/// The parsed command line.
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
    /// Log the stages on stderr; -vv logs every call [default: the filter in $RUST_LOG]
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// Options for the output picture and for unfinished work, which `caption` does not have. All other options of a job
/// apply to it.
const NOT_OF_CAPTION: [&str; 7] =
    ["format", "quality", "skip_existing", "dry_run", "work_dir", "resume", "fresh"];

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

    /// Parses the command line, and refuses options that the verb does not use.
    pub fn from_command_line(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut definition = Self::definition();
        let matches = definition.try_get_matches_from_mut(words)?;
        let job = match matches.subcommand() {
            Some((verb @ ("plan" | "caption"), job)) => Some((verb, job)),
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
    /// Print the plan of the job (regions, steps, bytes) and stop; takes every option of the job
    Plan(Box<JobArgs>),
    /// Print the caption of every region as JSON, to be edited and given back with --captions
    Caption(Box<JobArgs>),
    /// List, add, download, check and remove models
    Models(ModelsArgs),
    /// Show the devices and what computes on them, and test their kernels
    Doctor(DoctorArgs),
    /// Put the program behind GIMP, darktable, Krita, file managers and others
    Integrate(IntegrateArgs),
    /// Captioning process of the program
    #[cfg(feature = "mistralrs")]
    #[command(name = cupscale::caption::mistralrs::VERB, hide = true)]
    CaptionWorker,
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

    /// Print the plan of the job and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the progress on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
    /// Errors only
    #[arg(short, long)]
    quiet: bool,
}

impl JobArgs {
    /// Form of the progress display.
    pub fn show(&self) -> Show {
        Show { mode: self.progress, quiet: self.quiet }
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
        Cli::definition().debug_assert();
    }

    #[test]
    fn caption_refuses_what_says_how_a_picture_is_written_and_its_help_does_not_offer_it() {
        let mut definition = Cli::definition();
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
        let help = Cli::definition().render_help().to_string();
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
