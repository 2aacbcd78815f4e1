//! Memory needs of the stages in bytes, from memory traces: the blueprints of the model's parts run on shapes alone,
//! through the same code as the job.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    first::FirstDraft,
    geometry::Geometry,
    mask::MaskPlan,
    pass::{Pass, PassMemory, Tile, WholeCanvas},
    preview::PreviewScale,
    regions::{self, StepRegions, captioned},
    samples::{Sample, samples},
    sampling::SamplingPlan,
    tiles::{Span, largest_area},
    vae_tiling::VaeTiling,
};
use crate::{
    backend::Trace,
    caption::{CaptionBatch, CaptionMemory, CaptionRequest, Rect, wording::CaptionLength},
    model::{text::PromptSyntax, vae::LayerwiseSize},
    pipeline::{
        engine::Engine,
        error::Error,
        finish::Finish,
        mask::Mask,
        model::Model,
        queue::TURNS,
        runner::{Compute as _, Runner},
        settings::Settings,
        text_states::TextStates,
    },
    weights::Footprint,
};

/// Bytes of a tokenizer per vocabulary entry: two tables of strings, merges and a trie.
const VOCABULARY_ENTRY_BYTES: usize = 800;

/// Bytes of a stage in device and host memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Resident weights and tensors in device memory.
    pub device: usize,
    /// Resident data in host memory.
    pub host: usize,
    /// Peak of temporary tensors in device memory.
    pub device_working: usize,
    /// Peak of temporaries in host memory.
    pub host_working: usize,
    /// Scratch buffer that every CPU thread keeps after its first use.
    pub scratch: usize,
}

impl Needs {
    /// Adds a pass that does not overlap with the others.
    pub(super) fn add(&mut self, pass: &PassMemory) {
        self.device_working = self.device_working.max(pass.peak);
        self.scratch = self.scratch.max(pass.scratch);
        self.host_working = self.host_working.max(pass.host);
    }
}

/// A job before the choices that depend on its memory.
pub struct Draft<'a> {
    pub engine: &'a Engine,
    pub model: &'a Model,
    /// The first device's; the others' memory is the same.
    pub runner: &'a Runner,
    pub settings: &'a Settings,
    pub geometry: &'a Geometry,
    pub vae_tiling: VaeTiling,
    /// The most chunks of a text.
    pub(super) text_chunks: usize,
    pub(super) sampling: &'a SamplingPlan,
    pub(super) regions: &'a [Arc<StepRegions>],
    pub(super) mask: Option<&'a MaskPlan>,
    /// The first enlarger, if it is a network.
    pub(super) first: Option<&'a FirstDraft>,
    /// The captioner's model, if the job asks one.
    captions: Option<Box<dyn CaptionMemory + 'a>>,
    /// Cache of traced passes; the search repeats them.
    pub(super) traced: RefCell<HashMap<Pass, PassMemory>>,
}

