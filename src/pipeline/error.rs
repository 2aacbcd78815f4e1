//! Errors of jobs.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    backend::{DeviceError, first_line, is_out_of_memory},
    canvas::CanvasError,
    caption::CaptionError,
    image::{ImageError, PictureShape},
    model::text::{PromptError, TextError},
    priors::structure::StructureError,
    sampler::SamplerError,
    temporary::TemporaryError,
    units,
    weights::WeightsError,
};

use super::progress::Stage;

/// Error of a job, with a message of one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum Error {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("the text encoders: {0}")]
    Text(#[source] TextError),
    #[error("prompt: {0}")]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Canvas(#[from] CanvasError),
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    #[error(transparent)]
    Structure(#[from] StructureError),
    #[error(transparent)]
    Caption(#[from] CaptionError),
    /// An error of the computation: mismatched shapes, a device that ran out of memory.
    #[error("{}", first_line(.0))]
    Tensor(#[from] candle_core::Error),
    /// A model that this pipeline cannot drive.
    #[error("{model}: {reason}")]
    Model { model: String, reason: String },
    /// A control that this model cannot use, or that cannot be used so.
    #[error("the ControlNet {control}: {reason}")]
    Control { control: String, reason: String },
    #[error("{width} × {height}: more pixels than an output can have (2³⁴)")]
    OutputTooLarge { width: u32, height: u32 },
    /// A setting beyond its range, or no number.
    #[error("{name}: {value} is not possible: it must be {least} to {most}")]
    Setting { name: &'static str, value: f64, least: f64, most: f64 },
    /// A size that a picture made from noise cannot have.
    #[error(
        "a picture of {width} × {height} cannot be made from noise: both sides must be multiples of {unit}, and it may be \
         at most four times as large as the model's {native} × {native}"
    )]
    SizeOfNoise { width: u32, height: u32, unit: usize, native: usize },
    /// A model that repaints a picture which it sees, and makes none.
    #[error(
        "{model} repaints a picture that it is shown, and makes none from words: choose a text-to-image model"
    )]
    NotFromNoise { model: String },
    /// A schedule whose first step is noise alone, of which the sampler can make nothing.
    #[error(
        "{sampler} cannot begin at timestep {t} of this model, which is pure noise: choose a sampler that keeps a little \
         signal there ({known})"
    )]
    NoFirstStep { sampler: &'static str, t: f64, known: &'static str },
    /// A non-finite result, which would give a black picture.
    #[error(
        "{}: the model produced values that are not numbers, also in f32; {}",
        .stage.verb(),
        match .weight {
            Some(weight) => format!("{weight} has such values"),
            None => "are its files good, the scales of LoRAs and the guidance not too high?".to_owned(),
        }
    )]
    NonFinite { stage: Stage, weight: Option<String> },
    /// A job whose plan does not fit the memory budget.
    #[error(
        "not enough memory: the job needs at least {needs} ({}), and may use {has}",
        if *.captioner { "one caption at a time".to_owned() } else {
            format!("batch {batch}, VAE tiles of {tile} px")
        }
    )]
    Memory { needs: String, has: String, batch: usize, tile: usize, captioner: bool },
    /// A picture whose decoder holds more of it than the memory budget has.
    #[error("not enough memory: reading the picture needs {needs}, and may use {has}")]
    PictureMemory { needs: String, has: String },
    /// The device ran out of memory even with the smallest batch or tile.
    #[error("the device ran out of memory")]
    OutOfMemory,
    /// A frame that is not of the shape that the job was planned for.
    #[error(
        "a frame of {} × {}{}, where {} × {}{} was planned",
        found.width, found.height, alpha_of(*found), planned.width, planned.height, alpha_of(*planned)
    )]
    FrameShape { planned: PictureShape, found: PictureShape },
    /// The caller's receiver of rows failed.
    #[error("the rows of the output: {0}")]
    Rows(io::Error),
    #[error("no thread for one of several devices: {source}")]
    Thread { source: io::Error },
    /// Stopped through [`Progress`](super::Progress); with the folder of the finished work, if any.
    #[error("interrupted{}", kept(.0.as_deref()))]
    Interrupted(Option<PathBuf>),
    /// I/O error of a file in the work folder.
    #[error("{}: {source}", path.display())]
    Work { path: PathBuf, source: io::Error },
    #[error("{}: {by} is at work on this job", folder.display())]
    Busy { folder: PathBuf, by: String },
    /// This process stood still for so long that another one took it for dead.
    #[error("{}: another process has taken this job over, since this one did not stir", folder.display())]
    TakenOver { folder: PathBuf },
    /// In a folder that other users may write to, one of them made what bears the work folder's name.
    #[error("{}: not a folder of this user's: remove it, or choose another folder", folder.display())]
    NotOwn { folder: PathBuf },
    #[error(transparent)]
    Temporary(#[from] TemporaryError),
    #[error(
        "{output}: unfinished work of another job is in {} ({what})",
        folder.display()
    )]
    OtherJob { output: String, folder: PathBuf, what: String },
    /// A file of the work folder is missing, of another length, or says what cannot be.
    #[error("{}: what is done there cannot be used ({what})", folder.display())]
    DamagedWork { folder: PathBuf, what: String },
    #[error("{output}: there is nothing to resume in {}", folder.display())]
    NothingToResume { output: String, folder: PathBuf },
    #[error(
        "{}: the job needs {} of disk while it works{}, and {} are free: make room, or choose another folder",
        folder.display(), units::bytes(*need), of_maps(*maps), units::bytes(*free)
    )]
    NoRoom { folder: PathBuf, need: u64, maps: u64, free: u64 },
    /// The output's disk is too full for it; the work lies elsewhere.
    #[error(
        "{output}: needs about {} of disk, and {} are free: make room, or write it elsewhere",
        units::bytes(*need), units::bytes(*free)
    )]
    NoRoomForOutput { output: String, need: u64, free: u64 },
}

