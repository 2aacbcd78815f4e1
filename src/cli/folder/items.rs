//! Pictures of a job on many, each with its output: those named, and those below the folders that are named. What
//! cannot be done together is refused here, before any work.

use std::{
    cell::LazyCell,
    collections::{HashMap, HashSet},
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use cupscale::{
    image::{self, Format, Input, Opened, Output},
    pipeline::Error,
    units,
};

use super::walk::{format_of_file, walk};
use crate::cli::{
    error::CliError,
    job::Job,
    picture,
    shares::{PictureName, Share},
};

/// A picture and its output.
pub struct Item {
    pub input: PathBuf,
    /// What decides its share.
    name: PictureName,
    /// Number of the picture in a file of which every one is asked for.
    pub picture: Option<NonZeroUsize>,
    pub output: PathBuf,
    pub format: Format,
}

impl Item {
    /// The name of the picture in messages.
    pub fn name(&self) -> String {
        match self.picture {
            Some(picture) => format!("{} ({picture})", self.input.display()),
            None => self.input.display().to_string(),
        }
    }

    /// `true` if it is in this share.
    fn is_in(&self, share: Share) -> bool {
        share.holds(&self.name)
    }

    /// Opens the picture and reads its header.
    ///
    /// # Errors
    /// Those of [`image::open`].
    pub fn open(&self, job: &Job) -> Result<Opened, CliError> {
        let mut options = job.read.clone();
        options.picture = self.picture.or(options.picture);
        Ok(image::open(&Input::Path(self.input.clone()), &options).map_err(Error::from)?)
    }

    /// An item for each picture of the file, if each is asked for and there are several.
    fn each(self, job: &Job) -> Vec<Self> {
        if !(job.every.page || job.every.frame) {
            return vec![self];
        }
        // Errors of a picture are reported when its turn comes.
        let several = self.open(job).ok().and_then(|opened| picture::several(job, &opened));
        let Some(several) = several else { return vec![self] };
        let (stem, extension) = (self.output.file_stem(), self.output.extension());
        let of_picture = |number: usize| {
            let mut name = stem.unwrap_or_default().to_owned();
            name.push(format!("_{number:04}."));
            name.push(extension.unwrap_or(self.format.extension().as_ref()));
            let (input, output) = (self.input.clone(), self.output.with_file_name(name));
            let (name, picture) = (self.name.numbered(number), NonZeroUsize::new(number));
            Self { input, name, picture, output, format: self.format }
        };
        (1..=several.get()).map(of_picture).collect()
    }
}

/// The pictures of a job.
#[derive(Default)]
pub struct Items {
    pub pictures: Vec<Item>,
    /// Notes for the user, one line each.
    pub notes: Vec<String>,
    /// Folders that could not be read, each with the reason in one line.
    pub unreadable: Vec<String>,
    /// Kinds of pictures and documents that are recognised but not read, with how many there are of each.
    unsupported: Vec<(String, usize)>,
    /// Pictures of the whole list, of which these may be a share.
    pub whole: usize,
    /// The one folder below which all outputs lie; none where each lies beside its own input.
    pub folder: Option<PathBuf>,
}

impl Item {
    /// A file that is edited in place.
    pub fn edited(file: &Path) -> Self {
        let format = format_of_file(file).unwrap_or(Format::Png);
        let (input, output, name) = (file.to_owned(), file.to_owned(), PictureName::alone(file));
        Self { input, name, picture: None, output, format }
    }
}

impl Items {
    /// Files that are edited in place, each once.
    pub fn edited(files: &[&Path]) -> Self {
        let mut seen = HashSet::new();
        let once = files.iter().filter(|file| {
            seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf()))
        });
        let pictures: Vec<_> = once.map(|file| Item::edited(file)).collect();
        Self { whole: pictures.len(), pictures, ..Self::default() }
    }

    /// Finds the pictures of a job's inputs: all of one folder, or those of several inputs, which may be pictures
    /// and folders. Of a share they are named as those of the whole list, and the others are then left out.
    ///
    /// # Errors
    /// No picture at all; outputs that would overwrite each other or an input.
    pub fn find(job: &Job) -> Result<Self, CliError> {
        job.refuse_for_many()?;
        let several = job.inputs.len() > 1;
        let common = if several { job.common_folder()? } else { None };
        let mut items = Self::default();
        let mut named = Vec::new();
        let mut seen = HashSet::new();
        for input in &job.inputs {
            let Input::Path(path) = input else {
                let why = match job.share {
                    Some(_) => {
                        "a share is one of pictures that have names: name a folder, or files"
                    }
                    None => "pages and frames go to files of their own: name the input's file",
                };
                return Err(CliError::Usage(format!("{}: {why}", input.name())));
            };
            // Patterns of a shell may overlap.
            if !seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())) {
                continue;
            }
            if path.is_dir() {
                items.add_folder(job, path, common.as_deref())?;
            } else {
                let format = format_of_file(path).unwrap_or(Format::Png);
                let (output, format) = if several {
                    job.output_of(path, format, common.as_deref())
                } else {
                    of_pages(job, input, format)?
                };
                if !several {
                    items.folder = output.parent().map(Path::to_owned);
                }
                let (input, name) = (path.clone(), PictureName::alone(path));
                named.push(Item { input, name, picture: None, output, format });
            }
        }
        if several {
            items.folder.clone_from(&common);
        }
        items.add_named(named);
        rename_clashes(&mut items.pictures);
        items.pictures = items.pictures.into_iter().flat_map(|item| item.each(job)).collect();
        if items.pictures.is_empty() && items.unreadable.is_empty() {
            let name = job.inputs.first().map(Input::name).unwrap_or_default();
            return Err(CliError::NoPictures(name.into()));
        }
        refuse_clashes(&items.pictures, job.share)?;
        items.whole = items.pictures.len();
        if let Some(share) = job.share {
            items.pictures.retain(|item| item.is_in(share));
        }
        if !items.unsupported.is_empty() {
            let count = items.unsupported.iter().map(|(_, count)| count).sum();
            let kinds: Vec<_> = items.unsupported.iter().map(|(kind, _)| kind.as_str()).collect();
            let files = units::count(count, "file");
            items.notes.push(format!("{files} of kinds that are not read: {}", kinds.join(", ")));
        }
        Ok(items)
    }

    fn add_folder(
        &mut self,
        job: &Job,
        folder: &Path,
        common: Option<&Path>,
    ) -> Result<(), CliError> {
        let output = job.output_folder(folder, common)?;
        // A file of which every picture is asked for is opened anyway.
        let share = job.share.filter(|_| !(job.every.page || job.every.frame));
        let is_wanted =
            |path: &Path| share.is_none_or(|share| share.holds(&PictureName::below(path)));
        let found = walk(folder, common.unwrap_or(&output), &is_wanted);
        self.pictures.extend(found.pictures.into_iter().map(|picture| {
            let (made, format) = job.output_name(&picture.path, picture.format);
            let (input, name) = (folder.join(&picture.path), PictureName::below(&picture.path));
            Item { input, name, picture: None, output: output.join(made), format }
        }));
        self.folder.get_or_insert(output);
        for (kind, count) in found.unsupported {
            match self.unsupported.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, known)) => *known += count,
                None => self.unsupported.push((kind, count)),
            }
        }
        self.unreadable.extend(found.unreadable);
        self.notes.extend(found.upward.into_iter().map(|link| {
            format!(
                "{}: leads to a folder around this one and is not followed",
                folder.join(link).display()
            )
        }));
        Ok(())
    }

    /// Adds pictures that are named one by one, but not those that are outputs of others: after a first run `*.png`
    /// names them too.
    fn add_named(&mut self, named: Vec<Item>) {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let made: HashMap<PathBuf, PathBuf> = (named.iter())
            .filter_map(|item| Some((real(&item.output)?, item.input.clone())))
            .collect();
        for item in named {
            match real(&item.input).and_then(|input| made.get(&input)) {
                Some(maker) if *maker != item.input => self.notes.push(format!(
                    "{}: is the output of {} and left out",
                    item.input.display(),
                    maker.display()
                )),
                _ => self.pictures.push(item),
            }
        }
    }
}

