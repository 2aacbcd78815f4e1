//! Progress reports of a running job. The library never prints: the command line turns these calls into a bar or
//! into JSON lines, an editor's plug-in into its own dialog.

/// The stages of a job, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Describe every region; counted in regions.
    Caption,
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
            Self::Encode | Self::Decode => "tiles",
            Self::Caption => "regions",
            Self::Denoise => "regions × steps",
        }
    }
}

/// Receiver of a job's progress.
pub trait Progress {
    /// A stage begins; it will advance by `total` in all.
    fn begin(&mut self, stage: Stage, total: usize);
    /// `count` more of the current stage's total are done.
    fn advance(&mut self, count: usize);
    /// A note for the user that is not an error.
    fn note(&mut self, text: &str);
    /// Polled between batches; true ends the job with `Error::Interrupted`.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Progress receiver that ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: Stage, _: usize) {}
    fn advance(&mut self, _: usize) {}
    fn note(&mut self, _: &str) {}
}
