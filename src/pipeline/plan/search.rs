//! Search for a memory plan within the budget: first with everything loaded, then with the captioner unloaded before
//! the denoiser, then with one part at a time and smaller batches and tiles.

use super::{
    first,
    memory::{MemoryPlan, MemoryStage, StageMemory},
    needs::Draft,
    vae_tiling::VaeTiling,
};
use crate::{
    backend::usable_memory,
    caption::CaptionBatch,
    pipeline::{
        error::Error,
        model::Footprints,
        runner::{Compute as _, Runner},
    },
    units,
    weights::Footprint,
};

/// Base memory of the process: code, the runtime, the threads' stacks.
const PROCESS_BYTES: usize = 16 << 20;

/// Memory of a CPU thread beside the operations' scratch buffer: a packed panel of a matrix product,
/// and small temporaries.
const THREAD_BYTES: usize = 3 << 20;

/// Divisor for memory that allocators retain or lose to fragmentation, as a share of the memory in use; measured
/// with `benches/memory.py`.
const RETAINED_SHARE: usize = 8;

/// Memory of a GPU's libraries, mostly workspaces of matrix products.
const GPU_BYTES: usize = 256 << 20;

/// The smallest core of a VAE tile in image pixels, and the step of its reduction.
const TILE_LEAST: usize = 128;
const TILE_STEP: usize = 64;
/// The smallest of tiles that share statistics: smaller ones save nothing, because the samples need more.
const TILE_LEAST_SAMPLED: usize = 256;

/// Parameters of the search.
#[derive(Clone, Copy)]
struct MemoryChoice {
    batch: usize,
    tile: usize,
    first_tile: usize,
    captions: Option<CaptionBatch>,
    keeps_parts: bool,
}

