//! What every stage of a job takes of memory, worked out before it runs; the batch, the VAE tile and
//! the parts that stay loaded, chosen from it. When the device runs out all the same: [`super::retry`].
//!
//! On the CPU everything is in one memory, and the estimate is of the process's peak resident set:
//! weights, activations, the picture and the canvases, pages of mapped files included. On a GPU it
//! is of the GPU's memory: weights and activations.

use std::fmt;

use crate::{
    backend::{
        ops::memory::{Extent, Ledger},
        usable_memory,
    },
    canvas::{CanvasSize, RegionGrid},
    caption::{CaptionBatch, CaptionMemory},
    model::unet::PriorUse,
    weights::Footprint,
};

use super::{
    Engine, Error, Settings, colour_fix,
    engine::{Footprints, VAE_DTYPE},
    statistics,
    tiles::{Padding, Span, spans},
};

/// What the program takes before it does anything: code, the runtime, the threads' stacks.
const PROCESS_BYTES: usize = 16 << 20;

/// What a thread of the CPU takes beside the buffer of the operations: a packed panel of a matrix
/// product, and its own pieces of work.
const THREAD_BYTES: usize = 3 << 20;

/// What a tokenizer takes for an entry of its vocabulary: two tables of strings, merges and a trie.
const VOCABULARY_ENTRY_BYTES: usize = 800;

/// What the allocators keep of memory that is no longer used, or cannot hand out for the holes in it: a
/// share of what is used, as measured (`benches/memory.py`).
const RETAINED_SHARE: usize = 8;

/// What libraries of a GPU take for themselves: workspaces of its matrix products, mostly.
const GPU_BYTES: usize = 256 << 20;

/// The smallest core of a VAE tile, in image pixels, and the steps by which it is made smaller.
const TILE_LEAST: usize = 128;
const TILE_STEP: usize = 64;

/// A stage of a job, as memory counts them, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryStage {
    /// The picture, through a model that describes it; without one there is no such stage.
    Caption,
    /// Prompts and captions, through the text encoders.
    Text,
    /// The picture, through the VAE's encoder.
    Encode,
    /// The canvas, through the UNet.
    Denoise,
    /// The canvas, through the VAE's decoder.
    Decode,
}

impl fmt::Display for MemoryStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Caption => "caption",
            Self::Text => "text",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        })
    }
}

/// What one stage takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
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
    /// Regions per UNet call.
    pub batch: usize,
    /// Side of a VAE tile's core in image pixels.
    pub tile: usize,
    /// How a model that describes the picture works, if there is one.
    pub captions: Option<CaptionBatch>,
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
                format!("{} captions at once, their model gone before the UNet", captions.rows)
            }),
        ];
        let smaller: Vec<String> = smaller.into_iter().flatten().collect();
        let budget = mebibytes(self.budget?);
        (!smaller.is_empty()).then(|| format!("to stay within {budget}: {}", smaller.join(", ")))
    }

    /// The most that is taken at any time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.stages.iter().map(StageMemory::peak).max().unwrap_or(0)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory        {}", mebibytes(self.peak()))?;
        match self.budget {
            Some(budget) => writeln!(f, " of {}", mebibytes(budget))?,
            None => writeln!(f)?,
        }
        writeln!(
            f,
            "parts         {}",
            if self.keeps_parts { "stay loaded" } else { "loaded for each stage, then freed" }
        )?;
        if let Some(CaptionBatch { rows, prefill_rows, stays }) = self.captions {
            let stays = if stays { "stays loaded" } else { "freed before the UNet is loaded" };
            writeln!(
                f,
                "captioner     {stays}; {rows} captions at once, {prefill_rows} read at once"
            )?;
        }
        write!(f, "stage               resident        working           peak")?;
        for stage in &self.stages {
            let [resident, working, peak] =
                [stage.resident, stage.working, stage.peak()].map(mebibytes);
            write!(f, "\n{:<14}{resident:>14} {working:>14} {peak:>14}", stage.stage)?;
        }
        Ok(())
    }
}

