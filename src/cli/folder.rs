//! Jobs on many pictures, of a folder, named one by one, or pages and frames of a file: the same settings for every picture, with one loaded model.
//! A failed picture is reported and does not stop the others.

mod all;
mod items;
mod walk;

use std::fs;

use cupscale::{
    image::{ImageError, Input, Output},
    pipeline::{self, Engine, Error, Settings},
};

use super::{
    error::{CliError, DONE},
    job::Job,
    picture,
    print::{print, print_json},
    progress::{FileState, Reporter, listen},
    shares::{List, Record},
};
pub use all::{Outcome, all};
pub use items::{Item, Items};

/// A model, and the settings of the jobs that it is to do.
pub type Loaded = (Engine, Settings);

/// Enlarges every picture of the job's inputs, or those of its share.
pub fn run(job: &Job) -> Result<u8, CliError> {
    if job.share.is_some() {
        // A folder of very many takes a while, and an engine may stop the process meanwhile.
        listen();
    }
    let mut items = Items::find(job)?;
    let record = record(job, &mut items)?;
    if let (Some(share), true) =
        (job.share, items.pictures.is_empty() && items.unreadable.is_empty())
    {
        let mut reporter = Reporter::new(&job.show);
        job.notes.iter().chain(&items.notes).for_each(|note| reporter.tell(note));
        reporter.finish_job(&format!("{share}: none of {} is in it", pictures(items.whole)));
        if let Some(mut record) = record {
            record.end(DONE, &mut reporter);
        }
        return Ok(DONE);
    }
    let go_on = |_: &[&Item]| match job.share {
        Some(_) => "the same command goes on".to_owned(),
        None => "the same command with --skip-existing goes on".to_owned(),
    };
    all(job, items, record, go_on, |item, loaded, reporter| one(job, item, loaded, reporter))
}

/// Begins the record of the job's share, if it does one; `items` gets notes on other records in its folder.
fn record(job: &Job, items: &mut Items) -> Result<Option<Record>, CliError> {
    let Some(share) = job.share else { return Ok(None) };
    let Some(folder) = &items.folder else {
        return Err(CliError::Usage(
            "--shard: name a folder for the outputs, -o DIR/: the record of the shares lies in it"
                .to_owned(),
        ));
    };
    let list = List {
        pictures: items.pictures.len(),
        whole: items.whole,
        made_by: &job.made_by,
        work_dir: job.work.folder.as_deref(),
    };
    let (record, notes) = Record::begin(folder, share, &list)?;
    items.notes.extend(notes);
    Ok(Some(record))
}

/// Prints the pictures of the job's share, without doing any.
pub fn list(job: &Job, as_json: bool) -> Result<(), CliError> {
    let items = Items::find(job)?;
    let names: Vec<_> = items.pictures.iter().map(Item::name).collect();
    match as_json {
        true => print_json(&format!("{:#}\n", serde_json::json!(names))),
        false => print(&names.iter().map(|name| format!("{name}\n")).collect::<String>()),
    }
}

/// A number of pictures, in words.
fn pictures(count: usize) -> String {
    cupscale::units::count(count, "picture")
}

/// Captions these pictures; the first is number `first` (from 0) of `count`.
fn describe_ahead(
    job: &Job,
    (first, count): (usize, usize),
    items: &[Item],
    loaded: &mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<(), CliError> {
    for (index, item) in items.iter().enumerate() {
        if reporter.is_interrupted() {
            return Err(Error::Interrupted(None).into());
        }
        let output = Output::Path(item.output.clone());
        if job.skip_existing && item.output.is_file() {
            continue;
        }
        // Errors of a picture are reported when its turn comes.
        let Ok(opened) = item.open(job) else { continue };
        if picture::check_output(job, &opened, &output, item.format).is_err() {
            continue;
        }
        let (engine, settings) = load(job, loaded, reporter)?;
        let Ok(settings) = job.masked(settings, &Input::Path(item.input.clone())) else { continue };
        let decoded = picture::decode((engine, &settings), job, opened, &output);
        let Ok(picture) = decoded else { continue };
        let place = (first + index + 1, count);
        reporter.begin_file(FileState::Captions, place, &item.name(), &output.name());
        match pipeline::describe_ahead(engine, &picture, &settings, reporter) {
            Ok(true) => {}
            // The captioner stays loaded beside the model: captioning ahead gains nothing.
            Ok(false) => break,
            Err(error @ Error::Interrupted(_)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    if let Some((_, settings)) = loaded {
        settings.captioner.free();
    }
    Ok(())
}

/// The model, loaded on first use.
pub fn load<'a>(
    job: &Job,
    loaded: &'a mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<&'a Loaded, CliError> {
    match loaded {
        Some(loaded) => Ok(loaded),
        none => Ok(none.insert(job.load(|note| reporter.tell(note))?)),
    }
}

/// Enlarges one picture, unless its output exists. The model is loaded for the first
/// picture that needs it.
fn one(
    job: &Job,
    item: &Item,
    loaded: &mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<Outcome, CliError> {
    if job.is_done(&Output::Path(item.output.clone())) {
        return Ok(Outcome::Exists);
    }
    // Known before a picture is read.
    if let Some(folder) = job.work.folder_of(&Output::Path(item.output.clone()))
        && !pipeline::is_free(&folder)
    {
        return Err(Error::Busy { folder, by: "another process".to_owned() }.into());
    }
    let (input, output) = (Input::Path(item.input.clone()), Output::Path(item.output.clone()));
    let opened = item.open(job)?;
    picture::check_output(job, &opened, &output, item.format)?;
    let (engine, settings) = load(job, loaded, reporter)?;
    let settings = &job.masked(settings, &input)?;
    if let Some(parent) = item.output.parent() {
        fs::create_dir_all(parent).map_err(|error| {
            let reason = format!("the folder {}: {error}", parent.display());
            Error::from(ImageError::Unwritable { name: output.name(), reason })
        })?;
    }
    output.check_writable().map_err(Error::from)?;
    let picture = picture::decode((engine, settings), job, opened, &output)?;
    let files =
        picture::Places { input: &input, output: &output, named: &output, format: item.format };
    picture::enlarge((engine, settings), job, &picture, files, reporter).map(Outcome::Done)
}
