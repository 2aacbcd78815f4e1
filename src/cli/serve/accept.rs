//! What of a job can be refused before it runs: its settings, its limits, and the headers of its pictures.

use std::path::Path;

use cupscale::{
    canvas::target_size,
    caption::file::FromFile,
    image::{self, Format, Input, InputKind, ReadOptions},
    pipe::request::OutputForm,
    pipeline::{self, Error},
};

use serde_json::{Map, Value};

use super::{
    error::{Kind, Refusal},
    host::{self, Host},
    limits::Limits,
    store::{Accepted, DraftFolder, GIVEN, INPUT, MASK},
    view::Kind as JobKind,
};
use crate::cli::{
    advice,
    error::CliError,
    job::Job,
    request::{self, MaskFile, Parts, Target, format_name},
    size_notes,
};

/// Name of a picture that has none.
const NAMELESS: &str = "picture";
/// Most characters of a name.
const LONGEST_NAME: usize = 200;

/// All of a new job but its files.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pub kind: JobKind,
    pub name: String,
    pub settings: Map<String, Value>,
    pub output: OutputForm,
    pub model: Option<String>,
    pub most_seconds: Option<f64>,
    pub is_kept: bool,
}

/// Files of a job in this folder, for the settings that are for them.
pub fn parts(file: impl Fn(&str) -> std::path::PathBuf, has_mask: bool, has_given: bool) -> Parts {
    Parts {
        mask: has_mask.then(|| MaskFile::Path(file(MASK))),
        captions: has_given.then(|| file(GIVEN)),
    }
}

/// Checks a job whose files are in the folder.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(
    host: &Host,
    limits: &Limits,
    folder: &DraftFolder,
    order: Order,
) -> Result<Accepted, Refusal> {
    let name = shown_name(&order.name);
    let refusal = |error: CliError| {
        let kind = host::kind_of(&error);
        let text = host.words.of_job(&advice::line(&error), folder.path(), &name);
        Refusal::new(kind, text)
    };
    let of_image = |error: image::ImageError| refusal(Error::from(error).into());
    let wrong = |message: String| Refusal::new(Kind::Settings, message);
    host::check(&order.settings, &order.output)?;
    let model = host.choose(order.model.as_deref())?;
    if !folder.file(INPUT).is_file() {
        return Err(Refusal::new(Kind::Request, "the part `picture` is missing"));
    }
    if order.most_seconds.is_some_and(|seconds| seconds.is_nan() || seconds <= 0.0) {
        return Err(wrong("`seconds` is a number above 0".to_owned()));
    }
    let (has_mask, has_given) = (folder.file(MASK).is_file(), folder.file(GIVEN).is_file());
    let of_parts = || parts(|name| folder.file(name), has_mask, has_given);
    if order.kind == JobKind::Captions {
        if has_mask || has_given {
            return Err(wrong(
                "a job of the kind `captions` takes no mask and no captions".to_owned(),
            ));
        }
        if order.output.format.is_some() || order.output.quality.is_some() {
            return Err(wrong("output: captions are JSON, and have no other form".to_owned()));
        }
    }
    if has_given {
        FromFile::read(&folder.file(GIVEN))
            .map_err(|error| wrong(host.words.of_job(&error.to_string(), folder.path(), &name)))?;
    }
    let mut args = request::parse(&order.settings, &of_parts(), "serve").map_err(refusal)?;
    args.job.files.name_streams();
    let job = Job::resolve(args.job, Vec::new()).map_err(refusal)?;
    let opened = image::open(&Input::Path(folder.file(INPUT)), &job.read).map_err(of_image)?;
    let shape = opened.shape();
    let source = (shape.width, shape.height);
    limits.check_pixels("the picture", source)?;
    let size = target_size(source.0, source.1, job.size())
        .map_err(|error| refusal(Error::from(error).into()))?;
    limits.check_pixels("the result", size)?;
    if has_mask {
        check_mask(limits, &folder.file(MASK)).map_err(|error| match error {
            MaskError::Refused(refusal) => refusal,
            MaskError::Image(error) => {
                let text = host.words.of_job(&error.to_string(), folder.path(), &name);
                wrong(text)
            }
        })?;
    }
    let own = Target::File(opened.format());
    request::quality(&order.output).map_err(refusal)?;
    let format = match request::target(&order.output, own, shape.alpha).map_err(refusal)? {
        Target::File(format) => format,
        Target::Pixels(_) => return Err(wrong("output: a result is a file".to_owned())),
    };
    let (format, result_name) = match order.kind {
        JobKind::Upscale => {
            format.check_size("the result", size.0, size.1).map_err(of_image)?;
            (format_name(format), job.result_name(&name, format))
        }
        JobKind::Captions => ("json", job.captions_name(&name)),
    };
    // What depends on the model is known now if it is loaded; else the job itself fails.
    if let Some(model) = host.loaded().filter(|loaded| loaded.name == model) {
        let names = args.names_captioner;
        let of = (&model.engine, &model.settings);
        let settings = model.job.settings_of(&job, names, of, "serve").map_err(refusal)?;
        let planned = pipeline::plan(&model.engine, shape, &settings).map_err(CliError::from);
        if let Err(error) = planned
            && host::kind_of(&error) == Kind::Settings
        {
            return Err(refusal(error));
        }
    }
    let input_type = input_type(opened.kind()).to_owned();
    Ok(Accepted {
        kind: order.kind,
        is_kept: order.is_kept,
        settings: order.settings,
        output: order.output,
        model,
        most_seconds: order.most_seconds,
        has_mask,
        has_given,
        source,
        size,
        input_type,
        format: format.to_owned(),
        result_name,
        notes: size_notes::notes(source, size, job.size()),
        name,
    })
}