/// A number of bytes for people.
pub(super) fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Everything about a job that its memory follows from, batch and tile excepted.
pub(super) struct Job<'a> {
    pub engine: &'a Engine,
    pub settings: &'a Settings,
    /// Input size in pixels, width and height.
    pub input: (u32, u32),
    pub canvas: CanvasSize,
    pub grid: &'a RegionGrid,
    pub guided: bool,
    /// Height and width in latent pixels of the low-resolution pass, if there is one.
    pub low_resolution: Option<(usize, usize)>,
    /// Padding of VAE tiles.
    pub vae_padding: Padding,
    /// The captioner's model, if the job asks one.
    pub captions: Option<Box<dyn CaptionMemory + 'a>>,
}

/// What a stage takes on either side.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    /// weights and tensors that stay
    pub device: usize,
    /// the same in host memory
    pub host: usize,
    /// tensors that come and go
    pub device_working: usize,
    pub host_working: usize,
}

/// What can be chosen so that a job fits.
#[derive(Clone, Copy)]
struct Choice {
    batch: usize,
    tile: usize,
    captions: Option<CaptionBatch>,
    keeps_parts: bool,
}

impl Job<'_> {
    /// Chooses the batch, the tile, how captions are made, and what stays loaded.
    ///
    /// Batch and tile are the user's, or those of [`Defaults`] where they fit; everything stays loaded if
    /// that fits too. Else a model that describes the picture goes when it has; if what is left still
    /// does not fit, each part is loaded for its stage alone, and batch and tile are the largest that fit.
    ///
    /// # Errors
    /// [`Error::Memory`] if not even the smallest fit.
    pub fn plan(&self) -> Result<MemoryPlan, Error> {
        let Self { engine, settings, .. } = *self;
        let budget =
            (settings.max_memory).or_else(|| {
            let held = engine.loaded_bytes() + settings.captioner.loaded_bytes();
            usable_memory(&engine.device, held)
        });
        let fits = |bytes: usize| budget.is_none_or(|budget| bytes <= budget);
        let choice = Choice {
            batch: settings.batch.unwrap_or_else(|| engine.default_batch()),
            tile: settings.tile.unwrap_or_else(|| engine.default_tile()),
            captions: self.caption_batches().into_iter().next(),
            keeps_parts: true,
        };
        let wanted = self.estimate(choice);
        if fits(wanted.peak()) {
            return Ok(MemoryPlan { budget, ..wanted });
        }
        let peak = |choice: Choice, stages: &[MemoryStage]| {
            let plan = self.estimate(choice);
            let chosen = plan.stages.iter().filter(|stage| stages.contains(&stage.stage));
            chosen.map(StageMemory::peak).max().unwrap_or(0)
        };
        // The captioner by itself, and then everything else without it.
        let alone = |captions: CaptionBatch| CaptionBatch { stays: false, ..captions };
        let mut batches = self.caption_batches().into_iter().map(alone);
        let possible = |captions: &CaptionBatch| {
            fits(peak(Choice { captions: Some(*captions), ..choice }, &[MemoryStage::Caption]))
        };
        let captions = batches.clone().find(possible);
        let captions_fit = captions.is_some() || choice.captions.is_none();
        let choice = Choice { captions: captions.or_else(|| batches.next_back()), ..choice };
        if captions.is_some() {
            let wanted = self.estimate(choice);
            if fits(wanted.peak()) {
                return Ok(MemoryPlan { budget, ..wanted });
            }
        }
        let choice = Choice { keeps_parts: false, ..choice };
        let Choice { batch, tile, .. } = choice;
        let mut batches =
            (1..=batch).rev().filter(|&size| size == batch || settings.batch.is_none());
        let tiles = (0..).map_while(|steps| tile.checked_sub(steps * TILE_STEP));
        let tiles = tiles
            .take_while(|&side| side == tile || (side >= TILE_LEAST && settings.tile.is_none()));
        // The stages of UNet and VAE do not share memory: each is made to fit by itself.
        let of_unet =
            |batch| peak(Choice { batch, ..choice }, &[MemoryStage::Text, MemoryStage::Denoise]);
        let of_vae =
            |tile| peak(Choice { tile, ..choice }, &[MemoryStage::Encode, MemoryStage::Decode]);
        match (
            batches.find(|&size| fits(of_unet(size))),
            tiles.clone().find(|&side| fits(of_vae(side))),
        ) {
            (Some(batch), Some(tile)) if captions_fit => {
                Ok(MemoryPlan { budget, ..self.estimate(Choice { batch, tile, ..choice }) })
            }
            _ => {
                let least_batch = if settings.batch.is_none() { 1 } else { batch };
                let (batch, tile) = (least_batch, tiles.last().unwrap_or(tile));
                let least = self.estimate(Choice { batch, tile, ..choice });
                Err(Error::Memory {
                    needs: mebibytes(least.peak()),
                    has: mebibytes(budget.unwrap_or(0)),
                    batch,
                    tile,
                    captioner: !captions_fit,
                })
            }
        }
    }

    /// How captions may be made, the most at once first; nothing without a model that makes them.
    fn caption_batches(&self) -> Vec<CaptionBatch> {
        self.captions.as_ref().map_or_else(Vec::new, |captions| captions.batches())
    }

    /// A captioner's weights, what it needs, and what it keeps in host memory without them.
    fn caption_stage(
        &self,
        batch: Option<CaptionBatch>,
        scratch: &mut usize,
    ) -> Option<(Footprint, Needs, usize)> {
        let captions = self.captions.as_ref()?;
        let needs = captions.needs(batch?);
        *scratch = (*scratch).max(needs.scratch);
        let needs = Needs {
            host: self.engine.text_sizes.vocabulary * VOCABULARY_ENTRY_BYTES,
            device_working: needs.device_working,
            host_working: needs.host_working,
            ..Needs::default()
        };
        Some((captions.footprint(), needs, captions.vocabulary() * VOCABULARY_ENTRY_BYTES))
    }

    /// What the job takes with this choice.
    fn estimate(&self, choice: Choice) -> MemoryPlan {
        let Choice { batch, tile, captions, keeps_parts } = choice;
        let Footprints { text, vae, unet } = self.engine.footprints;
        let on_cpu = self.engine.device.is_cpu();
        let mut scratch = 0;
        let captioner = self.caption_stage(captions, &mut scratch);
        // What the captioner keeps in host memory though its weights are gone.
        let captioner_host = captioner.map_or(0, |(_, _, host)| host);
        let parts = [
            (MemoryStage::Text, text, self.text()),
            (MemoryStage::Encode, vae, self.encode(tile, &mut scratch)),
            (MemoryStage::Denoise, unet, self.denoise(batch, &mut scratch)),
            (MemoryStage::Decode, vae, self.decode(tile, &mut scratch)),
        ];
        let threads = rayon::current_num_threads() * (THREAD_BYTES + scratch);
        let of_model = text.embedded + vae.embedded + unet.embedded;
        let base = PROCESS_BYTES + threads + of_model + self.picture_bytes() + captioner_host;
        let (mut loaded, mut of_captioner) = (0, 0);
        let parts = (captioner.into_iter())
            .map(|(part, needs, _)| (MemoryStage::Caption, part, needs))
            .chain(parts);
        let stages = parts.map(|(stage, part, needs)| {
            // Loaded parts add up in the order of the stages; the decoder was loaded for the encoder.
            let mut mapped = 0;
            let held = if stage == MemoryStage::Caption {
                // For the next picture the others are still there.
                let others = text.kept + vae.kept + unet.kept;
                let stays = captions.is_some_and(|batch| batch.stays);
                of_captioner = if stays { part.kept } else { 0 };
                mapped = part.mapped;
                part.kept + if stays { others } else { 0 }
            } else {
                loaded = match (keeps_parts, stage) {
                    (false, _) => part.kept,
                    (true, MemoryStage::Decode) => loaded,
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
        let stages = stages.collect();
        MemoryPlan { budget: None, keeps_parts, batch, tile, captions, stages }
    }

    /// The input as it is held from beginning to end.
    fn picture_bytes(&self) -> usize {
        self.input.0 as usize * self.input.1 as usize * 4 * size_of::<f32>()
    }

    /// A mapped latent of the canvas's size.
    fn canvas_bytes(&self) -> usize {
        let pixels = self.canvas.latent_height * self.canvas.latent_width;
        pixels * self.engine.shape().channels * size_of::<f32>()
    }

    /// All mapped files of a job that is past its first step: zL, z before and after, and the predictions.
    fn mapped_bytes(&self) -> usize {
        let shape = self.engine.shape();
        let predictions = self.grid.len() * shape.region * shape.region * shape.channels;
        3 * self.canvas_bytes() + predictions * size_of::<f32>()
    }

    /// The conditions of all regions, which may all differ, of the prompt and of the negative one.
    fn condition_bytes(&self) -> usize {
        let sizes = self.engine.text_sizes;
        let texts = if self.settings.captions_differ() { self.grid.len() } else { 0 } + 2;
        let (context, pooled) = sizes.widths;
        texts * (sizes.tokens * context + pooled) * self.engine.dtype.size_in_bytes()
    }

    fn text(&self) -> Needs {
        let sizes = self.engine.text_sizes;
        let conditions = self.condition_bytes();
        Needs {
            host: sizes.vocabulary * VOCABULARY_ENTRY_BYTES,
            device: conditions,
            // They are put together from as many pieces.
            device_working: sizes.working_bytes + conditions,
            host_working: 0,
        }
    }

    /// The largest tile's side in latent pixels, its core's and with what is computed around it.
    fn tile_side(&self, length: usize, tile: usize, rim: usize) -> (usize, usize) {
        let core = (tile / self.engine.shape().factor).max(1);
        let spans = spans(length, core, self.vae_padding);
        let most = |side: fn(&Span) -> usize| spans.iter().map(side).max().unwrap_or(1) + 2 * rim;
        (most(|span| span.core.len()), most(|span| span.padded().len()))
    }

    fn encode(&self, tile: usize, scratch: &mut usize) -> Needs {
        let shape = self.engine.shape();
        let padded = |length| self.tile_side(length, tile, 0).1;
        let (height, width) = (padded(self.canvas.latent_height), padded(self.canvas.latent_width));
        // The whole picture for the attention prior goes as one tile.
        let whole = (self.low_resolution).map(|sides| {
            (1, sides.0 + 2 * self.vae_padding.border, sides.1 + 2 * self.vae_padding.border)
        });
        let samples = self.samples();
        let sizes = [Some((1, height, width)), whole, samples].into_iter().flatten();
        let peaks = sizes.map(|(batch, height, width)| {
            let (height, width) = (height * shape.factor, width * shape.factor);
            let image = Extent { batch, height, width, channels: 3 };
            let mut ledger = self.vae_ledger();
            self.engine.vae_config().play_encode(image, &mut ledger);
            *scratch = (*scratch).max(ledger.scratch_bytes());
            // The window before it is a tensor: what it is cut from, the resized rows, and itself.
            (ledger.peak(), 3 * image.count() * size_of::<f32>())
        });
        let (device_working, host_working) =
            peaks.fold((0, 0), |most, peak| (most.0.max(peak.0), most.1.max(peak.1)));
        Needs {
            device: self.condition_bytes(),
            host: self.canvas_bytes(),
            device_working,
            host_working,
        }
    }

    fn denoise(&self, batch: usize, scratch: &mut usize) -> Needs {
        let shape = self.engine.shape();
        let pair = if self.guided { 2 } else { 1 };
        let batch = pair * batch.min(self.grid.len());
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        let mut play = |batch, height, width, prior| {
            let mut ledger = self.unet_ledger();
            let sample = ledger.hold(Extent { batch, height, width, channels });
            // Before it, host values and what they are put together from.
            ledger.pass(4 * ledger.bytes(sample));
            let context = self.engine.text_sizes.tokens * self.engine.text_sizes.widths.0;
            ledger.hold(Extent { batch, height: 1, width: 1, channels: context });
            let before = ledger.live();
            let y = self.engine.unet_config().play(
                sample,
                self.engine.text_sizes.tokens,
                prior,
                &mut ledger,
            );
            *scratch = (*scratch).max(ledger.scratch_bytes());
            (ledger.peak(), ledger.live() - before - ledger.bytes(y))
        };
        let (mut device, mut device_working) = (self.condition_bytes(), 0);
        let side = shape.region;
        match self.low_resolution {
            None => device_working = play(batch, side, side, PriorUse::None).0,
            Some((height, width)) => {
                let (pass, recorded) = play(pair, height, width, PriorUse::Record);
                // Recording counts what would have been kept of a region: its prior is as large.
                let (_, blended) = play(batch, side, side, PriorUse::Record);
                let (call, _) = play(batch, side, side, PriorUse::Blend);
                // With guidance the halves are put together from copies.
                let gathered = if self.guided { 2 * blended } else { blended };
                device += recorded;
                device_working = device_working
                    .max(pass.saturating_sub(recorded))
                    .max(gathered)
                    .max(blended + call);
            }
        }
        let latents = batch * side * side * shape.channels * size_of::<f32>();
        Needs { device, host: self.mapped_bytes() + 4 * latents, device_working, host_working: 0 }
    }

    fn decode(&self, tile: usize, scratch: &mut usize) -> Needs {
        let shape = self.engine.shape();
        let rim = match self.settings.colour_fix {
            super::ColourFix::Wavelet => colour_fix::RADIUS.div_ceil(shape.factor),
            super::ColourFix::None => 0,
        };
        let (core_height, height) = self.tile_side(self.canvas.latent_height, tile, rim);
        let (core_width, width) = self.tile_side(self.canvas.latent_width, tile, rim);
        let samples = self.samples();
        let sizes = [Some((1, height, width)), samples].into_iter().flatten();
        let peaks = sizes.map(|(batch, height, width)| {
            let mut ledger = self.vae_ledger();
            let z = Extent { batch, height, width, channels: shape.channels };
            self.engine.vae_config().play_decode(z, &mut ledger);
            *scratch = (*scratch).max(ledger.scratch_bytes());
            ledger.peak()
        });
        let device_working = peaks.max().unwrap_or(0);
        // The band of rows that is written next, in f32 and in the output's samples.
        let rows = core_height.saturating_sub(2 * rim) * shape.factor;
        let band = rows * self.canvas.width * (3 * size_of::<f32>() + 4);
        let pixels = |height, width| height * width * shape.factor.pow(2) * 3 * size_of::<f32>();
        Needs {
            device: self.condition_bytes(),
            host: self.mapped_bytes() + band,
            device_working,
            // The decoded tile, its copies on the way to the host, and the filter's planes.
            host_working: 2 * pixels(height, width) + 5 * pixels(core_height, core_width),
        }
    }

    /// The samples for the shared statistics of tiles: how many, and their sides.
    fn samples(&self) -> Option<(usize, usize, usize)> {
        let has_norms = self.engine.vae_context().is_none();
        has_norms.then_some((statistics::SAMPLES, statistics::SAMPLE, statistics::SAMPLE))
    }

    fn vae_ledger(&self) -> Ledger {
        Ledger::new(&self.engine.device, VAE_DTYPE)
    }

    fn unet_ledger(&self) -> Ledger {
        Ledger::new(&self.engine.device, self.engine.dtype)
    }
}
