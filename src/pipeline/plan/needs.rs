//! Needs of the stages: the bytes that each takes, from the blueprints of the model's parts and the geometry of the
//! job.

use std::collections::BTreeMap;

use super::{
    geometry::Geometry,
    samples::{SAMPLE, SAMPLES},
    sampling::Sampling,
    tiles::Span,
};
use crate::{
    backend::ops::memory::{Extent, Ledger},
    caption::{CaptionBatch, CaptionMemory, CaptionRequest, Rect},
    model::unet::PriorUse,
    pipeline::{
        colour_fix,
        model::{Model, VAE_DTYPE},
        runner::{Compute as _, Runner},
        settings::{ColourFix, Settings},
    },
    weights::Footprint,
};

/// Bytes that a tokenizer takes for an entry of its vocabulary: two tables of strings, merges and a trie.
const VOCABULARY_ENTRY_BYTES: usize = 800;

/// Bytes that a stage takes on either side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Weights and tensors that stay.
    pub device: usize,
    /// The same in host memory.
    pub host: usize,
    /// Tensors that come and go.
    pub device_working: usize,
    /// The same in host memory.
    pub host_working: usize,
    /// The buffer that every thread of the CPU keeps once it has needed it.
    pub scratch: usize,
}

/// A job before anything is chosen from what it takes of memory.
pub struct Draft<'a> {
    pub model: &'a Model,
    pub runner: &'a Runner,
    pub settings: &'a Settings,
    geometry: &'a Geometry,
    sampling: &'a Sampling,
    /// The captioner's model, if the job asks one.
    captions: Option<Box<dyn CaptionMemory + 'a>>,
}

impl<'a> Draft<'a> {
    /// Of a job with these settings, sizes and steps.
    pub fn new(
        model: &'a Model,
        runner: &'a Runner,
        settings: &'a Settings,
        geometry: &'a Geometry,
        sampling: &'a Sampling,
    ) -> Self {
        let request = request(settings, geometry);
        let captions = request.and_then(|request| settings.captioner.memory(&request));
        Self { model, runner, settings, geometry, sampling, captions }
    }

    /// How captions may be made, the most at once first; nothing without a model that makes them.
    pub fn caption_batches(&self) -> Vec<CaptionBatch> {
        self.captions.as_ref().map_or_else(Vec::new, |captions| captions.batches())
    }

    /// A captioner's weights, what it needs, and what it keeps in host memory without them.
    pub fn caption(&self, batch: CaptionBatch) -> Option<(Footprint, Needs, usize)> {
        let captions = self.captions.as_ref()?;
        let needs = captions.needs(batch);
        let needs = Needs {
            host: self.model.text_sizes.vocabulary * VOCABULARY_ENTRY_BYTES,
            device_working: needs.device_working,
            host_working: needs.host_working,
            scratch: needs.scratch,
            ..Needs::default()
        };
        Some((captions.footprint(), needs, captions.vocabulary() * VOCABULARY_ENTRY_BYTES))
    }

    /// The input as it is held from beginning to end.
    pub fn picture_bytes(&self) -> usize {
        self.geometry.input.0 as usize * self.geometry.input.1 as usize * 4 * size_of::<f32>()
    }

    /// A mapped latent of the canvas's size.
    fn canvas_bytes(&self) -> usize {
        let pixels = self.geometry.canvas.latent_height * self.geometry.canvas.latent_width;
        pixels * self.geometry.shape.channels * size_of::<f32>()
    }

    /// All mapped files of a job that is past its first steps: zL, z before and after, what earlier steps kept,
    /// and the predictions.
    fn mapped_bytes(&self) -> usize {
        let shape = self.geometry.shape;
        let predictions = self.geometry.grid.len() * shape.region * shape.region * shape.channels;
        (3 + self.sampling.history()) * self.canvas_bytes() + predictions * size_of::<f32>()
    }

    /// The conditions of all regions, which may all differ, of the prompt and of the negative one.
    fn condition_bytes(&self) -> usize {
        let sizes = self.model.text_sizes;
        let texts = if self.settings.captions_differ() { self.geometry.grid.len() } else { 0 } + 2;
        let (context, pooled) = sizes.widths;
        texts * (sizes.tokens * context + pooled) * self.runner.dtype().size_in_bytes()
    }

    pub fn text(&self) -> Needs {
        let sizes = self.model.text_sizes;
        let conditions = self.condition_bytes();
        Needs {
            host: sizes.vocabulary * VOCABULARY_ENTRY_BYTES,
            device: conditions,
            // They are put together from as many pieces.
            device_working: sizes.working_bytes + conditions,
            host_working: 0,
            scratch: 0,
        }
    }

    /// The largest tile's side in latent pixels, its core's and with what is computed around it.
    fn tile_side(&self, length: usize, tile: usize, rim: usize) -> (usize, usize) {
        let spans = self.geometry.tiles(length, tile);
        let most = |side: fn(&Span) -> usize| spans.iter().map(side).max().unwrap_or(1) + 2 * rim;
        (most(|span| span.core.len()), most(|span| span.padded().len()))
    }

