//! Needs of the stages: the bytes that each takes. The blueprints of the model's parts are run on shapes, so that
//! what is counted is what will run.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use super::{
    geometry::Geometry,
    samples::{SAMPLE, SAMPLES},
    sampling::SamplingPlan,
    tiles::Span,
};
use crate::{
    backend::{Activation, Trace},
    caption::{CaptionBatch, CaptionMemory, CaptionRequest, Rect},
    model::{
        denoiser::{MicroConditioning, Prior},
        text::TextConditioning,
        vae::{NormStatistics, Norms},
    },
    pipeline::{
        colour_fix,
        error::Error,
        model::{Blueprints, Model, VAE_DTYPE},
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

impl Needs {
    /// The same with a pass that runs at another time than all others.
    fn add(&mut self, pass: &PassMemory) {
        self.device_working = self.device_working.max(pass.peak);
        self.scratch = self.scratch.max(pass.scratch);
    }
}

/// A pass through a part of the model, by what its memory follows from: batch, height and width in latent
/// pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pass {
    Encode((usize, usize, usize)),
    /// Encoding of samples whose statistics are measured.
    EncodeSamples((usize, usize, usize)),
    Decode((usize, usize, usize)),
    DecodeSamples((usize, usize, usize)),
    Denoise((usize, usize, usize)),
    /// Denoising that keeps what the attention prior is made of.
    Record((usize, usize, usize)),
    /// Denoising with such a prior, which counts as part of the pass.
    Blend((usize, usize, usize)),
}

/// The memory of a pass beside weights, in bytes.
#[derive(Clone, Debug, Default)]
struct PassMemory {
    /// The most at any moment.
    peak: usize,
    /// The buffer that every thread of the CPU keeps.
    scratch: usize,
    /// Bytes of what is recorded.
    recorded: usize,
}

/// A job before anything is chosen from what it takes of memory.
pub struct Draft<'a> {
    pub model: &'a Model,
    pub runner: &'a Runner,
    pub settings: &'a Settings,
    geometry: &'a Geometry,
    sampling: &'a SamplingPlan,
    /// The captioner's model, if the job asks one.
    captions: Option<Box<dyn CaptionMemory + 'a>>,
    /// The search asks for the same passes again and again.
    traced: RefCell<HashMap<Pass, PassMemory>>,
}

impl<'a> Draft<'a> {
    /// Of a job with these settings, sizes and steps.
    pub fn new(
        model: &'a Model,
        runner: &'a Runner,
        settings: &'a Settings,
        geometry: &'a Geometry,
        sampling: &'a SamplingPlan,
    ) -> Self {
        let request = request(settings, geometry);
        let captions = request.and_then(|request| settings.captioner.memory(&request));
        Self { model, runner, settings, geometry, sampling, captions, traced: RefCell::default() }
    }

    /// How captions may be made, the most at once first; nothing without a model that makes them.
    pub fn caption_batches(&self) -> Vec<CaptionBatch> {
        self.captions.as_ref().map_or_else(Vec::new, |captions| captions.batches())
    }

