//! `models`: which models there are, and getting, checking and removing them.

mod watch;

use std::{fmt::Write as _, path::PathBuf};

use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use cupscale::{
    sampler::{SamplerKind, TimestepSpacing},
    units,
    weights::{
        hub::{Hub, HubOptions, TransferProgress as _},
        registry::{self, Listed, ModelError, OwnWeights, RunDefaults, State, Store},
    },
};

use super::{
    CliError,
    args::ProgressMode,
    engine, print,
    quantize::{self, QuantizeArgs},
    values::{self, Lora},
};
use watch::Watcher;

/// What was typed after `models`.
#[derive(Args, Debug)]
pub struct ModelsArgs {
    #[command(subcommand)]
    verb: ModelsVerb,
}

#[derive(Debug, Subcommand)]
enum ModelsVerb {
    /// Show the models that are installed, and those that can be
    List(ListArgs),
    /// Give your own weights a name; nothing is copied
    Add(Box<AddArgs>),
    /// Download a model, or what it lacks; an interrupted download goes on where it ended
    Pull(PullArgs),
    /// Read every byte of installed models again, and compare
    Verify(VerifyArgs),
    /// Write a whole model, quantized, into one GGUF file
    Quantize(QuantizeArgs),
    /// Remove a model; files that other models share stay, and so do your own
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
struct WatchArgs {
    /// How progress is shown, on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
    /// Errors only
    #[arg(short, long)]
    quiet: bool,
}

impl WatchArgs {
    fn watcher(&self) -> Watcher {
        Watcher::new(self.progress, self.quiet)
    }
}

#[derive(Args, Debug)]
struct ListArgs {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// What to call the model
    name: String,
    /// A folder in diffusers layout, a .safetensors or a .gguf file; or a LLaVA model
    path: PathBuf,
    /// A LoRA to merge: a file, or an installed LoRA's name; may be given several times
    #[arg(long, value_name = "FILE[:SCALE]",
          value_parser = OsStringValueParser::new().try_map(values::lora))]
    lora: Vec<Lora>,
    /// A UNet in place of the model's own: a file or a folder
    #[arg(long, value_name = "PATH")]
    unet: Option<PathBuf>,
    /// A VAE in place of the model's own: a file, a folder, or an installed VAE's name
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// The .gguf file with the vision tower of a LLaVA model [default: the one beside the decoder's]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// The sampler it is made for
    #[arg(long, value_name = "ddim|tcd|euler|lcm")]
    sampler: Option<SamplerKind>,
    /// How its timesteps are spread
    #[arg(long, value_name = "leading|trailing|linspace")]
    timestep_spacing: Option<TimestepSpacing>,
    /// The timesteps themselves, in place of a spread
    #[arg(long, value_name = "T,T,…", value_delimiter = ',', conflicts_with = "timestep_spacing",
          value_parser = clap::value_parser!(u32).range(0..1000))]
    timesteps: Option<Vec<u32>>,
    /// Steps of the whole schedule
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,
    /// The share of the steps that run
    #[arg(long, value_name = "0-1", value_parser = values::share)]
    strength: Option<f64>,
    /// The same as a number of steps
    #[arg(long, value_name = "K", conflicts_with = "strength",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    denoise_steps: Option<u32>,
    /// Classifier-free guidance; 1 is none
    #[arg(long, value_name = "G", value_parser = values::guidance)]
    guidance: Option<f64>,
    /// Noise that each step adds
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    eta: Option<f64>,
    /// Side of the pictures that it was trained on
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(64..=8192))]
    native_size: Option<u32>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Args, Debug)]
struct PullArgs {
    /// A model that `models list` shows
    name: String,
    /// A branch, tag or commit of the model's own repository, in place of the pinned one
    #[arg(long)]
    revision: Option<String>,
    /// The hub's address [default: $HF_ENDPOINT, else the public hub]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// A file with the hub's token [default: $HF_TOKEN, else the token of the hub's own tools]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// Which models [default: all that are installed]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    name: String,
    #[command(flatten)]
    watch: WatchArgs,
}

pub fn run(args: &ModelsArgs) -> Result<(), CliError> {
    let store = Store::open()?;
    match &args.verb {
        ModelsVerb::List(args) => list(&store, args),
        ModelsVerb::Add(args) => add(&store, args),
        ModelsVerb::Pull(args) => pull(&store, args),
        ModelsVerb::Verify(args) => verify(&store, args),
        ModelsVerb::Quantize(args) => quantize::run(args),
        ModelsVerb::Remove(args) => remove(&store, args),
    }
}

