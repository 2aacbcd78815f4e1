//! Writing of decoded rows. A file is written when all of them are there, from the row file of the work folder, so that
//! decoded rows survive a kill, although no file format's encoder can be taken up in its middle. A stream has no middle
//! to come back to: its rows leave as soon as they are decoded, and so do those for a caller who takes pixels.

use std::{io, ops::Range};

use tracing::info_span;

use crate::{
    image::{Encoder, Output, PictureWriter},
    pipeline::{
        error::Error,
        progress::Progress,
        work::{
            folder::WorkFolder,
            journal::{Journal, Record},
            rows::RowFile,
        },
    },
};

/// Bytes of samples per write to the encoder, in whole rows.
const WRITE_BAND: usize = 8 << 20;

/// Receiver of an output's pixels, for a caller who wants no picture file.
pub trait Rows {
    /// The next rows of the output, top to bottom: `rgb` is `[rows, width, 3]`, and `alpha`, if the picture has it,
    /// `[rows, width]`. Values are those of [`Picture::rgb`](crate::image::Picture::rgb), in [0, 1].
    ///
    /// # Errors
    /// Any error ends the job with [`Error::Rows`].
    fn put(&mut self, rgb: &[f32], alpha: Option<&[f32]>) -> io::Result<()>;
}

/// Where the rows of a job go.
pub enum Target<'a> {
    /// Into a picture.
    Picture(Box<Encoder>, &'a Output),
    /// To the caller.
    Rows(&'a mut dyn Rows),
    /// Into the row file alone, as floats.
    Kept,
}

/// Takes the rows of a job as they are decoded.
pub enum RowWriter<'a> {
    /// For a file: rows gather in the row file.
    Gathered(Encoder, &'a Output),
    /// For a picture whose rows leave at once.
    Passed(PictureWriter),
    /// For the caller.
    Rows(&'a mut dyn Rows),
    /// For the row file alone.
    Kept,
}

impl<'a> RowWriter<'a> {
    /// Opens the target. A stream gets its header, and the rows that an earlier run of the job has decoded.
    ///
    /// # Errors
    /// Errors of the output and the work folder; an interruption.
    pub fn open(
        target: Target<'a>,
        work: &mut WorkFolder,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let (encoder, output) = match target {
            Target::Rows(rows) => return Ok(Self::Rows(rows)),
            Target::Kept => return Ok(Self::Kept),
            Target::Picture(encoder, output) => (*encoder, output),
        };
        if !output.is_stream() && work.files.rows.is_some() {
            return Ok(Self::Gathered(encoder, output));
        }
        let mut writer = open(encoder, output, work, progress)?;
        copy(work, work.journal.done().rows, &mut writer, progress)?;
        Ok(Self::Passed(writer))
    }

    /// Takes these rows, `rgb` as `[rows, width, 3]` and `alpha`, if the picture has it, as `[rows, width]`, and records
    /// them; `kept` is the row file, unless nothing is kept, and the journal.
    ///
    /// # Errors
    /// Errors of the output and the work folder.
    pub fn put(
        &mut self,
        rows: Range<usize>,
        rgb: &[f32],
        alpha: Option<&[f32]>,
        (file, journal): (Option<&mut RowFile>, &mut Journal),
    ) -> Result<(), Error> {
        let samples = match self {
            Self::Gathered(encoder, _) => encoder.samples(rgb, alpha)?,
            Self::Passed(writer) => writer.samples(rgb, alpha)?,
            Self::Kept => rgb.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Rows(receiver) => {
                receiver.put(rgb, alpha).map_err(Error::Rows)?;
                return journal.append(Record::Decoded { rows: rows.end });
            }
        };
        if let Some(file) = file {
            file.write(rows.start, &samples).map_err(|error| journal.failed(error))?;
        }
        journal.append(Record::Decoded { rows: rows.end })?;
        if let Self::Passed(writer) = self {
            writer.write_samples(&samples)?;
        }
        Ok(())
    }

    /// Completes the output, after all rows; a file appears now.
    ///
    /// # Errors
    /// Errors of the output and the work folder; an interruption.
    pub fn finish(self, work: &mut WorkFolder, progress: &mut dyn Progress) -> Result<(), Error> {
        let _span = info_span!("write").entered();
        let writer = match self {
            Self::Rows(_) | Self::Kept => return Ok(()),
            Self::Passed(writer) => writer,
            Self::Gathered(encoder, output) => {
                let mut writer = open(encoder, output, work, progress)?;
                copy(work, work.journal.done().rows, &mut writer, progress)?;
                writer
            }
        };
        work.journal.check_lease()?;
        writer.finish()?;
        Ok(())
    }
}

/// Opens the output and tells what it cannot hold.
fn open(
    encoder: Encoder,
    output: &Output,
    work: &WorkFolder,
    progress: &mut dyn Progress,
) -> Result<PictureWriter, Error> {
    let known = encoder.warnings().len();
    let writer = encoder.open(output, work.partial_name().as_deref())?;
    for warning in &writer.warnings()[known..] {
        progress.note(&warning.to_string());
    }
    Ok(writer)
}

/// Copies the first `rows` rows of the row file into the output.
fn copy(
    work: &mut WorkFolder,
    rows: usize,
    writer: &mut PictureWriter,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let WorkFolder { files, journal, .. } = work;
    let Some(file) = &mut files.rows else { return Ok(()) };
    let band = (WRITE_BAND / writer.row_bytes()).max(1);
    for top in (0..rows).step_by(band) {
        if progress.interrupted() {
            return Err(Error::Interrupted(None));
        }
        let samples =
            file.read(top..(top + band).min(rows)).map_err(|error| journal.failed(error))?;
        writer.write_samples(&samples)?;
    }
    Ok(())
}
