//! All options: names, help, ranges, and their conversion to settings of the pipeline.

mod content;
mod control;
mod doctor;
mod edit;
mod files;
mod generate;
mod help;
mod info;
mod integrate;
mod llava;
mod machine;
mod mask;
mod model;
mod models;
mod progress;
mod raw;
mod read;
mod repaint;
mod request;
mod reuse;
mod sampler;
#[cfg(feature = "serve")]
mod serve;
mod share;
mod size;
mod status;
mod verbs;
mod work;

use std::{collections::HashSet, ffi::OsString, path::PathBuf};

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::ErrorKind, parser::ValueSource,
};

use crate::cli::{
    error::CliError,
    progress::{PreviewFile, Show},
    usage,
};
use machine::MachineArgs;
use mask::MaskArgs;
use progress::ProgressArgs;
use raw::{FrameArgs, NOT_OF_RAW};
pub use read::Every;
use read::ReadArgs;
use reuse::{ReuseArgs, Reused};
use share::ShareArgs;
use size::SizeArgs;
use verbs::{JOBS, NOT_OF_CAPTION, NOT_OF_EDIT, NOT_OF_GENERATE, OF_ENLARGING, hide};
use work::WorkArgs;

pub use content::{CaptionerArg, ContentArgs};
pub use control::{ControlArgs, ControlChoice};
pub use doctor::DoctorArgs;
pub use edit::EditArgs;
pub use files::FilesArgs;
pub use generate::GenerateArgs;
pub use info::InfoArgs;
pub use integrate::IntegrateArgs;
pub use llava::{CaptionEngineArg, LlavaArgs};
pub use model::ModelArgs;
pub use models::{
    AddArgs, ListArgs, ModelsArgs, ModelsVerb, PullArgs, QuantizeArgs, RemoveArgs, VerifyArgs,
};
pub use repaint::RepaintArgs;
#[cfg(all(test, feature = "serve"))]
pub use request::path_settings;
pub use request::{RequestArgs, setting_names};
#[cfg(feature = "serve")]
pub use serve::{ServeArgs, ServerArgs, Token};
pub use status::StatusArgs;

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

impl Cli {
    /// The definition, with each verb's own options in its help, and in the `short` help what most people need.
    fn definition(short: bool) -> clap::Command {
        let command = Self::command();
        let command = if short { help::short(command, JOBS) } else { help::whole(command) };
        #[cfg(feature = "serve")]
        let command = command.mut_subcommand("serve", |command| hide(command, serve::refused()));
        help::of_verbs(command).mut_subcommand("pipe", |command| hide(command, request::refused()))
    }

    /// Parses the command line, and refuses options that the verb does not use.
    pub fn from_command_line(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let mut definition = Self::definition(words.iter().any(|word| word == "-h"));
        let matches = definition.try_get_matches_from_mut(&words)?;
        let job = match matches.subcommand() {
            Some((verb, job)) if JOBS.contains(&verb) => Some((verb, job)),
            Some(_) => None,
            None => Some(("", &matches)),
        };
        let Some((verb, job)) = job else { return Self::from_arg_matches(&matches) };
        let typed = |id: &&&str| job.value_source(id) == Some(ValueSource::CommandLine);
        let option = |id: &str| id.replace('_', "-");
        // Settings of an earlier picture may hold more than this one needs.
        let is_base_alone = verb == "generate"
            && !["size", "scale", "long_edge", "reuse"].iter().any(|id| typed(&id));
        let refusal = match verb {
            "caption" => NOT_OF_CAPTION
                .iter()
                .find(typed)
                .map(|id| format!("`caption` writes no picture: no --{}", option(id))),
            "edit" => NOT_OF_EDIT
                .iter()
                .find(typed)
                .map(|id| format!("`edit` writes the picture in its place: no --{}", option(id))),
            "generate" => NOT_OF_GENERATE.iter().find(typed).map(|id| match *id {
                "inputs" => "`generate` takes one prompt: put it into quotes".to_owned(),
                id => format!("`generate` reads no picture: no --{}", option(id).replace("input-option", "input")),
            }),
            "raw" => NOT_OF_RAW.iter().find(typed).map(|id| match *id {
                "inputs" => "`raw` takes one stream: name it with -i".to_owned(),
                id => format!("--{} is not for `raw`: frames come and go as pixels alone, and none is resumed", option(id)),
            }),
            "pipe" => request::refusal(job, "pipe", "messages"),
            #[cfg(feature = "serve")]
            "serve" => serve::refusal(job),
            _ => None,
        };
        let refusal = refusal.or_else(|| {
            let id = OF_ENLARGING.iter().filter(|_| is_base_alone).find(typed)?;
            let option = option(id);
            Some(format!(
                "--{option} is for the enlargement: it needs --size, --scale or --long-edge"
            ))
        });
        if let Some(reason) = refusal {
            return Err(definition.error(ErrorKind::ArgumentConflict, reason));
        }
        if job.get_raw("captioner").into_iter().flatten().all(|name| name != "llava")
            && let Some(id) = llava::LLAVA_ONLY.iter().find(typed)
        {
            let reason = format!("--{} is for --captioner llava", option(id));
            return Err(definition.error(ErrorKind::ArgumentConflict, reason));
        }
        match job.get_one::<PathBuf>("reuse") {
            Some(picture) => {
                let ids = job.ids().map(clap::Id::as_str);
                let typed = ids.filter(|id| job.value_source(id) == Some(ValueSource::CommandLine));
                let refuse = |definition: &mut clap::Command, reason: &str| {
                    let reason = format!("--reuse {}: {reason}", picture.display());
                    definition.error(ErrorKind::ValueValidation, reason)
                };
                let reused = reuse::reused(picture, &typed.collect::<HashSet<_>>(), verb)
                    .map_err(|reason| refuse(&mut definition, &reason))?;
                // What is wrong now was not typed.
                Self::with(&mut definition, words, verb, reused)
                    .map_err(|error| refuse(&mut definition, &usage::line(&error)))
            }
            None => Self::from_arg_matches(&matches),
        }
    }