    /// A captioner's weights, what it needs, and what it keeps in host memory without them.
    ///
    /// # Errors
    /// Those of the captioner.
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
        let text = &self.model.blueprints.text;
        let texts = if self.settings.captions_differ() { self.geometry.grid.len() } else { 0 } + 2;
        let (context, pooled) = text.widths();
        let row = text.tokens() * context + pooled.unwrap_or(0);
        texts * row * self.runner.dtype().size_in_bytes()
    }

    /// Prompts and captions, through the text encoders.
    pub fn text(&self) -> Needs {
        let conditions = self.condition_bytes();
        Needs {
            host: self.model.blueprints.text.vocabulary() * VOCABULARY_ENTRY_BYTES,
            device: conditions,
            // They are put together from as many pieces.
            device_working: self.model.text_working + conditions,
            ..Needs::default()
        }
    }

    /// The largest tile's side in latent pixels, its core's and with what is computed around it.
    fn tile_side(&self, length: usize, tile: usize, rim: usize) -> (usize, usize) {
        let spans = self.geometry.tiles(length, tile);
        let most = |side: fn(&Span) -> usize| spans.iter().map(side).max().unwrap_or(1) + 2 * rim;
        (most(|span| span.core.len()), most(|span| span.padded().len()))
    }

    /// The picture, through the VAE's encoder, in tiles of so many image pixels.
    ///
    /// # Errors
    /// Those of the blueprint.
    pub fn encode(&self, tile: usize) -> Result<Needs, Error> {
        let Geometry { canvas, vae_padding, low_resolution, shape, .. } = self.geometry;
        let padded = |length| self.tile_side(length, tile, 0).1;
        let tile = (1, padded(canvas.latent_height), padded(canvas.latent_width));
        // The whole picture for the attention prior goes as one tile.
        let border = 2 * vae_padding.border;
        let whole = low_resolution.map(|(height, width)| (1, height + border, width + border));
        let samples = self.samples();
        let mut needs =
            Needs { device: self.condition_bytes(), host: self.canvas_bytes(), ..Needs::default() };
        for size in [Some(tile), whole, samples].into_iter().flatten() {
            let sampled = Some(size) == samples;
            let pass = if sampled { Pass::EncodeSamples(size) } else { Pass::Encode(size) };
            needs.add(&self.traced(pass)?);
            // The window before it is a tensor: what it is cut from, the resized rows, and itself.
            let pixels = size.0 * size.1 * size.2 * shape.factor.pow(2);
            needs.host_working = needs.host_working.max(3 * pixels * 3 * size_of::<f32>());
        }
        Ok(needs)
    }

    /// The canvas, through the denoiser, so many regions at a time.
    ///
    /// # Errors
    /// Those of the blueprint.
    pub fn denoise(&self, batch: usize) -> Result<Needs, Error> {
        let Geometry { grid, low_resolution, shape, .. } = self.geometry;
        let pair = if self.sampling.guidance.is_some() { 2 } else { 1 };
        let batch = pair * batch.min(grid.len());
        let side = shape.region;
        let mut needs = Needs { device: self.condition_bytes(), ..Needs::default() };
        match *low_resolution {
            None => needs.add(&self.traced(Pass::Denoise((batch, side, side)))?),
            Some((height, width)) => {
                let pass = self.traced(Pass::Record((pair, height, width)))?;
                // A region's prior is as large as what would be recorded of it.
                let prior = self.traced(Pass::Record((batch, side, side)))?.recorded;
                needs.add(&self.traced(Pass::Blend((batch, side, side)))?);
                needs.device += pass.recorded;
                needs.add(&PassMemory { peak: pass.peak.saturating_sub(pass.recorded), ..pass });
                // With guidance the halves are put together from copies.
                needs.device_working = needs.device_working.max(pair * prior);
            }
        }
        let latents = batch * side * side * shape.channels * size_of::<f32>();
        needs.host = self.mapped_bytes() + 4 * latents;
        Ok(needs)
    }

    /// The canvas, through the VAE's decoder, in tiles of so many image pixels.
    ///
    /// # Errors
    /// Those of the blueprint.
    pub fn decode(&self, tile: usize) -> Result<Needs, Error> {
        let Geometry { canvas, shape, .. } = self.geometry;
        let rim = match self.settings.colour_fix {
            ColourFix::Wavelet => colour_fix::RADIUS.div_ceil(shape.factor),
            ColourFix::None => 0,
        };
        let (core_height, height) = self.tile_side(canvas.latent_height, tile, rim);
        let (core_width, width) = self.tile_side(canvas.latent_width, tile, rim);
        // The band of rows that is written next, in f32 and in the output's samples.
        let rows = core_height.saturating_sub(2 * rim) * shape.factor;
        let band = rows * canvas.width * (3 * size_of::<f32>() + 4);
        let pixels = |height, width| height * width * shape.factor.pow(2) * 3 * size_of::<f32>();
        let mut needs = Needs {
            device: self.condition_bytes(),
            host: self.mapped_bytes() + band,
            // The decoded tile, its copies on the way to the host, and the filter's planes.
            host_working: 2 * pixels(height, width) + 5 * pixels(core_height, core_width),
            ..Needs::default()
        };
        needs.add(&self.traced(Pass::Decode((1, height, width)))?);
        if let Some(samples) = self.samples() {
            needs.add(&self.traced(Pass::DecodeSamples(samples))?);
        }
        Ok(needs)
    }

    /// The samples for the shared statistics of tiles: how many, and their sides.
    fn samples(&self) -> Option<(usize, usize, usize)> {
        self.geometry.shares_norms.then_some((SAMPLES, SAMPLE, SAMPLE))
    }

    /// The memory of a pass, traced the first time that it is asked for.
    fn traced(&self, pass: Pass) -> Result<PassMemory, Error> {
        if let Some(traced) = self.traced.borrow().get(&pass) {
            return Ok(traced.clone());
        }
        let trace = Trace::new(self.runner.device());
        let recorded = self.run(pass, &trace)?;
        let traced = PassMemory { peak: trace.peak(), scratch: trace.scratch_bytes(), recorded };
        self.traced.borrow_mut().insert(pass, traced.clone());
        Ok(traced)
    }

    /// Runs a pass on shapes; gives the bytes of what it records.
    fn run(&self, pass: Pass, trace: &Trace) -> Result<usize, Error> {
        let Blueprints { vae, .. } = &*self.model.blueprints;
        let shape = self.geometry.shape;
        let pixels = |(batch, height, width): (usize, usize, usize)| {
            let (height, width) = (height * shape.factor, width * shape.factor);
            trace.activation((batch, height, width, 3), VAE_DTYPE)
        };
        let latents = |(batch, height, width): (usize, usize, usize)| {
            trace.activation((batch, height, width, shape.channels), VAE_DTYPE)
        };
        let mut statistics = NormStatistics::default();
        match pass {
            Pass::Encode(size) => drop(vae.encode_with(&pixels(size), Norms::Own)?),
            Pass::EncodeSamples(size) => {
                drop(vae.encode_with(&pixels(size), Norms::Measured(&mut statistics))?);
            }
            Pass::Decode(size) => drop(vae.decode_with(&latents(size), Norms::Own)?),
            Pass::DecodeSamples(size) => {
                drop(vae.decode_with(&latents(size), Norms::Measured(&mut statistics))?);
            }
            Pass::Denoise(size) => self.call(size, Prior::None, trace)?,
            Pass::Record(size) => {
                let mut layers = Vec::new();
                self.call(size, Prior::Record(&mut layers), trace)?;
                return Ok(layers.iter().map(Activation::bytes).sum());
            }
            Pass::Blend(size) => {
                let mut recorded = Vec::new();
                let other = Trace::new(self.runner.device());
                self.call(size, Prior::Record(&mut recorded), &other)?;
                let layers: Vec<_> = (recorded.iter())
                    .map(|layer| trace.activation(layer.shape(), layer.dtype()))
                    .collect();
                self.call(size, Prior::Blend { layers: &layers, weight: 0.5 }, trace)?;
            }
        }
        Ok(0)
    }

    /// One call of the denoiser on shapes.
    fn call(
        &self,
        (batch, height, width): (usize, usize, usize),
        prior: Prior<'_>,
        trace: &Trace,
    ) -> Result<(), Error> {
        let Blueprints { denoiser, text, .. } = &*self.model.blueprints;
        let (shape, dtype) = (self.geometry.shape, self.runner.dtype());
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        let sample = trace.activation((batch, height, width, channels), dtype);
        // Before it, host values and what they are put together from.
        trace.pass(4 * sample.bytes());
        let (context, pooled) = text.widths();
        let texts = TextConditioning {
            context: trace.activation((batch, text.tokens(), context), dtype),
            pooled: pooled.map(|width| trace.activation((batch, width), dtype)),
        };
        let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
        let conditioning = denoiser.condition(&texts, nothing)?;
        denoiser.forward(&sample, 0.0, &conditioning, prior)?;
        Ok(())
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
