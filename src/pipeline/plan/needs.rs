//! Needs of the stages: the bytes that each takes, from the blueprints of the model's parts and the geometry of the
//! job.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use candle_core::DType;

use super::{
    geometry::Geometry,
    samples::{SAMPLE, SAMPLES},
    sampling::Sampling,
    tiles::Span,
};
use crate::{
    backend::{Activation, Trace},
    caption::{CaptionBatch, CaptionMemory, CaptionRequest, Rect},
    model::{
        denoiser::{MicroConditioning, Prior},
        text::TextConditioning,
        vae::Norms,
    },
    pipeline::{
        colour_fix,
        error::Error,
        model::Model,
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
    /// What was traced before, by stage and by batch or tile: a search asks again and again.
    traced: RefCell<HashMap<(Traced, usize), Needs>>,
}

/// A stage whose needs follow from one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Traced {
    /// By the tile's side.
    Encode,
    /// By the batch.
    Denoise,
    /// By the tile's side.
    Decode,
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
        Self { model, runner, settings, geometry, sampling, captions, traced: RefCell::default() }
    }

    /// How captions may be made, the most at once first; nothing without a model that makes them.
    pub fn caption_batches(&self) -> Vec<CaptionBatch> {
        self.captions.as_ref().map_or_else(Vec::new, |captions| captions.batches())
    }

    /// A captioner's weights, what it needs, and what it keeps in host memory without them.
    ///
    /// # Errors
    /// Those of tracing it.
    pub fn caption(&self, batch: CaptionBatch) -> Result<Option<(Footprint, Needs, usize)>, Error> {
        let Some(captions) = self.captions.as_ref() else { return Ok(None) };
        let needs = captions.needs(batch)?;
        let needs = Needs {
            host: self.model.text_sizes.vocabulary * VOCABULARY_ENTRY_BYTES,
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
        let sizes = self.model.text_sizes;
        let texts = if self.settings.captions_differ() { self.geometry.grid.len() } else { 0 } + 2;
        let (context, pooled) = sizes.widths;
        texts * (sizes.tokens * context + pooled) * self.runner.dtype().size_in_bytes()
    }

    /// What `trace` gives, or gave, for a stage and its number.
    fn once(
        &self,
        stage: Traced,
        number: usize,
        trace: impl FnOnce() -> Result<Needs, Error>,
    ) -> Result<Needs, Error> {
        if let Some(&needs) = self.traced.borrow().get(&(stage, number)) {
            return Ok(needs);
        }
        let needs = trace()?;
        self.traced.borrow_mut().insert((stage, number), needs);
        Ok(needs)
    }

    /// Encoding the texts.
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

    /// Encoding the picture in tiles of this side.
    ///
    /// # Errors
    /// Those of tracing it.
    pub fn encode(&self, tile: usize) -> Result<Needs, Error> {
        self.once(Traced::Encode, tile, || self.trace_encode(tile))
    }

    fn trace_encode(&self, tile: usize) -> Result<Needs, Error> {
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
        let (mut device_working, mut host_working) = (0, 0);
        for (batch, height, width) in sizes {
            let trace = Trace::new(self.runner.device());
            let sides = (batch, height * shape.factor, width * shape.factor, 3);
            let image = trace.activation(sides, DType::F32);
            let _latent = self.model.vae.encode_with(&image, Norms::Own)?;
            scratch = scratch.max(trace.scratch_bytes());
            device_working = device_working.max(trace.peak());
            // The window before it is a tensor: what it is cut from, the resized rows, and itself.
            host_working = host_working.max(3 * image.bytes());
        }
        Ok(Needs {
            device: self.condition_bytes(),
            host: self.canvas_bytes(),
            device_working,
            host_working,
            scratch,
        })
    }

    /// Denoising so many regions at a time.
    ///
    /// # Errors
    /// Those of tracing it.
    pub fn denoise(&self, batch: usize) -> Result<Needs, Error> {
        self.once(Traced::Denoise, batch, || self.trace_denoise(batch))
    }

    fn trace_denoise(&self, batch: usize) -> Result<Needs, Error> {
        let shape = self.geometry.shape;
        let pair = if self.sampling.guidance.is_some() { 2 } else { 1 };
        let batch = pair * batch.min(self.geometry.grid.len());
        let side = shape.region;
        let new_trace = || Trace::new(self.runner.device());
        let pass = new_trace();
        let (mut device, mut working, mut scratch) = (self.condition_bytes(), 0, 0);
        if let Some((height, width)) = self.geometry.low_resolution {
            let mut recorded = Vec::new();
            self.trace_call(&pass, (pair, height, width), Prior::Record(&mut recorded))?;
            let kept: usize = recorded.iter().map(Activation::bytes).sum();
            device += kept;
            (working, scratch) = (pass.peak() - kept, pass.scratch_bytes());
        }
        let call = new_trace();
        let layers = if self.geometry.low_resolution.is_some() {
            self.trace_prior(&call, (batch, side, side))?
        } else {
            Vec::new()
        };
        let prior = match &layers[..] {
            [] => Prior::None,
            layers => Prior::Blend { layers, weight: self.settings.rap },
        };
        if pair == 2 {
            // With guidance the halves are put together from copies.
            call.pass(call.live());
        }
        self.trace_call(&call, (batch, side, side), prior)?;
        working = working.max(call.peak());
        scratch = scratch.max(call.scratch_bytes());
        let latents = batch * side * side * shape.channels * size_of::<f32>();
        Ok(Needs {
            device,
            host: self.mapped_bytes() + 4 * latents,
            device_working: working,
            host_working: 0,
            scratch,
        })
    }

    /// The prior of so many regions of this height and width: as much as is recorded of them.
    fn trace_prior(
        &self,
        trace: &Trace,
        sizes: (usize, usize, usize),
    ) -> Result<Vec<Activation>, Error> {
        let mut recorded = Vec::new();
        let aside = Trace::new(self.runner.device());
        self.trace_call(&aside, sizes, Prior::Record(&mut recorded))?;
        let held = |layer: &Activation| trace.activation(layer.shape(), layer.dtype());
        Ok(recorded.iter().map(held).collect())
    }

    /// One call of the denoiser with so many samples of this height and width.
    fn trace_call(
        &self,
        trace: &Trace,
        (batch, height, width): (usize, usize, usize),
        prior: Prior<'_>,
    ) -> Result<(), Error> {
        let (shape, dtype) = (self.geometry.shape, self.runner.dtype());
        let (tokens, (context, pooled)) =
            (self.model.text_sizes.tokens, self.model.text_sizes.widths);
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        let sample = trace.activation((batch, height, width, channels), dtype);
        // Before it, host values and what they are put together from.
        trace.pass(4 * sample.bytes());
        let text = TextConditioning {
            context: trace.activation((batch, tokens, context), dtype),
            pooled: (pooled > 0).then(|| trace.activation((batch, pooled), dtype)),
        };
        // Whatever the numbers, they are as many.
        let micro = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
        let conditions = self.model.denoiser.condition(&text, micro)?;
        self.model.denoiser.forward(&sample, 0.0, &conditions, prior)?;
        Ok(())
    }

    /// Decoding the canvas in tiles of this side.
    ///
    /// # Errors
    /// Those of tracing it.
    pub fn decode(&self, tile: usize) -> Result<Needs, Error> {
        self.once(Traced::Decode, tile, || self.trace_decode(tile))
    }

    fn trace_decode(&self, tile: usize) -> Result<Needs, Error> {
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
        let mut device_working = 0;
        for (batch, height, width) in sizes {
            let trace = Trace::new(self.runner.device());
            let latents = trace.activation((batch, height, width, shape.channels), DType::F32);
            let _picture = self.model.vae.decode_with(&latents, Norms::Own)?;
            scratch = scratch.max(trace.scratch_bytes());
            device_working = device_working.max(trace.peak());
        }
        // The band of rows that is written next, in f32 and in the output's samples.
        let rows = core_height.saturating_sub(2 * rim) * shape.factor;
        let band = rows * self.geometry.canvas.width * (3 * size_of::<f32>() + 4);
        let pixels = |height, width| height * width * shape.factor.pow(2) * 3 * size_of::<f32>();
        Ok(Needs {
            device: self.condition_bytes(),
            host: self.mapped_bytes() + band,
            device_working,
            // The decoded tile, its copies on the way to the host, and the filter's planes.
            host_working: 2 * pixels(height, width) + 5 * pixels(core_height, core_width),
            scratch,
        })
    }

    /// The samples for the shared statistics of tiles: how many, and their sides.
    fn samples(&self) -> Option<(usize, usize, usize)> {
        self.geometry.shares_norms.then_some((SAMPLES, SAMPLE, SAMPLE))
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
