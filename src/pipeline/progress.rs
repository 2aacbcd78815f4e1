//! Progress reports of a running job. The library never prints: the command line turns these calls into a bar or
//! into JSON lines, an editor's plug-in into its own dialog.

use crate::caption::document::Document;

/// The stages of a job, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Describe every region; counted in regions.
    Caption,
    /// Enlarge the picture by a network before all else, if one is asked for; counted in tiles of its steps.
    Enlarge,
    /// Resize the picture and encode it into the canvas; counted in VAE tiles.
    Encode,
    /// Predict the noise of every region at every timestep; counted in regions × steps.
    Denoise,
    /// Decode the canvas and write the output; counted in VAE tiles.
    Decode,
}

impl Stage {
    /// Verb for users, e.g. `decoding`.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Enlarge => "enlarging",
            Self::Encode => "encoding",
            Self::Caption => "captioning",
            Self::Denoise => "repainting",
            Self::Decode => "decoding",
        }
    }

    /// Unit of the stage's total.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Enlarge | Self::Encode | Self::Decode => "tiles",
            Self::Caption => "regions",
            Self::Denoise => "regions × steps",
        }
    }
}

/// A job before it runs, for whoever tells how long it will take.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outline {
    /// Output width in pixels.
    pub width: u32,
    /// Output height in pixels.
    pub height: u32,
    /// Regions of the canvas.
    pub regions: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Work of each stage in its order, which says nothing of time by itself: multiplications (each with its addition) of
    /// the networks; of captions, which nobody can count beforehand, regions.
    pub work: [(Stage, f64); 5],
}

/// A job without work.
impl Default for Outline {
    fn default() -> Self {
        let stages = [Stage::Caption, Stage::Enlarge, Stage::Encode, Stage::Denoise, Stage::Decode];
        let work = stages.map(|stage| (stage, 0.0));
        Self { width: 0, height: 0, regions: 0, steps: 0, work }
    }
}

/// A small picture of the whole output as far as it is known, for people who watch the job.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Preview<'a> {
    /// [`Stage::Denoise`]: an estimate from the latent, or [`Stage::Decode`]: decoded down to some row, estimated below.
    pub stage: Stage,
    /// Steps that have been taken; 0 shows the input as the autoencoder encodes it.
    pub step: usize,
    /// Steps of the run.
    pub of: usize,
    /// Pixels per row, at most 1024.
    pub width: u32,
    /// Rows, at most 1024.
    pub height: u32,
    /// `[height, width, 3]`, sRGB.
    pub rgb8: &'a [u8],
}

/// Receiver of a job's progress.
pub trait Progress {
    /// A job begins, before its first stage.
    fn outlined(&mut self, _: &Outline) {}
    /// A stage begins; it will advance by `total` in all.
    fn begin(&mut self, stage: Stage, total: usize);
    /// `count` more of the current stage's total are done.
    fn advance(&mut self, count: usize);
    /// `count` of the total of the stage that just began were done before, by an earlier run of the job.
    fn resumed(&mut self, count: usize) {
        self.advance(count);
    }
    /// The captions of the job's regions, as soon as they are known.
    fn described(&mut self, _: &Document) {}
    /// A note for the user that is not an error.
    fn note(&mut self, text: &str);
    /// Polled between batches; true ends the job with `Error::Interrupted`.
    fn interrupted(&self) -> bool {
        false
    }
    /// Asked before each preview would be made; false saves the work. No byte of the output depends on it.
    fn wants_preview(&self) -> bool {
        false
    }
    /// A preview: after the encoding (step 0), after every step, and while the canvas is decoded.
    fn preview(&mut self, _: &Preview<'_>) {}
}

/// Progress receiver that ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: Stage, _: usize) {}
    fn advance(&mut self, _: usize) {}
    fn note(&mut self, _: &str) {}
}