    /// Parses the command line with the words of `--reuse` in it, where nothing that was typed can end the options.
    fn with(
        definition: &mut clap::Command,
        mut words: Vec<OsString>,
        verb: &str,
        reused: Reused,
    ) -> Result<Self, clap::Error> {
        let verb = words.iter().position(|word| !verb.is_empty() && word == verb);
        let place = verb.unwrap_or(0) + 1;
        words.splice(place..place, reused.words);
        let mut cli = Self::from_arg_matches(&definition.try_get_matches_from_mut(words)?)?;
        let job = match &mut cli.verb {
            Some(Verb::Plan(plan)) => &mut plan.job,
            Some(Verb::Caption(job) | Verb::Pipe(job)) => &mut **job,
            Some(Verb::Edit(edit)) => &mut edit.job,
            Some(Verb::Generate(generate)) => &mut generate.job,
            Some(Verb::Raw(raw)) => &mut raw.job,
            #[cfg(feature = "serve")]
            Some(Verb::Serve(serve)) => &mut serve.job,
            _ => &mut cli.job,
        };
        job.reuse.notes = reused.notes;
        Ok(cli)
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
    /// Make a picture from words, and enlarge it: from a prompt to 4K
    #[command(
        after_help = "Example:\n  cupscale-fast models pull sdxl-base\n  cupscale-fast generate \"a red fox in fresh snow\" -o fox.png --size 4096x4096 --model sdxl-base\n  cupscale-fast generate \"a red fox\" -o fox.png --model sdxl-base         the base picture alone\n  cupscale-fast generate \"a red fox\" -o fox.png -s 4 --keep-base small.png --seed 7 -n sdxl-base"
    )]
    Generate(Box<GenerateArgs>),
    /// Enlarge files in place: each is replaced when its new picture is complete
    #[command(after_help = "Example:\n  cupscale-fast edit *.jpg --scale 1 --backup")]
    Edit(Box<EditArgs>),
    /// Print what a picture's file says of itself, and the settings that made it
    #[command(
        after_help = "Example:\n  cupscale-fast info photo_4x.jpg\n  cupscale-fast other.jpg --reuse photo_4x.jpg"
    )]
    Info(InfoArgs),
    /// Sum up the shares of a folder: pictures that are done, failed, running and left
    #[command(
        after_help = "Example:\n  cupscale-fast shots -o big --shard 3/50       one process of an array\n  cupscale-fast status big                      all of them together\n\nExit codes: 0 all done, 1 some failed, 2 no shares there, 3 some left or running and none failed."
    )]
    Status(StatusArgs),
    /// Enlarge frame after frame of raw pixels, as between two ffmpegs
    #[command(
        after_help = "Example:\n  ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | cupscale-fast raw 640x360 --pix rgb24 -s 2 |\n    ffmpeg -f rawvideo -pix_fmt rgb24 -s 1280x720 -r 24 -i - out.mp4"
    )]
    Raw(Box<RawArgs>),
    /// Stay loaded and enlarge pictures for an editor, asked over standard input
    #[command(
        after_help = "Example: an editor starts it, and sends requests (docs/pipe-protocol.md)\n  cupscale-fast pipe --model hyper-sdxl --max-memory 12GiB"
    )]
    Pipe(Box<JobArgs>),
    /// Stay loaded and enlarge pictures for other programs and for a browser, asked over HTTP
    #[cfg(feature = "serve")]
    #[command(
        after_help = "Example: the page is at http://127.0.0.1:7860/, the API is described in docs/serve.md\n  cupscale-fast serve --model hyper-sdxl\n  cupscale-fast serve --listen 0.0.0.0:7860 --allow-host studio.local    for the network, with a token"
    )]
    Serve(Box<ServeArgs>),
    /// List, add, download, check and remove models
    #[command(
        after_help = "Example:\n  cupscale-fast models pull hyper-sdxl\n  cupscale-fast photo.jpg --model hyper-sdxl"
    )]
    Models(ModelsArgs),
    /// Show the devices and what computes on them, and test their kernels
    #[command(after_help = "Example:\n  cupscale-fast doctor --device cuda:1")]
    Doctor(DoctorArgs),
    /// Put the program behind GIMP, darktable, Krita, file managers and others
    #[command(
        after_help = "Example:\n  cupscale-fast integrate --list\n  cupscale-fast integrate gimp"
    )]
    Integrate(IntegrateArgs),
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