fn list(store: &Store, args: &ListArgs) -> Result<(), CliError> {
    let models = registry::list(store)?;
    if args.json {
        let all = serde_json::json!({ "folder": store.root(), "models": models });
        return print(&format!("{all:#}\n"));
    }
    let rows = models.iter().map(|model| {
        let licence = model.licence.as_ref().map_or("", |licence| licence.name.as_str());
        [
            model.name.clone(),
            size(model),
            state(model).to_owned(),
            model.title.clone(),
            licence.to_owned(),
        ]
    });
    let head = ["NAME", "SIZE", "STATE", "WHAT", "LICENCE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2, 3].map(|column| width(column).unwrap_or_default());
    let mut text = String::new();
    for [name, size, state, title, licence] in &rows {
        let [a, b, c, d] = widths;
        let line = format!("{name:a$}  {size:>b$}  {state:c$}  {title:d$}  {licence}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    print(&text)
}

fn size(model: &Listed) -> String {
    match (model.size, model.size_is_exact) {
        (0, _) => "?".to_owned(),
        (size, true) => units::bytes(size),
        (size, false) => format!("> {}", units::bytes(size)),
    }
}

fn state(model: &Listed) -> &'static str {
    match (model.state, model.own) {
        (State::Installed, false) => "installed",
        (State::Installed, true) => "your own",
        (State::Incomplete, false) => "incomplete",
        (State::Incomplete, true) => "your own, incomplete",
        (State::Known, _) => "not downloaded",
    }
}

fn add(store: &Store, args: &AddArgs) -> Result<(), CliError> {
    if let (Some(run), Some(all)) = (args.denoise_steps, args.steps)
        && run > all
    {
        return Err(CliError::Usage(format!(
            "--denoise-steps {run}: the schedule has {all} steps"
        )));
    }
    let own = OwnWeights {
        weights: args.path.clone(),
        loras: args.lora.iter().map(|lora| (lora.path.clone(), lora.scale)).collect(),
        denoiser: args.unet.clone(),
        vae: args.vae.clone(),
        mmproj: args.mmproj.clone(),
        run: RunDefaults {
            sampler: args.sampler.map(|sampler| sampler.name().to_owned()),
            timestep_spacing: args.timestep_spacing.map(|spacing| spacing.name().to_owned()),
            timesteps: args.timesteps.clone(),
            steps: args.steps,
            strength: args.strength,
            denoise_steps: args.denoise_steps,
            guidance: args.guidance,
            eta: args.eta,
            native_size: args.native_size,
            ..RunDefaults::default()
        },
    };
    let mut watcher = args.watch.watcher();
    let entry = registry::add(store, &args.name, own, &mut watcher)?;
    if let Err(error) = engine::check(entry.name.as_ref()) {
        watcher.note(&format!("{} cannot be run as it is: {error}", entry.name));
    }
    let files: usize = entry.sources.iter().map(|source| source.files.len()).sum();
    watcher.finish(&format!(
        "{}: {} of your own, {}",
        entry.name,
        count(files),
        units::bytes(entry.size().0)
    ));
    Ok(())
}

fn pull(store: &Store, args: &PullArgs) -> Result<(), CliError> {
    let options =
        HubOptions { endpoint: args.endpoint.clone(), token_file: args.token_file.clone() };
    let hub = Hub::new(options).map_err(ModelError::from)?;
    let mut watcher = args.watch.watcher();
    let report = registry::pull(store, &hub, &args.name, args.revision.as_deref(), &mut watcher)?;
    watcher.finish(&format!(
        "{}: {}, {}, {} of it downloaded; in {}",
        report.name,
        count(report.files),
        units::bytes(report.bytes),
        units::bytes(report.received),
        report.path.display()
    ));
    Ok(())
}

fn verify(store: &Store, args: &VerifyArgs) -> Result<(), CliError> {
    let mut watcher = args.watch.watcher();
    let reports = registry::verify(store, &args.names, &mut watcher)?;
    watcher.clear();
    let mut text = String::new();
    for report in &reports {
        let verdict = if report.bad.is_empty() { "good" } else { "BAD" };
        let (files, bytes) = (count(report.files), units::bytes(report.bytes));
        let _ = writeln!(text, "{}: {files}, {bytes}: {verdict}", report.name);
        for bad in &report.bad {
            let _ = writeln!(text, "  {}: {}", bad.path.display(), bad.fault);
        }
    }
    print(&text)?;
    let damaged: Vec<_> = reports.iter().filter(|report| !report.bad.is_empty()).collect();
    let Some(first) = damaged.first() else { return Ok(()) };
    let files = count(damaged.iter().map(|report| report.bad.len()).sum());
    let mend = if first.own {
        format!("cupscale-fast models remove {0}, then add {0} again", first.name)
    } else {
        format!("cupscale-fast models pull {}", first.name)
    };
    Err(CliError::Damaged(format!("{files} of {} models bad: {mend}", damaged.len())))
}

fn remove(store: &Store, args: &RemoveArgs) -> Result<(), CliError> {
    let mut watcher = args.watch.watcher();
    let report = registry::remove(store, &args.name, &mut watcher)?;
    let shared = match report.shared {
        0 => String::new(),
        shared => format!(", {} shared with other models stay", units::bytes(shared)),
    };
    let own = if report.own { ", your own files stay" } else { "" };
    watcher.finish(&format!("{}: {} freed{shared}{own}", report.name, units::bytes(report.freed)));
    Ok(())
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}