    pub fn encode(&self, tile: usize) -> Needs {
        let shape = self.geometry.shape;
        let mut scratch = 0;
        let padded = |length| self.tile_side(length, tile, 0).1;
        let (height, width) =
            (padded(self.geometry.canvas.latent_height), padded(self.geometry.canvas.latent_width));
        // The whole picture for the attention prior goes as one tile.
        let whole = self.geometry.low_resolution.map(|sides| {
            (
                1,
                sides.0 + 2 * self.geometry.vae_padding.border,
                sides.1 + 2 * self.geometry.vae_padding.border,
            )
        });
        let samples = self.samples();
        let sizes = [Some((1, height, width)), whole, samples].into_iter().flatten();
        let peaks = sizes.map(|(batch, height, width)| {
            let (height, width) = (height * shape.factor, width * shape.factor);
            let image = Extent { batch, height, width, channels: 3 };
            let mut ledger = self.vae_ledger();
            self.model.vae_config().play_encode(image, &mut ledger);
            scratch = scratch.max(ledger.scratch_bytes());
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
            scratch,
        }
    }

    pub fn denoise(&self, batch: usize) -> Needs {
        let shape = self.geometry.shape;
        let mut scratch = 0;
        let pair = if self.sampling.guidance.is_some() { 2 } else { 1 };
        let batch = pair * batch.min(self.geometry.grid.len());
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        let mut play = |batch, height, width, prior| {
            let mut ledger = self.denoiser_ledger();
            let sample = ledger.hold(Extent { batch, height, width, channels });
            // Before it, host values and what they are put together from.
            ledger.pass(4 * ledger.bytes(sample));
            let context = self.model.text_sizes.tokens * self.model.text_sizes.widths.0;
            ledger.hold(Extent { batch, height: 1, width: 1, channels: context });
            let before = ledger.live();
            let y = self.model.unet_config().play(
                sample,
                self.model.text_sizes.tokens,
                prior,
                &mut ledger,
            );
            scratch = scratch.max(ledger.scratch_bytes());
            (ledger.peak(), ledger.live() - before - ledger.bytes(y))
        };
        let (mut device, mut device_working) = (self.condition_bytes(), 0);
        let side = shape.region;
        match self.geometry.low_resolution {
            None => device_working = play(batch, side, side, PriorUse::None).0,
            Some((height, width)) => {
                let (pass, recorded) = play(pair, height, width, PriorUse::Record);
                // Recording counts what would have been kept of a region: its prior is as large.
                let (_, blended) = play(batch, side, side, PriorUse::Record);
                let (call, _) = play(batch, side, side, PriorUse::Blend);
                // With guidance the halves are put together from copies.
                let gathered = if self.sampling.guidance.is_some() { 2 * blended } else { blended };
                device += recorded;
                device_working = device_working
                    .max(pass.saturating_sub(recorded))
                    .max(gathered)
                    .max(blended + call);
            }
        }
        let latents = batch * side * side * shape.channels * size_of::<f32>();
        Needs {
            device,
            host: self.mapped_bytes() + 4 * latents,
            device_working,
            host_working: 0,
            scratch,
        }
    }

    pub fn decode(&self, tile: usize) -> Needs {
        let shape = self.geometry.shape;
        let mut scratch = 0;
        let rim = match self.settings.colour_fix {
            ColourFix::Wavelet => colour_fix::RADIUS.div_ceil(shape.factor),
            ColourFix::None => 0,
        };
        let (core_height, height) = self.tile_side(self.geometry.canvas.latent_height, tile, rim);
        let (core_width, width) = self.tile_side(self.geometry.canvas.latent_width, tile, rim);
        let samples = self.samples();
        let sizes = [Some((1, height, width)), samples].into_iter().flatten();
        let peaks = sizes.map(|(batch, height, width)| {
            let mut ledger = self.vae_ledger();
            let z = Extent { batch, height, width, channels: shape.channels };
            self.model.vae_config().play_decode(z, &mut ledger);
            scratch = scratch.max(ledger.scratch_bytes());
            ledger.peak()
        });
        let device_working = peaks.max().unwrap_or(0);
        // The band of rows that is written next, in f32 and in the output's samples.
        let rows = core_height.saturating_sub(2 * rim) * shape.factor;
        let band = rows * self.geometry.canvas.width * (3 * size_of::<f32>() + 4);
        let pixels = |height, width| height * width * shape.factor.pow(2) * 3 * size_of::<f32>();
        Needs {
            device: self.condition_bytes(),
            host: self.mapped_bytes() + band,
            device_working,
            // The decoded tile, its copies on the way to the host, and the filter's planes.
            host_working: 2 * pixels(height, width) + 5 * pixels(core_height, core_width),
            scratch,
        }
    }

    /// The samples for the shared statistics of tiles: how many, and their sides.
    fn samples(&self) -> Option<(usize, usize, usize)> {
        self.geometry.shares_norms.then_some((SAMPLES, SAMPLE, SAMPLE))
    }

    fn vae_ledger(&self) -> Ledger {
        Ledger::new(self.runner.device(), VAE_DTYPE)
    }

    fn denoiser_ledger(&self) -> Ledger {
        Ledger::new(self.runner.device(), self.runner.dtype())
    }
}

/// The work that a job brings to its captioner; `None` if it does not ask one.
fn request<'a>(settings: &'a Settings, geometry: &Geometry) -> Option<CaptionRequest<'a>> {
    if !settings.asks_captioner() {
        return None;
    }
    let mut regions = BTreeMap::new();
    for region in geometry.grid.regions() {
        let Rect { width, height, .. } = geometry.pixels_of(&region);
        *regions.entry((width as usize, height as usize)).or_insert(0) += 1;
    }
    let whole = settings.prompt.is_empty().then(|| {
        let (width, height) = geometry.shown_whole();
        (width as usize, height as usize)
    });
    Some(CaptionRequest { prompt: &settings.prompt, regions, whole })
}
