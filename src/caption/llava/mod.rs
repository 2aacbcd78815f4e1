//! `--captioner llava`: a LLaVA model looks at every region and says what is there (docs/method.md §5). All
//! regions of a job go through the model together; see [`Llava::generate`].
//!
//! Several devices share the regions: each has the model, and gets the next batch when it is free.
//!
//! The instruction gives the global prompt as context and asks for visible things only. The answer is the region's
//! whole text condition, cut at a clause if it does not fit the text encoders. The model is loaded at the first
//! cache miss.

mod ask;
mod batches;
mod error;
mod memory;

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::cache::{Cached, CaptionCache};
use super::key::KeyPrefix;
use super::vision::{Question, VisionEvent, VisionModel, VisionSession};
use super::wording::{CaptionLength, Fits, Stop, instruction};
use super::{
    CaptionError, CaptionMemory, CaptionRequest, CaptionSession, Captioner, SessionContext,
};
use crate::backend::{device_name, give_back_freed, working_dtype};
use crate::model::llava::{GenerateOptions, Llava, TokenSampling};
use crate::weights::{Footprint, Lazy, LlavaFiles, WeightsError};
use ask::Answering;
use batches::Batches;
use error::NAME;

pub use ask::LoadFn;

/// Default limit of texts that are decoded together; more gain nothing.
pub const DEFAULT_ROWS: usize = 64;

/// The user's choices about a LLaVA captioner.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LlavaSettings {
    /// Choice of words by chance; `None` takes the likeliest.
    pub sampling: Option<TokenSampling>,
    /// Captions written at once; the result does not depend on it.
    pub rows: Option<usize>,
}

impl LlavaSettings {
    /// The options of one generation of captions of this length.
    fn generate(&self, length: CaptionLength) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: length.most(),
            sampling: self.sampling,
            ..GenerateOptions::default()
        }
    }
}

/// A LLaVA model for a device, or for several that share the regions, checked before any job, loaded when a job has a
/// region that the cache does not know.
pub struct LlavaCaptioner {
    files: LlavaFiles,
    name: String,
    settings: LlavaSettings,
    /// the model without its weights' values: for prompts and sizes
    blueprint: Llava,
    footprint: Footprint,
    cache: CaptionCache,
    dtype: DType,
    device: Device,
    model: Lazy<Llava>,
    /// Further devices of the same kind, and the model on each.
    others: Vec<(Device, Lazy<Llava>)>,
}

impl LlavaCaptioner {
    /// Makes the model ready for `device`: reads its configurations and the headers of its weights, and checks all
    /// that can be checked without the weights' values. `name` is what users call it.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, or parts that do not fit each other.
    pub fn new(
        files: LlavaFiles,
        name: String,
        settings: LlavaSettings,
        device: &Device,
        cache: CaptionCache,
    ) -> Result<Self, WeightsError> {
        let dtype = working_dtype(device);
        let (blueprint, footprint) = files.without_values(device, dtype)?;
        let device = device.clone();
        let (model, others) = (Lazy::default(), Vec::new());
        Ok(Self {
            files,
            name,
            settings,
            blueprint,
            footprint,
            cache,
            dtype,
            device,
            model,
            others,
        })
    }

    /// Lets further devices of the same kind share the regions; each loads the model.
    #[must_use]
    pub fn with_others(mut self, devices: &[Device]) -> Self {
        self.others.extend(devices.iter().map(|device| (device.clone(), Lazy::default())));
        self
    }

    /// Devices that share the regions.
    fn devices(&self) -> usize {
        1 + self.others.len()
    }

    /// Identity of everything that determines captions besides pictures, prompt and options.
    fn fingerprint(&self) -> String {
        format!("{} {}", self.files.fingerprint(), device_name(&self.device, self.dtype))
    }

    /// Loads the model onto each device. Errors are those of a captioner.
    fn loads(&self) -> Vec<LoadFn> {
        let others = self.others.iter().map(|(device, model)| self.load(device, model));
        [self.load(&self.device, &self.model)].into_iter().chain(others).collect()
    }

    fn load(&self, device: &Device, model: &Lazy<Llava>) -> LoadFn {
        let (files, model) = (self.files.clone(), model.clone());
        let (device, dtype) = (device.clone(), self.dtype);
        Arc::new(move || {
            model.get(|| {
                let loaded = files.load(&device, dtype).map_err(|error| CaptionError::Engine {
                    name: NAME.into(),
                    message: error.to_string().lines().next().unwrap_or_default().to_owned(),
                });
                // Rounding weights leaves behind as much memory as they take.
                give_back_freed();
                loaded
            })
        })
    }
}

