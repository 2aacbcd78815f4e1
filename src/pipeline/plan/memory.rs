//! Memory plan of a job: the memory of every stage, and the batch, the VAE tile and the parts that stay loaded, chosen
//! to fit the budget. If the device runs out of memory all the same, `pipeline::retry` reduces batch and tile.
//!
//! The CPU has a single memory: the estimate is the peak resident set of the process, with weights, activations, the
//! picture, the canvases and the pages of mapped files. A GPU's estimate covers its own memory, weights and
//! activations.

use crate::{caption::CaptionBatch, pipeline::settings::Settings, units};

/// A stage in the memory plan, in execution order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryStage {
    /// Reading of the picture, on the CPU; a GPU has no part in it.
    Read,
    /// Captioning by a model; absent without one.
    Caption,
    /// Text encoding of prompts and captions.
    Text,
    /// Enlargement by a network before all else; absent without one.
    Enlarge,
    /// VAE encoding of the picture.
    Encode,
    /// Denoising of the canvas.
    Denoise,
    /// VAE decoding of the canvas.
    Decode,
}

/// Memory of one stage in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// The stage.
    pub stage: MemoryStage,
    /// Resident for the whole stage: weights, the picture, canvases, conditions.
    pub resident: usize,
    /// Peak of temporary memory.
    pub working: usize,
}

impl StageMemory {
    /// Peak memory of the stage.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.resident + self.working
    }
}

/// Memory of a job, and the choices that make it fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Memory budget in bytes; `None` if the device does not tell.
    pub budget: Option<usize>,
    /// Parts of the model stay loaded between stages and jobs.
    pub keeps_parts: bool,
    /// Regions per denoiser call.
    pub batch: usize,
    /// Side of a VAE tile's core in image pixels.
    pub tile: usize,
    /// Side of a tile of the first enlarger's maps in places, if there is one; the result does not depend on it.
    pub first_tile: usize,
    /// Batch sizes of the captioner's model, if there is one.
    pub captions: Option<CaptionBatch>,
    /// Memory of each stage.
    pub stages: Vec<StageMemory>,
}

impl MemoryPlan {
    /// Note about reductions below the settings or the `usual` batch and tile, if any.
    #[must_use]
    pub fn note(&self, settings: &Settings, usual: (usize, usize)) -> Option<String> {
        let Self { batch, tile, keeps_parts, .. } = *self;
        let smaller = [
            (batch < settings.batch.unwrap_or(usual.0)).then(|| format!("batches of {batch}")),
            (tile < settings.tile.unwrap_or(usual.1)).then(|| format!("VAE tiles of {tile} px")),
            (!keeps_parts).then(|| "the model's parts loaded in turn".to_owned()),
            self.captions.filter(|captions| !captions.stays).map(|captions| {
                format!(
                    "{} captions at once, the captioner unloaded before the denoiser",
                    captions.rows
                )
            }),
        ];
        let smaller: Vec<String> = smaller.into_iter().flatten().collect();
        let budget = units::bytes(self.budget?);
        (!smaller.is_empty()).then(|| format!("to stay within {budget}: {}", smaller.join(", ")))
    }

    /// Peak memory of the job.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.stages.iter().map(StageMemory::peak).max().unwrap_or(0)
    }
}