impl Draft<'_> {
    /// Chooses the batch, the tile, the caption batch, and which parts stay loaded.
    ///
    /// Batch and tile are the user's, or those of [`Defaults`](crate::pipeline::Defaults) where they fit;
    /// everything stays loaded if that fits too. Otherwise the captioner's model is unloaded after captioning; if
    /// the rest still does not fit, each part is loaded for its stage alone, and batch and tile are the
    /// largest that fit.
    ///
    /// # Errors
    /// [`Error::Memory`] if not even the smallest fit.
    pub fn plan(&self) -> Result<MemoryPlan, Error> {
        let Self { model, runner, settings, .. } = *self;
        let budget = settings.max_memory.or_else(|| self.usable());
        let fits = |bytes: usize| budget.is_none_or(|budget| bytes <= budget);
        let choice = MemoryChoice {
            batch: settings.batch.unwrap_or_else(|| runner.default_batch()),
            tile: settings.tile.unwrap_or_else(|| model.default_tile()),
            first_tile: first::tiles(runner.device().into()).next().unwrap_or(1),
            captions: self.caption_batches().into_iter().next(),
            keeps_parts: true,
        };
        let wanted = self.estimate(choice)?;
        if fits(wanted.peak()) {
            return Ok(MemoryPlan { budget, ..wanted });
        }
        let fit = |choice: MemoryChoice, stages: &[MemoryStage]| -> Result<bool, Error> {
            let plan = self.estimate(choice)?;
            let chosen = plan.stages.iter().filter(|stage| stages.contains(&stage.stage));
            Ok(fits(chosen.map(StageMemory::peak).max().unwrap_or(0)))
        };
        // First the captioner alone, then everything else without it.
        let alone = |captions: CaptionBatch| CaptionBatch { stays: false, ..captions };
        let mut batches = self.caption_batches().into_iter().map(alone);
        let captions = first(batches.clone(), |&captions| {
            fit(MemoryChoice { captions: Some(captions), ..choice }, &[MemoryStage::Caption])
        })?;
        let captions_fit = captions.is_some() || choice.captions.is_none();
        let choice = MemoryChoice { captions: captions.or_else(|| batches.next_back()), ..choice };
        if captions.is_some() {
            let wanted = self.estimate(choice)?;
            if fits(wanted.peak()) {
                return Ok(MemoryPlan { budget, ..wanted });
            }
        }
        let choice = MemoryChoice { keeps_parts: false, ..choice };
        let MemoryChoice { batch, tile, .. } = choice;
        let batches = (1..=batch).rev().filter(|&size| size == batch || settings.batch.is_none());
        let least = match self.vae_tiling {
            VaeTiling::Sampled => TILE_LEAST_SAMPLED,
            VaeTiling::Independent | VaeTiling::Layerwise { .. } => TILE_LEAST,
        };
        let tiles = (0..).map_while(|steps| tile.checked_sub(steps * TILE_STEP));
        let tiles =
            tiles.take_while(|&side| side == tile || (side >= least && settings.tile.is_none()));
        // The stages of denoiser and VAE do not overlap, so batch and tile are chosen independently.
        let possible_batch = first(batches, |&batch| {
            fit(MemoryChoice { batch, ..choice }, &[MemoryStage::Text, MemoryStage::Denoise])
        })?;
        let possible_tile = first(tiles.clone(), |&tile| {
            fit(MemoryChoice { tile, ..choice }, &[MemoryStage::Encode, MemoryStage::Decode])
        })?;
        let first_tiles = first::tiles(runner.device().into());
        let possible_first = first(first_tiles, |&first_tile| {
            fit(MemoryChoice { first_tile, ..choice }, &[MemoryStage::Enlarge])
        })?;
        let choice =
            MemoryChoice { first_tile: possible_first.unwrap_or(choice.first_tile), ..choice };
        let possible_tile = possible_tile.filter(|_| possible_first.is_some());
        match (possible_batch, possible_tile) {
            (Some(_), Some(_)) if captions_fit && !fit(choice, &[MemoryStage::Read])? => {
                let least = self.estimate(choice)?;
                let of_reading = |stage: &&StageMemory| stage.stage == MemoryStage::Read;
                let needs = least.stages.iter().find(of_reading).map_or(0, StageMemory::peak);
                let (needs, has) = (units::bytes(needs), units::bytes(budget.unwrap_or(0)));
                Err(Error::PictureMemory { needs, has })
            }
            (Some(batch), Some(tile)) if captions_fit => {
                Ok(MemoryPlan { budget, ..self.estimate(MemoryChoice { batch, tile, ..choice })? })
            }
            _ => {
                let least_batch = if settings.batch.is_none() { 1 } else { batch };
                let (batch, tile) = (least_batch, tiles.last().unwrap_or(tile));
                let least = self.estimate(MemoryChoice { batch, tile, ..choice })?;
                Err(Error::Memory {
                    needs: units::bytes(least.peak()),
                    has: units::bytes(budget.unwrap_or(0)),
                    batch,
                    tile,
                    captioner: !captions_fit,
                })
            }
        }
    }

    /// The least that a device of the job may take; what is several devices, a CPU or streams of a GPU, has one memory, in
    /// equal parts.
    fn usable(&self) -> Option<usize> {
        let Self { engine, model, settings, .. } = *self;
        let usable = |runner: &Runner| {
            let place = runner.device().location();
            let sharing = || engine.runners().filter(|one| one.device().location() == place);
            let held: usize = sharing().map(|one| one.loaded_bytes(&model.footprints)).sum();
            let held = held + settings.captioner.loaded_bytes();
            let held = held + self.first.map_or(0, |first| first.enlarger.loaded_bytes());
            usable_memory(runner.device(), held).map(|bytes| bytes / sharing().count())
        };
        engine.runners().filter_map(usable).min()
    }

    /// Memory plan of the job with this choice.
    fn estimate(&self, choice: MemoryChoice) -> Result<MemoryPlan, Error> {
        let MemoryChoice { batch, tile, first_tile, captions, keeps_parts } = choice;
        // Where nothing is repainted, no part of the model is loaded.
        let repaints = self.settings.repaints();
        let footprints = if repaints { self.model.footprints } else { Footprints::default() };
        let Footprints { text, vae, denoiser } = footprints;
        let on_cpu = self.runner.device().is_cpu();
        let captioner = captions.map(|batch| self.caption(batch)).transpose()?.flatten();
        // Host memory that the captioner keeps after its weights are unloaded.
        let captioner_host = captioner.map_or(0, |(_, _, host)| host);
        let enlarger = self.first.map_or_else(Footprint::default, |first| first.footprint);
        let parts = [
            (MemoryStage::Enlarge, enlarger, self.enlarge(first_tile)?),
            (MemoryStage::Text, text, self.text()?),
            (MemoryStage::Encode, vae, self.encode(tile)?),
            (MemoryStage::Denoise, denoiser, self.denoise(batch)?),
            (MemoryStage::Decode, vae, if repaints { self.decode(tile)? } else { self.resize() }),
        ];
        // A picture that is made from noise is not encoded, and its decoder is loaded for itself.
        let generated = self.geometry.generated;
        let parts = parts.into_iter().filter(|(stage, ..)| match stage {
            MemoryStage::Enlarge => self.first.is_some(),
            MemoryStage::Text | MemoryStage::Denoise => repaints,
            MemoryStage::Encode => repaints && !generated,
            _ => true,
        });
        let parts: Vec<_> = parts.collect();
        let of_captions = captioner.map_or(0, |(_, needs, _)| needs.scratch);
        let scratch = parts.iter().map(|(_, _, needs)| needs.scratch).fold(of_captions, usize::max);
        let threads = rayon::current_num_threads() * (THREAD_BYTES + scratch);
        let of_model = enlarger.embedded + text.embedded + vae.embedded + denoiser.embedded;
        let base = PROCESS_BYTES
            + threads
            + of_model
            + self.picture_bytes()
            + self.enlarged_bytes()
            + captioner_host
            + self.text_states_bytes();
        let (mut loaded, mut of_captioner) = (0, 0);
        let parts = (captioner.into_iter())
            .map(|(part, needs, _)| (MemoryStage::Caption, part, needs))
            .chain(parts);
        let stages = parts.map(|(stage, part, needs)| {
            // Loaded parts add up in the order of the stages; the decoder was loaded for the encoder.
            let mut mapped = 0;
            let held = if stage == MemoryStage::Caption {
                // When the next picture is captioned, the other parts are still loaded.
                let others = enlarger.kept + text.kept + vae.kept + denoiser.kept;
                let stays = captions.is_some_and(|batch| batch.stays);
                of_captioner = if stays { part.kept } else { 0 };
                mapped = part.mapped;
                part.kept + if stays { others } else { 0 }
            } else {
                loaded = match (keeps_parts, stage) {
                    (false, _) => part.kept,
                    (true, MemoryStage::Decode) if !generated => loaded,
                    (true, _) => loaded + part.kept,
                };
                loaded + of_captioner
            };
            let loading = part.loading.saturating_sub(part.kept);
            let (resident, working) = if on_cpu {
                let resident = base + held + needs.host + needs.device;
                (resident, needs.device_working.max(needs.host_working))
            } else {
                (GPU_BYTES + held + needs.device, needs.device_working)
            };
            let working = working.max(loading);
            let retained = (held - mapped + working) / RETAINED_SHARE;
            StageMemory { stage, resident, working: working + retained }
        });
        let stages: Vec<_> = stages.collect();
        // The next picture is read while the parts that stay are still loaded.
        let read = on_cpu.then(|| {
            let stays = captioner.filter(|_| captions.is_some_and(|batch| batch.stays));
            let of_model = enlarger.kept + text.kept + vae.kept + denoiser.kept;
            let kept = of_model + stays.map_or(0, |(it, ..)| it.kept);
            let resident = base + if keeps_parts { kept } else { 0 };
            StageMemory { stage: MemoryStage::Read, resident, working: self.reading_bytes() }
        });
        let stages = read.into_iter().chain(stages).collect();
        Ok(MemoryPlan { budget: None, keeps_parts, batch, tile, first_tile, captions, stages })
    }
}

/// The first item for which `holds` is true.
fn first<T>(
    mut all: impl Iterator<Item = T>,
    mut holds: impl FnMut(&T) -> Result<bool, Error>,
) -> Result<Option<T>, Error> {
    all.find_map(|one| match holds(&one) {
        Ok(true) => Some(Ok(one)),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    })
    .transpose()
}