/// The output that the names of the pages or frames of the one input are made from.
fn of_pages(job: &Job, input: &Input, format: Format) -> Result<(PathBuf, Format), CliError> {
    match job.output(input, format)? {
        (Output::Path(path), format) => Ok((path, format)),
        (output, _) => Err(CliError::Usage(format!(
            "{}: pages and frames go to files of their own: name one with -o",
            output.name()
        ))),
    }
}

/// Pictures of kinds that are only read become PNGs, and one of that name may lie beside: then the output's name keeps the
/// kind, as in `a.psd.png`.
fn rename_clashes(items: &mut [Item]) {
    let mut makers: HashMap<PathBuf, usize> = HashMap::new();
    items.iter().for_each(|item| *makers.entry(item.output.clone()).or_default() += 1);
    for item in items {
        let is_only_read = Format::from_extension(&item.input).is_none();
        if makers.get(&item.output).is_some_and(|&count| count > 1)
            && let (true, Some(own), Some(new)) =
                (is_only_read, item.input.extension(), item.output.extension())
        {
            let mut extension = own.to_owned();
            extension.push(".");
            extension.push(new);
            item.output = item.output.with_extension(extension);
        }
    }
}

/// Refuses, before any work, outputs that would overwrite each other or an input; of a share the latter.
fn refuse_clashes(items: &[Item], share: Option<Share>) -> Result<(), CliError> {
    let inputs = LazyCell::new(|| -> HashSet<PathBuf> {
        items.iter().filter_map(|item| fs::canonicalize(&item.input).ok()).collect()
    });
    let mut makers: HashMap<&Path, &Path> = HashMap::new();
    for item in items {
        let Item { input, output, .. } = item;
        let (input, shown) = (input.as_path(), output.display());
        if let Some(other) = makers.insert(output, input) {
            let differ = other.extension() != input.extension();
            return Err(CliError::Usage(format!(
                "{} and {} would both become {shown}: rename one, or leave out {}",
                other.display(),
                input.display(),
                if differ { "--format" } else { "-o" }
            )));
        }
        // The disk is asked about a share alone: it may be one of thousands.
        if share.is_none_or(|share| item.is_in(share))
            && fs::canonicalize(output).is_ok_and(|output| inputs.contains(&output))
        {
            return Err(CliError::Usage(format!(
                "{shown}: the output of {} would take the place of an input; name another folder \
                 with -o",
                input.display()
            )));
        }
    }
    Ok(())
}