impl<'a> Draft<'a> {
    /// Draft of a job with these settings, sizes and steps, and the regions that a mask leaves of them.
    pub fn new(
        engine: &'a Engine,
        settings: &'a Settings,
        (geometry, vae_tiling, text_chunks): (&'a Geometry, VaeTiling, usize),
        (sampling, regions, mask): (&'a SamplingPlan, &'a [Arc<StepRegions>], Option<&'a MaskPlan>),
        first: Option<&'a FirstDraft>,
    ) -> Self {
        let length = CaptionLength::of_room(engine.model.blueprints.text.tokenizers().room());
        let request =
            request(settings, geometry, regions).map(|it| CaptionRequest { length, ..it });
        let captions = request.and_then(|request| settings.captioner.memory(&request));
        let Engine { model, runner, .. } = engine;
        let traced = RefCell::default();
        Self {
            engine,
            model,
            runner,
            settings,
            geometry,
            vae_tiling,
            text_chunks,
            sampling,
            regions,
            mask,
            first,
            captions,
            traced,
        }
    }

    /// Possible caption batches, largest first; empty without a captioner's model.
    pub fn caption_batches(&self) -> Vec<CaptionBatch> {
        self.captions.as_ref().map_or_else(Vec::new, |captions| captions.batches())
    }

    /// Footprint and needs of the captioner, and its host memory after unloading.
    ///
    /// # Errors
    /// Errors of the captioner.
    pub fn caption(&self, batch: CaptionBatch) -> Result<Option<(Footprint, Needs, usize)>, Error> {
        let Some(captions) = &self.captions else { return Ok(None) };
        let needs = captions.needs(batch)?;
        let needs = Needs {
            host: self.model.blueprints.text.vocabulary() * VOCABULARY_ENTRY_BYTES,
            device_working: needs.device_working,
            host_working: needs.host_working,
            scratch: needs.scratch,
            ..Needs::default()
        };
        Ok(Some((captions.footprint(), needs, captions.vocabulary() * VOCABULARY_ENTRY_BYTES)))
    }

    /// Bytes of the input picture, of the mask, and of controls' own pictures, held for the whole job.
    pub fn picture_bytes(&self) -> usize {
        let mask = self.settings.mask.as_ref().map_or(0, Mask::memory_bytes);
        let own = self.settings.controls.iter().filter_map(|of| of.picture.as_ref());
        let own: u64 = own.map(|own| own.picture.shape().memory_bytes()).sum();
        (self.geometry.input.memory_bytes() + mask + own) as usize
    }

    /// Bytes that reading the picture takes besides.
    pub fn reading_bytes(&self) -> usize {
        self.geometry.input.reading_bytes() as usize
    }

    /// Bytes of a mapped latent of the canvas's size.
    fn canvas_bytes(&self) -> usize {
        let pixels = self.geometry.canvas.latent_height * self.geometry.canvas.latent_width;
        pixels * self.geometry.shape.channels * size_of::<f32>()
    }

    /// Bytes of all mapped files of a job: zL, z before and after a step, the sampler's history, the
    /// predictions, and a mask's cells.
    fn mapped_bytes(&self) -> usize {
        let Geometry { grid, shape, .. } = self.geometry;
        let (height, width) = grid.region_size();
        let predictions = self.most_regions() * height * width * shape.channels;
        let cells = self.mask.map_or(0, |mask| mask.cells.as_slice().len());
        (3 + self.sampling.history()) * self.canvas_bytes()
            + (predictions + cells) * size_of::<f32>()
    }

    /// Regions of a step, the most of any.
    pub(super) fn most_regions(&self) -> usize {
        regions::most(self.regions).max(1)
    }

    /// Bytes of the job's previews.
    fn preview_bytes(&self) -> usize {
        PreviewScale::new(self.geometry).bytes(self.geometry.shape.channels)
    }

    /// The most finished batches or tiles that wait for their turn: none on a single device.
    fn waiting(&self) -> usize {
        match self.engine.runners().count() {
            1 => 0,
            runners => TURNS * runners - 1,
        }
    }

    /// Bytes of the conditions of all regions (which may all differ), the prompt and the negative prompt.
    fn condition_bytes(&self) -> usize {
        let text = &self.model.blueprints.text;
        let texts = if self.settings.captions_differ() { self.geometry.grid.len() } else { 0 } + 2;
        let (context, pooled) = text.widths();
        let row = text.tokens_of(self.text_chunks) * context + pooled.unwrap_or(0);
        texts * row * self.runner.dtype().size_in_bytes()
    }

    /// Bytes of the states of texts that are kept over jobs.
    pub fn text_states_bytes(&self) -> usize {
        if self.model.blueprints.text.is_dear() { TextStates::BYTES } else { 0 }
    }

    /// Working memory of encoding one prompt in bytes, without weights.
    ///
    /// # Errors
    /// Errors of the backend.
    fn text_working(&self) -> Result<usize, Error> {
        if self.settings.prompt_syntax == PromptSyntax::Plain {
            return Ok(self.model.text_working);
        }
        let trace = Trace::new(self.runner.device());
        drop(self.model.blueprints.text.trace_prompts(1, (self.text_chunks, true), &trace)?);
        Ok(trace.peak())
    }

    /// Needs of encoding prompts and captions.
    ///
    /// # Errors
    /// Errors of the backend.
    pub fn text(&self) -> Result<Needs, Error> {
        let conditions = self.condition_bytes();
        Ok(Needs {
            host: self.model.blueprints.text.vocabulary() * VOCABULARY_ENTRY_BYTES,
            device: conditions,
            // Concatenated from parts of the same total size.
            device_working: self.text_working()? + conditions,
            ..Needs::default()
        })
    }

    /// The tiles of a canvas of `size`, height and width in latent pixels, with cores of `tile` image pixels: the
    /// largest, and the largest core; each with `rim` on both sides.
    pub(super) fn tile(
        &self,
        size: (usize, usize),
        tile: usize,
        rim: usize,
    ) -> (Tile, (usize, usize)) {
        let spans = |length| self.geometry.tiles(length, tile);
        let most = |spans: &[Span], side: fn(&Span) -> usize| {
            spans.iter().map(|span| side(&span.with_rim(rim))).max().unwrap_or(1)
        };
        let (rows, columns) = (spans(size.0), spans(size.1));
        let both = |side: fn(&Span) -> usize| (most(&rows, side), most(&columns, side));
        let whole = match self.vae_tiling {
            // A tile that is the whole is computed by itself.
            _ if rows.len() * columns.len() == 1 => WholeCanvas::Nothing,
            VaeTiling::Independent => WholeCanvas::Nothing,
            VaeTiling::Layerwise { .. } => {
                let sides = rows.iter().chain(&columns).map(|span| span.core.len());
                let block = sides.max().unwrap_or(1);
                WholeCanvas::Layers(LayerwiseSize { latents: size, block })
            }
            VaeTiling::Sampled => {
                let samples = samples(size, largest_area(&rows, &columns), 1);
                let side = |one: &Sample| (samples.len(), one.y.len(), one.x.len());
                WholeCanvas::Samples(samples.first().map_or((0, 0, 0), side))
            }
        };
        let core = both(|span| span.core.len());
        let size = match whole {
            WholeCanvas::Layers(_) => core,
            WholeCanvas::Nothing | WholeCanvas::Samples(_) => both(|span| span.padded().len()),
        };
        (Tile { size, whole }, core)
    }

    /// Needs of encoding the picture in tiles with a core of `tile` image pixels.
    ///
    /// # Errors
    /// Errors of the blueprint.
    pub fn encode(&self, tile: usize) -> Result<Needs, Error> {
        let Geometry { canvas, low_resolution, shape, generated, .. } = self.geometry;
        if *generated {
            return Ok(Needs { device: self.condition_bytes(), ..Needs::default() });
        }
        let (tile, _) = self.tile((canvas.latent_height, canvas.latent_width), tile, 0);
        // The whole picture at native size, for the attention prior, is one tile.
        let whole = low_resolution.map(|size| Tile { size, whole: WholeCanvas::Nothing });
        let encoded = tile.size.0 * tile.size.1 * shape.channels * size_of::<f32>();
        let mut needs = Needs {
            device: self.condition_bytes(),
            host: self.canvas_bytes() + self.waiting() * encoded,
            ..Needs::default()
        };
        for tile in [Some(tile), whole].into_iter().flatten() {
            needs.add(&self.traced(Pass::Encode(tile))?);
            // Before windows are a tensor: their source, the resized rows, and the windows themselves.
            let (count, height, width) = match tile.whole {
                WholeCanvas::Samples(samples) => samples,
                WholeCanvas::Nothing | WholeCanvas::Layers(_) => (0, 0, 0),
            };
            let latents = (count * height * width).max(tile.size.0 * tile.size.1);
            let pixels = latents * shape.factor.pow(2);
            needs.host_working = needs.host_working.max(3 * pixels * 3 * size_of::<f32>());
        }
        Ok(needs)
    }

    /// Needs of denoising the canvas in batches of `batch` regions.
    ///
    /// # Errors
    /// Errors of the blueprint.
    pub fn denoise(&self, batch: usize) -> Result<Needs, Error> {
        let Geometry { grid, low_resolution, shape, .. } = self.geometry;
        let pair = if self.sampling.guidance.is_some() { 2 } else { 1 };
        let regions = batch.min(self.most_regions());
        let batch = pair * regions;
        let (height, width) = grid.region_size();
        let size = (batch, height, width);
        let mut needs = Needs { device: self.condition_bytes(), ..Needs::default() };
        match *low_resolution {
            None => needs.add(&self.traced(Pass::Denoise(size))?),
            Some((low_height, low_width)) => {
                let pass = self.traced(Pass::Record((pair, low_height, low_width)))?;
                // A region's prior has the size of a recording at the region's size.
                let prior = self.traced(Pass::Record(size))?.recorded;
                needs.add(&self.traced(Pass::Blend(size))?);
                needs.device += pass.recorded;
                needs.add(&PassMemory { peak: pass.peak.saturating_sub(pass.recorded), ..pass });
                // Guidance concatenates copies of both halves.
                needs.device_working = needs.device_working.max(pair * prior);
            }
        }
        let latents = batch * height * width * shape.channels * size_of::<f32>();
        needs.host = self.mapped_bytes()
            + (4 + self.waiting()) * latents
            + self.preview_bytes()
            + self.control_bytes(regions);
        Ok(needs)
    }

    /// Latent pixels around a tile that finishing needs to see.
    pub(super) fn rim(&self) -> usize {
        Finish::new(self.settings, self.geometry).tile_rim().div_ceil(self.geometry.shape.factor)
    }

    /// Needs of decoding the canvas in tiles with a core of `side` image pixels.
    ///
    /// # Errors
    /// Errors of the blueprint.
    pub fn decode(&self, side: usize) -> Result<Needs, Error> {
        let Geometry { canvas, shape, .. } = self.geometry;
        let rim = self.rim();
        let canvas_size = (canvas.latent_height, canvas.latent_width);
        let (tile, (core_height, core_width)) = self.tile(canvas_size, side, rim);
        // The current band of rows, in f32 and in the output's samples.
        let (_, (core_rows, _)) = self.tile(canvas_size, side, 0);
        let rows = core_rows * shape.factor;
        let mut band = rows * canvas.width * (3 * size_of::<f32>() + 4);
        let finish = Finish::new(self.settings, self.geometry);
        if finish.needs_whole() {
            band = band.max(finish.band_bytes(canvas.width));
        }
        let pixels = |height, width| height * width * shape.factor.pow(2) * 3 * size_of::<f32>();
        let in_pixels = (core_height * shape.factor, core_width * shape.factor);
        let mask = self.settings.mask.as_ref().map_or(0, |mask| mask.window_bytes(in_pixels));
        let mut needs = Needs {
            device: self.condition_bytes(),
            host: self.mapped_bytes()
                + band
                + self.waiting() * pixels(core_height, core_width)
                + self.preview_bytes(),
            // The decoded tile, its copies on the way to the host, and the filter's planes.
            host_working: 2 * pixels(tile.size.0, tile.size.1)
                + 6 * pixels(core_height, core_width)
                + mask,
            ..Needs::default()
        };
        needs.add(&self.traced(Pass::Decode(tile))?);
        Ok(needs)
    }
}

/// The job's request to its captioner; `None` without one.
fn request<'a>(
    settings: &'a Settings,
    geometry: &Geometry,
    steps: &[Arc<StepRegions>],
) -> Option<CaptionRequest<'a>> {
    if !settings.asks_captioner() {
        return None;
    }
    let mut regions = BTreeMap::new();
    for region in captioned(steps).into_iter().filter_map(|index| geometry.grid.region(index)) {
        let Rect { width, height, .. } = geometry.pixels_of(&region);
        *regions.entry((width as usize, height as usize)).or_insert(0) += 1;
    }
    let whole = settings.prompt.is_empty().then(|| {
        let (width, height) = geometry.shown_whole();
        (width as usize, height as usize)
    });
    let length = CaptionLength::default();
    Some(CaptionRequest { prompt: &settings.prompt, regions, whole, length })
}