impl fmt::Debug for LlavaCaptioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlavaCaptioner").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Captioner for LlavaCaptioner {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn record(&self) -> Vec<(&'static str, Value)> {
        let mut record = vec![("caption_model", self.name.as_str().into())];
        if let Some(quant) = self.files.quant() {
            record.push(("caption_quantize", quant.to_string().into()));
        }
        if let Some(sampling) = self.settings.sampling {
            record.push(("caption_temperature", sampling.temperature.into()));
            record.push(("caption_top_p", sampling.top_p.into()));
            record.push(("caption_seed", sampling.seed.into()));
        }
        record
    }

    fn identity(&self) -> Result<String, CaptionError> {
        let (fingerprint, sampling) = (self.fingerprint(), self.settings.sampling);
        // The length follows from the model that reads the captions.
        let question = instruction("", CaptionLength::default());
        Ok(format!("{NAME} {fingerprint} {sampling:?} {question}"))
    }

    fn is_costly(&self) -> bool {
        true
    }

    fn memory<'a>(&'a self, request: &CaptionRequest<'_>) -> Option<Box<dyn CaptionMemory + 'a>> {
        Some(Box::new(memory::LlavaMemory::new(self, request)?))
    }

    fn loaded_bytes(&self) -> usize {
        self.model.loaded().map_or(0, |_| self.footprint.kept)
    }

    fn free(&self) {
        self.model.free();
        self.others.iter().for_each(|(_, model)| model.free());
        give_back_freed();
    }

    /// Unloads the diffusion model before this one is loaded if the memory plan does not hold both.
    fn open<'a>(
        &'a self,
        job: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
        let generate = self.settings.generate(job.length);
        let mut options = LlavaOptions { generate, ..LlavaOptions::default() };
        let mut loads = self.loads();
        if let Some(batch) = job.batch {
            options.rows = batch.rows;
            options.generate.prefill_rows = Some(batch.prefill_rows);
            if !batch.stays {
                for load in &mut loads {
                    let (make_room, load_then) = (job.make_room.clone(), load.clone());
                    *load = Arc::new(move || {
                        make_room();
                        load_then()
                    });
                }
            }
        }
        let model = LlavaModel { fingerprint: self.fingerprint(), loads };
        let session = model.session(options, &self.cache, job.fits, job.stop);
        Ok(Box::new(session.with_length(job.length)))
    }
}

/// A lazily loaded model.
#[derive(Clone)]
pub struct LlavaModel {
    /// Identity of everything that determines its texts besides pictures, prompt and options.
    pub fingerprint: String,
    /// For each device, at least one: loads the model, or returns the loaded one.
    pub loads: Vec<LoadFn>,
}

impl LlavaModel {
    /// A session with `cache` in front of the model.
    #[must_use]
    pub fn session<'a>(
        self,
        options: LlavaOptions,
        cache: &'a CaptionCache,
        fits: Fits<'a>,
        stop: Stop<'a>,
    ) -> VisionSession<'a> {
        let asking = Asking { model: self, options, stop: stop.clone() };
        VisionSession::new(NAME, Box::new(Cached::new(asking, cache, stop)), fits)
    }
}

/// The way in which regions are captioned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlavaOptions {
    /// Options of text generation.
    pub generate: GenerateOptions,
    /// Regions whose texts are decoded together; at least 1. Each takes
    /// [`Llava::cache_bytes_per_row`], and more are done in turn.
    pub rows: usize,
}

impl Default for LlavaOptions {
    fn default() -> Self {
        Self { generate: GenerateOptions::default(), rows: DEFAULT_ROWS }
    }
}

/// The model as one session asks it.
struct Asking<'a> {
    model: LlavaModel,
    options: LlavaOptions,
    stop: Stop<'a>,
}

impl VisionModel for Asking<'_> {
    fn key_prefix(&self, instruction: &str) -> KeyPrefix {
        let mut prefix = KeyPrefix::new(NAME);
        prefix.add(&self.model.fingerprint);
        prefix.add(instruction);
        prefix.add(&self.options.generate.max_new_tokens.to_string());
        if let Some(sampling) = self.options.generate.sampling {
            prefix.add(&format!("{sampling:?}"));
        }
        prefix
    }

    fn draws_by_number(&self) -> bool {
        self.options.generate.sampling.is_some()
    }

    /// Pictures of one size go together, as soon as there are enough of them.
    fn ask(
        &mut self,
        question: &Question<'_>,
        wanted: &[usize],
        on_event: &mut dyn FnMut(VisionEvent),
    ) -> Result<(), CaptionError> {
        let mut batches = Batches::new(wanted);
        let Self { model, options, stop } = self;
        let mut answering = Answering::new(&model.loads, question.instruction, options.generate);
        let mut done = 0;
        loop {
            // A device that is free gets the next batch.
            while answering.has_free() {
                let mut unread = |index, reason| {
                    done += 1;
                    on_event(VisionEvent::Answer(index, Err(reason)));
                };
                match batches.next(question.pictures, options.rows, &mut unread)? {
                    Some(batch) => answering.begin(batch)?,
                    None => break,
                }
            }
            let answers = answering.wait(&**stop, &mut |answering| {
                on_event(VisionEvent::Done(done + answering.ended()));
            })?;
            let Some((indices, answers)) = answers else { break };
            done += indices.len();
            for (index, answer) in indices.into_iter().zip(answers) {
                on_event(VisionEvent::Answer(index, answer));
            }
            on_event(VisionEvent::Done(done + answering.ended()));
        }
        on_event(VisionEvent::Done(done));
        Ok(())
    }
}
