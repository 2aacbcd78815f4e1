//! `models`: listing, adding, downloading, checking and removing models.

use std::fmt::Write as _;

use cupscale::{
    units,
    weights::{
        hub::{Hub, HubOptions},
        registry::{self, Listed, ModelError, OwnWeights, RunDefaults, State, Store},
    },
};

use super::{
    advice,
    args::{AddArgs, ListArgs, ModelsArgs, ModelsVerb, PullArgs, RemoveArgs, VerifyArgs},
    engine,
    error::CliError,
    print::{print, print_json},
    progress::Reporter,
    quantize,
};

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
        return print_json(&format!("{all:#}\n"));
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
        loras: args.lora.iter().map(|lora| (lora.path.clone(), lora.scale.clone())).collect(),
        denoiser: args.unet.clone(),
        text_encoder: args.text_encoder.clone(),
        vae: args.vae.clone(),
        mmproj: args.mmproj.clone(),
        run: RunDefaults {
            profile: args.profile.map(|profile| profile.name().to_owned()),
            sampler: args.sampler.map(|sampler| sampler.name().to_owned()),
            timestep_spacing: args.timestep_spacing.map(|spacing| spacing.name().to_owned()),
            sigmas: args.sigmas.map(|sigmas| sigmas.name().to_owned()),
            timesteps: args.timesteps.clone(),
            steps: args.steps,
            strength: args.strength,
            denoise_steps: args.denoise_steps,
            guidance: args.guidance,
            eta: args.eta,
            native_size: args.native_size,
            overlap: args.overlap,
            first_share: args.first_share,
            sharpen: args.sharpen,
            grain: args.grain,
            fidelity: args.fidelity,
            coherence: args.coherence,
            texture: args.texture,
            ..RunDefaults::default()
        },
    };
    let mut reporter = Reporter::new(&args.watch.show()?);
    let entry = registry::add(store, &args.name, own, &mut reporter)?;
    if let Err(error) = engine::check(entry.name.as_ref()) {
        reporter.tell(&format!("{} cannot be run as it is: {}", entry.name, advice::line(&error)));
    }
    let files: usize = entry.sources.iter().map(|source| source.files.len()).sum();
    reporter.finish(&format!(
        "{}: {} of your own, {}",
        entry.name,
        count(files),
        units::bytes(entry.size().0)
    ));
    Ok(())
}

fn pull(store: &Store, args: &PullArgs) -> Result<(), CliError> {
    let options = HubOptions {
        endpoint: args.endpoint.clone(),
        token_file: args.token_file.clone(),
        insecure: args.insecure,
    };
    let hub = Hub::new(options).map_err(ModelError::from)?;
    let mut reporter = Reporter::new(&args.watch.show()?);
    let report = registry::pull(store, &hub, &args.name, args.revision.as_deref(), &mut reporter)?;
    reporter.finish(&format!(
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
    let mut reporter = Reporter::new(&args.watch.show()?);
    let reports = registry::verify(store, &args.names, &mut reporter)?;
    reporter.clear();
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
    let mut reporter = Reporter::new(&args.watch.show()?);
    let report = registry::remove(store, &args.name, &mut reporter)?;
    let shared = match report.shared {
        0 => String::new(),
        shared => format!(", {} shared with other models stay", units::bytes(shared)),
    };
    let own = if report.own { ", your own files stay" } else { "" };
    reporter.finish(&format!("{}: {} freed{shared}{own}", report.name, units::bytes(report.freed)));
    Ok(())
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}