enum MaskError {
    Refused(Refusal),
    Image(image::ImageError),
}

/// Checks the header of a mask; its pixels are read with the job.
fn check_mask(limits: &Limits, mask: &Path) -> Result<(), MaskError> {
    let input = Input::Path(mask.to_owned());
    let opened = image::open(&input, &ReadOptions::default()).map_err(MaskError::Image)?;
    let shape = opened.shape();
    limits.check_pixels("the mask", (shape.width, shape.height)).map_err(MaskError::Refused)
}

/// The last part of a name that came from another machine, without what nobody can see.
fn shown_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|sign| !sign.is_control()).take(LONGEST_NAME).collect();
    let shown = shown.trim().trim_start_matches('.');
    if shown.is_empty() { NAMELESS.to_owned() } else { shown.to_owned() }
}

/// Media type of a result.
pub fn media_type(format: &str) -> &'static str {
    match format.parse() {
        Ok(Format::Png) => "image/png",
        Ok(Format::Jpeg) => "image/jpeg",
        Ok(Format::WebP) => "image/webp",
        Ok(Format::Tiff) => "image/tiff",
        Ok(Format::Ppm) => "image/x-portable-pixmap",
        Ok(Format::Pam) => "image/x-portable-arbitrarymap",
        Ok(Format::Exr) => "image/x-exr",
        Ok(Format::Farbfeld) => "application/octet-stream",
        Err(_) => "application/json",
    }
}

/// Media type of a picture that was sent.
fn input_type(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Written(format) => media_type(format_name(format)),
        InputKind::Gif => "image/gif",
        InputKind::Bmp => "image/bmp",
        InputKind::Ico => "image/x-icon",
        InputKind::JpegXl => "image/jxl",
        InputKind::Jpeg2000 => "image/jp2",
        InputKind::Psd => "image/vnd.adobe.photoshop",
        #[cfg(feature = "heic")]
        InputKind::Heic => "image/heic",
        #[cfg(feature = "avif")]
        InputKind::Avif => "image/avif",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_elsewhere_are_names_and_no_paths() {
        for (name, shown) in [
            ("photo.jpg", "photo.jpg"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\me\\a b.png", "a b.png"),
            (".hidden", "hidden"),
            ("a\u{1b}\nb", "ab"),
            ("", "picture"),
            ("..", "picture"),
            ("a/", "picture"),
        ] {
            assert_eq!(shown_name(name), shown);
        }
        assert_eq!(shown_name(&"é".repeat(500)).chars().count(), LONGEST_NAME);
    }
}
