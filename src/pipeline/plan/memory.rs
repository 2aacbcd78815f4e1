//! Memory plan of a job: what every stage takes, and the batch, the VAE tile and the parts that stay loaded, chosen
//! so that it fits. When the device runs out all the same, `pipeline::retry` takes less at a time.
//!
//! On the CPU everything is in one memory, and the estimate is of the process's peak resident set:
//! weights, activations, the picture and the canvases, pages of mapped files included. On a GPU it
//! is of the GPU's memory: weights and activations.

use crate::{caption::CaptionBatch, pipeline::settings::Settings, units};

/// A stage of a job, as memory counts them, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryStage {
    /// The picture, through a model that describes it; without one there is no such stage.
    Caption,
    /// Prompts and captions, through the text encoders.
    Text,
    /// The picture, through the VAE's encoder.
    Encode,
    /// The canvas, through the denoiser.
    Denoise,
    /// The canvas, through the VAE's decoder.
    Decode,
}

/// What one stage takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// The stage.
    pub stage: MemoryStage,
    /// What stays while it runs: weights, the picture, canvases, conditions.
    pub resident: usize,
    /// The most that it takes beside.
    pub working: usize,
}

impl StageMemory {
    /// The most that is taken while it runs.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.resident + self.working
    }
}

/// What a job takes, and what was chosen so that it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What it may take, if anything is known about that.
    pub budget: Option<usize>,
    /// Whether parts of the model stay loaded from stage to stage and from job to job.
    pub keeps_parts: bool,
    /// Regions per denoiser call.
    pub batch: usize,
    /// Side of a VAE tile's core in image pixels.
    pub tile: usize,
    /// How a model that describes the picture works, if there is one.
    pub captions: Option<CaptionBatch>,
    /// What each stage takes.
    pub stages: Vec<StageMemory>,
}

impl MemoryPlan {
    /// A line about what was made smaller than asked for or `usual`, batch and tile, if anything was.
    #[must_use]
    pub fn note(&self, settings: &Settings, usual: (usize, usize)) -> Option<String> {
        let Self { batch, tile, keeps_parts, .. } = *self;
        let smaller = [
            (batch < settings.batch.unwrap_or(usual.0)).then(|| format!("batches of {batch}")),
            (tile < settings.tile.unwrap_or(usual.1)).then(|| format!("VAE tiles of {tile} px")),
            (!keeps_parts).then(|| "the model's parts loaded in turn".to_owned()),
            self.captions.filter(|captions| !captions.stays).map(|captions| {
                format!("{} captions at once, their model gone before the denoiser", captions.rows)
            }),
        ];
        let smaller: Vec<String> = smaller.into_iter().flatten().collect();
        let budget = units::bytes(self.budget?);
        (!smaller.is_empty()).then(|| format!("to stay within {budget}: {}", smaller.join(", ")))
    }

    /// The most that is taken at any time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.stages.iter().map(StageMemory::peak).max().unwrap_or(0)
    }
}