impl From<TextError> for Error {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Prompt(error) => Self::Prompt(error),
            error => Self::Text(error),
        }
    }
}

impl Error {
    /// True if the device ran out of memory, anywhere in the chain of causes.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        let mut error: Option<&dyn std::error::Error> = Some(self);
        while let Some(found) = error {
            if found.downcast_ref::<candle_core::Error>().is_some_and(is_out_of_memory) {
                return true;
            }
            error = found.source();
        }
        false
    }

    /// An error of the file or folder at `path`.
    pub(crate) fn in_file(path: &Path, source: io::Error) -> Self {
        Self::Work { path: path.to_owned(), source }
    }

    /// What becomes of the work of a job that this ended: it is kept where the same job may succeed another time, as
    /// with more memory or disk.
    pub(crate) fn leaves(&self) -> Left {
        match self {
            // The reader of the output does not want it.
            error if error.is_broken_pipe() => Left::Removed,
            error if error.is_out_of_memory() => Left::Kept,
            Self::Interrupted(_)
            | Self::OutOfMemory
            | Self::Thread { .. }
            | Self::Work { .. }
            | Self::Temporary(_)
            | Self::TakenOver { .. }
            | Self::Canvas(CanvasError::File { .. } | CanvasError::Map { .. })
            | Self::Image(ImageError::Unwritable { .. } | ImageError::Write { .. }) => Left::Kept,
            // A device that failed, or a model whose parts do not fit together: who knows?
            Self::Tensor(_)
            | Self::Device(_)
            | Self::Weights(WeightsError::Read { .. } | WeightsError::Tensor(_)) => {
                Left::Replaceable
            }
            _ => Left::Removed,
        }
    }

    /// True if the reader of standard output closed the pipe, which is not a failure.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Image(error) => error.is_broken_pipe(),
            Self::Rows(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

/// What becomes of the work of a job that ended with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It goes on when the same job runs again; another job is refused.
    Kept,
    /// It goes on when the same job runs again; another job replaces it.
    Replaceable,
    /// It could not go on.
    Removed,
}

/// Message part for an interrupted job: the folder with its finished work, if any.
fn kept(folder: Option<&Path>) -> String {
    folder.map_or_else(
        || "; nothing was written".to_owned(),
        |folder| {
            format!("; the same job goes on from here (what is done is in {})", folder.display())
        },
    )
}

/// Message part for the transparency of a frame.
fn alpha_of(shape: PictureShape) -> &'static str {
    if shape.alpha { " with transparency" } else { "" }
}

/// Message part for the maps of an autoencoder, if there are any.
fn of_maps(bytes: u64) -> String {
    if bytes == 0 {
        return String::new();
    }
    format!(" ({} of it for a VAE that computes a large picture exactly)", units::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{denoiser::DenoiserError, text::TextError};

    #[test]
    fn exhausted_memory_is_told_wherever_in_the_chain_of_causes_it_is() {
        let exhausted =
            || candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned()).context("conv_in");
        let of_denoiser =
            DenoiserError::Weights { file: "config.json".to_owned(), source: exhausted() };
        for error in [
            Error::Tensor(exhausted()),
            Error::Text(TextError::Tensor(exhausted())),
            Error::Weights(exhausted().into()),
            Error::Weights(of_denoiser.into()),
        ] {
            assert!(error.is_out_of_memory(), "{error}");
        }
        let other = candle_core::Error::Msg("a shape that does not fit".to_owned());
        assert!(!Error::Weights(other.into()).is_out_of_memory());
        assert!(!Error::Interrupted(None).is_out_of_memory());
    }
}