/// Options of `raw`.
#[derive(Args, Debug)]
pub struct RawArgs {
    #[command(flatten)]
    pub stream: FrameArgs,
    #[command(flatten)]
    pub job: JobArgs,
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
    pub mask: MaskArgs,
    #[command(flatten)]
    pub reuse: ReuseArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub control: ControlArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub share: ShareArgs,

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
        weights::LoraScale,
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
            "--bit-depth 16",
            "--skip-existing",
            "--dry-run",
            "--work-dir w",
            "--resume",
            "--fresh",
            "--shard 1/2",
            "--skip-locked",
            "--mask m.png",
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
            format!("0 turns it off [default: {}]", Defaults::GSP),
            format!("by the whole picture; 0 is off [default: {}]", Defaults::RAP),
            format!("against the prompt; 0 is off [default: {}]", Defaults::RSP),
            format!("without the model [default: {}]", Defaults::BLEND),
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
            format!(
                "[default: the model's, or {} for ddim and {} for tcd]",
                Ddim::DEFAULT_ETA,
                Tcd::DEFAULT_ETA
            ),
        ] {
            assert!(help.contains(&default), "{default} not in: {help}");
        }
    }

    #[test]
    fn a_lora_has_a_scale_if_a_number_follows_its_last_colon() {
        let list = format!("0.5{}", ",1".repeat(16));
        for (text, path, scale, blocks) in [
            ("a:0.5:1,0,-.5", "a", 0.5, &[1.0, 0.0, -0.5][..]),
            ("a:2:lbw=1,0", "a", 2.0, &[1.0, 0.0]),
            ("a:1,0", "a", 1.0, &[1.0, 0.0]),
            ("C:\\loras\\a.safetensors:1:1,0", "C:\\loras\\a.safetensors", 1.0, &[1.0, 0.0]),
            ("a:1,x", "a:1,x", 1.0, &[]),
            ("a:1:one,two", "a:1:one,two", 1.0, &[]),
        ] {
            let scale = LoraScale { scale, blocks: blocks.to_vec() };
            let expected = LoraArg { path: path.into(), scale };
            assert_eq!(parse(&format!("x in.png --lora {text}")).model.lora, [expected], "{text}");
        }
        let args = parse(&format!("x in.png --lora a:{list}"));
        assert_eq!(args.model.lora[0].scale.blocks.len(), 17);
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
            let expected = LoraArg { path: path.into(), scale: scale.into() };
            assert_eq!(parse(&format!("x in.png --lora {text}")).model.lora, [expected], "{text}");
        }
        let args = parse("x in.png --lora a --lora b:2");
        let scales: Vec<_> = args.model.lora.iter().map(|lora| lora.scale.scale).collect();
        assert_eq!(scales, [1.0, 2.0]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "x a --scale 0",
            "x a --scale nan",
            "x a --strength 0",
            "x a --strength 1.1",
            "x a --overlap 1",
            "x a --sampler plms",
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
            "x a --lora :1:1,2",
            "x a --lora b:1:1,nan",
            "x a --lora b:inf:1,1",
            "x a --unknown",
            "x a --profile bold",
            "x a --invert-mask",
            "x a --mask-feather 3",
            "x a --mask m.png --mask-feather 1001",
        ] {
            assert!(Cli::from_command_line(line.split(' ')).is_err(), "{line}");
        }
    }
}
