//! A job from a file to a file: it streams, keeps metadata, and goes on where it was interrupted.

use std::path::{Path, PathBuf};

use cupscale::{
    canvas::target_size,
    image::{self, Format, Input, Output, ReadOptions},
    pipeline::{self, Report, Resume, WorkOptions},
};
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::{
    errors::Failure,
    job::Job,
    keywords::{Fault, Keywords, integer, named, path},
    loaded::Loaded,
    progress::Watch,
    reading::read_options,
    values,
};

/// Keywords of files.
#[derive(Debug)]
pub struct Files {
    read: ReadOptions,
    format: Option<Format>,
    quality: Option<u8>,
    bit_depth: Option<u8>,
    work: WorkOptions,
}

impl Files {
    /// Reads the keywords.
    ///
    /// # Errors
    /// A value of another type, out of its range, or beside one that excludes it.
    pub fn read(keywords: &Keywords<'_>) -> PyResult<Self> {
        keywords.refuse_both("resume", "fresh")?;
        let resume = match (keywords.flag("resume")?, keywords.flag("fresh")?) {
            (true, _) => Resume::Required,
            (_, true) => Resume::Never,
            _ => Resume::Auto,
        };
        let bits = keywords.get("bit_depth", |value| {
            let bits = integer(value, 1..=64)?;
            values::bit_depth(&bits.to_string()).map_err(Fault::Value)
        })?;
        let quality = keywords.get("quality", |value| integer(value, 1..=100))?;
        Ok(Self {
            read: read_options(keywords)?,
            format: keywords.get("format", named)?,
            quality: quality.map(|quality| quality as u8),
            bit_depth: bits,
            work: WorkOptions { folder: keywords.get("work_dir", path)?, resume },
        })
    }

    /// Format of the output at `path`, of an input of the format `source`.
    fn format(&self, path: &Path, source: Format) -> Result<Format, Failure> {
        let named = Format::from_extension(path);
        if let (None, None, Some(extension)) = (named, self.format, path.extension()) {
            return Err(Failure::settings(format!(
                "{}: no picture format is called `.{}` (png, jpg, webp, tif, ppm, pam, ff, exr); name one with format=",
                path.display(),
                extension.display()
            )));
        }
        let format = self.format.or(named).unwrap_or(source);
        match self.quality {
            Some(quality) if format != Format::Jpeg => Err(Failure::settings(format!(
                "quality={quality}: {} is written as {format}, which loses nothing; it is for JPEG",
                path.display()
            ))),
            _ => Ok(format),
        }
    }

    /// Enlarges the picture at `input` into the file at `output`; returns the report.
    ///
    /// # Errors
    /// Those of the library.
    pub fn upscale(
        &self,
        loaded: &Loaded,
        job: &mut Job,
        (input, output): (&Input, PathBuf),
        watch: &mut Watch,
    ) -> Result<Value, Failure> {
        let mut opened = image::open(input, &self.read)?;
        let format = self.format(&output, opened.format())?;
        job.settings_mut().bit_depth = self.bit_depth;
        if let Some(quality) = self.quality {
            job.settings_mut().jpeg_quality = quality;
        }
        let settings = job.settings(loaded)?;
        let target = Output::Path(output.clone());
        let shape = opened.shape();
        let (width, height) =
            target_size(shape.width, shape.height, settings.size).map_err(pipeline::Error::from)?;
        format.check_size(&target.name(), width, height)?;
        target.check_writable()?;
        pipeline::plan(&loaded.engine, shape, &settings)?;
        // Planes of a large picture go where the job's work is.
        let beside = output.parent().map(|folder| match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        });
        if let Some(folder) = self.work.folder.as_deref().or(beside).filter(|it| it.is_dir()) {
            opened.keep_planes_in(folder);
        }
        let picture = opened.decode()?;
        let report = pipeline::upscale(
            &loaded.engine,
            &picture,
            &target,
            format,
            &settings,
            &self.work,
            watch,
        )?;
        Ok(to_json(&output, &report))
    }
}

fn to_json(output: &Path, report: &Report) -> Value {
    json!({
        "path": output,
        "width": report.width,
        "height": report.height,
        "regions": report.regions,
        "steps": report.steps,
        "captions": report.captions,
        "settings": report.settings,
    })
}
