//! Requests of other programs while a model is loaded: settings as JSON become a job and its settings. `pipe` and `serve`
//! share this, so that a setting means the same to both, and what it means on the command line.

use std::{ffi::OsString, path::PathBuf};

use cupscale::{
    image::{Format, Input, PixelFormat},
    pipe::{
        answer::Kind,
        request::{OutputForm, words},
    },
    pipeline::{Engine, Error, Settings},
};
use serde_json::{Map, Value};

use super::{args::RequestArgs, error::CliError, job::Job};

/// What stays loaded for all requests.
pub struct Loaded<'a> {
    /// The options that the program was started with.
    pub job: &'a Job,
    pub engine: &'a Engine,
    /// Settings of the machine, and the captioner.
    pub settings: &'a Settings,
    /// The verb, for messages.
    pub verb: &'static str,
}

/// Files that come with a request.
#[derive(Default)]
pub struct Parts {
    pub mask: Option<MaskFile>,
    pub captions: Option<PathBuf>,
}

/// Where the mask of a request is.
#[cfg_attr(not(feature = "serve"), allow(dead_code, reason = "`pipe` has it in memory"))]
pub enum MaskFile {
    Bytes(Vec<u8>),
    Path(PathBuf),
}

/// Form of a result.
#[derive(Clone, Copy)]
pub enum Target {
    File(Format),
    Pixels(PixelFormat),
}

/// The options of a request, unresolved.
///
/// # Errors
/// One line that names the setting.
pub fn parse(
    settings: &Map<String, Value>,
    parts: &Parts,
    verb: &str,
) -> Result<RequestArgs, CliError> {
    let words = words(settings).map_err(CliError::Usage)?;
    let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    let mut add = |name: &str, value: OsString| {
        if settings.contains_key(name) {
            let reason =
                format!("`{name}` stands in `settings` and comes with the picture: send one");
            return Err(CliError::Usage(reason));
        }
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        words.push(word);
        Ok(())
    };
    match &parts.mask {
        // What the other settings of a mask are for.
        Some(MaskFile::Bytes(_)) => add("mask", "-".into())?,
        Some(MaskFile::Path(path)) => add("mask", path.clone().into())?,
        None => {}
    }
    if let Some(captions) = &parts.captions {
        add("captions", captions.clone().into())?;
    }
    RequestArgs::parse(&words, verb).map_err(CliError::Usage)
}

/// The job and the settings of a request.
///
/// # Errors
/// A setting that is unknown, out of its range or does not go with what is loaded; a file that cannot be read.
pub fn resolve(
    loaded: &Loaded<'_>,
    settings: &Map<String, Value>,
    parts: Parts,
) -> Result<(Job, Settings), CliError> {
    let mut args = parse(settings, &parts, loaded.verb)?;
    args.job.files.name_streams();
    let job = Job::resolve(args.job, Vec::new())?;
    let of = (loaded.engine, loaded.settings);
    let settings = loaded.job.settings_of(&job, args.names_captioner, of, loaded.verb)?;
    let settings = match parts.mask {
        Some(MaskFile::Bytes(bytes)) => job.masked_by(&settings, bytes)?,
        _ => job.masked(&settings, &Input::Bytes(Vec::new().into()))?,
    };
    Ok((job, settings))
}

/// The form that a request asks for, else `own`.
///
/// # Errors
/// A form that is unknown, that cannot hold the picture, or with a quality that it does not have.
pub fn target(output: &OutputForm, own: Target, alpha: bool) -> Result<Target, CliError> {
    let target = match (&output.format, &output.pix) {
        (Some(_), Some(_)) => {
            return Err(CliError::Usage("output: either `format` or `pix`".to_owned()));
        }
        (Some(format), None) => Target::File(
            format.parse().map_err(|error| CliError::Usage(format!("output: {error}")))?,
        ),
        (None, Some(pix)) => Target::Pixels(pixel_format(pix)?),
        (None, None) => own,
    };
    match target {
        Target::Pixels(pix) if alpha && !pix.has_alpha() => Err(CliError::Usage(format!(
            "output: {pix} has no transparency, and the picture has it: take rgba or rgbaf32le"
        ))),
        Target::File(format) if output.quality.is_some() && format != Format::Jpeg => {
            Err(CliError::Usage(format!("output: `quality` is for JPEG, and this is {format}")))
        }
        Target::Pixels(_) if output.quality.is_some() => {
            Err(CliError::Usage("output: `quality` is for JPEG, and these are pixels".to_owned()))
        }
        target => Ok(target),
    }
}

/// The JPEG quality that a request asks for.
///
/// # Errors
/// One out of its range.
pub fn quality(output: &OutputForm) -> Result<Option<u8>, CliError> {
    match output.quality {
        Some(quality) if !(1..=100).contains(&quality) => {
            Err(CliError::Usage(format!("output: `quality` {quality} is not in 1..100")))
        }
        quality => Ok(quality),
    }
}

/// The format of raw pixels of this name.
///
/// # Errors
/// A name that none has.
pub fn pixel_format(name: &str) -> Result<PixelFormat, CliError> {
    name.parse().map_err(|error| CliError::Usage(format!("pix: {error}")))
}

/// Name of a format of files, as requests and results have it.
pub fn format_name(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg => "jpeg",
        Format::WebP => "webp",
        Format::Tiff => "tiff",
        Format::Ppm => "ppm",
        Format::Pam => "pam",
        Format::Farbfeld => "farbfeld",
        Format::Exr => "exr",
    }
}

/// The kind of an error of a request, by what helps.
pub fn kind_of(error: &CliError) -> Kind {
    match error {
        CliError::Usage(_) | CliError::Mask(_) | CliError::NoMask { .. } => Kind::Settings,
        CliError::Job(job) => match job {
            Error::Image(_) => Kind::Input,
            Error::Memory { .. } | Error::PictureMemory { .. } | Error::OutOfMemory => Kind::Memory,
            Error::Sampler(error) if error.is_wrong_choice() => Kind::Settings,
            Error::OutputTooLarge { .. } | Error::Setting { .. } | Error::Canvas(_) => {
                Kind::Settings
            }
            _ => Kind::Failed,
        },
        _ => Kind::Failed,
    }
}
