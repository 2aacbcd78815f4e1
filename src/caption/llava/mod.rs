//! `--captioner llava`: a LLaVA model looks at every region and says what is there (docs/method.md §5). All
//! regions of a job go through the model together; see [`Llava::generate`].
//!
//! The instruction gives the global prompt as context and asks for visible things only. The answer is the region's
//! whole text condition, cut at a clause if it does not fit the text encoders. The model is loaded at the first
//! cache miss.

mod ask;
mod memory;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::cache::{Cached, CaptionCache};
use super::key::KeyPrefix;
use super::vision::{Question, VisionEvent, VisionModel, VisionSession};
use super::wording::{Fits, Stop, instruction};
use super::{
    CaptionError, CaptionMemory, CaptionRequest, CaptionSession, Captioner, SessionContext,
};
use crate::backend::{device_name, give_back_freed, working_dtype};
use crate::model::llava::{GenerateOptions, Llava, LlavaError, LlavaPicture, Row, TokenSampling};
use crate::weights::{Footprint, Lazy, LlavaFiles, WeightsError};

const NAME: &str = "llava";

/// Loads the model, or gives out the loaded one.
pub type LoadFn = Arc<dyn Fn() -> Result<Arc<Llava>, CaptionError> + Send + Sync>;

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
    /// The options of one generation.
    fn generate(&self) -> GenerateOptions {
        GenerateOptions { sampling: self.sampling, ..GenerateOptions::default() }
    }
}

/// A LLaVA model for a device, checked before any job, loaded when a job has a region that the cache does not know.
pub struct LlavaCaptioner {
    files: LlavaFiles,
    name: String,
    settings: LlavaSettings,
    /// the model without its weights' values: for prompts and sizes
    blueprint: Llava,
    footprint: Footprint,
    cache: CaptionCache,
    device: Device,
    dtype: DType,
    model: Lazy<Llava>,
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
        let model = Lazy::default();
        Ok(Self { files, name, settings, blueprint, footprint, cache, device, dtype, model })
    }

    /// Identity of everything that determines captions besides pictures, prompt and options.
    fn fingerprint(&self) -> String {
        format!("{} {}", self.files.fingerprint(), device_name(&self.device, self.dtype))
    }

    /// Loads the model. Errors are those of a captioner.
    fn load(&self) -> impl Fn() -> Result<Arc<Llava>, CaptionError> + Send + Sync + use<> {
        let (files, model) = (self.files.clone(), self.model.clone());
        let (device, dtype) = (self.device.clone(), self.dtype);
        move || {
            model.get(|| {
                let loaded = files.load(&device, dtype).map_err(|error| CaptionError::Engine {
                    name: NAME.into(),
                    message: error.to_string().lines().next().unwrap_or_default().to_owned(),
                });
                // Rounding weights leaves behind as much memory as they take.
                give_back_freed();
                loaded
            })
        }
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
        Ok(format!("{NAME} {fingerprint} {sampling:?} {}", instruction("")))
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
        give_back_freed();
    }

    /// Unloads the diffusion model before this one is loaded if the memory plan does not hold both.
    fn open<'a>(
        &'a self,
        job: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
        let mut options =
            LlavaOptions { generate: self.settings.generate(), ..LlavaOptions::default() };
        let load = self.load();
        let mut load: LoadFn = Arc::new(load);
        if let Some(batch) = job.batch {
            options.rows = batch.rows;
            options.generate.prefill_rows = Some(batch.prefill_rows);
            if !batch.stays {
                let (make_room, load_then) = (job.make_room, load);
                load = Arc::new(move || {
                    make_room();
                    load_then()
                });
            }
        }
        let model = LlavaModel { fingerprint: self.fingerprint(), load };
        Ok(Box::new(model.session(options, &self.cache, job.fits, job.stop)))
    }
}

/// A lazily loaded model.
#[derive(Clone)]
pub struct LlavaModel {
    /// Identity of everything that determines its texts besides pictures, prompt and options.
    pub fingerprint: String,
    /// Loads the model, or returns the loaded one.
    pub load: LoadFn,
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
        let mut by_size: BTreeMap<(usize, usize), PictureBatch> = BTreeMap::new();
        let mut done = 0;
        for &index in wanted {
            let pixels = match question.pictures.pixels(index) {
                Ok(pixels) => pixels,
                Err(error) => {
                    done += 1;
                    on_event(VisionEvent::Answer(index, Err(error.to_string())));
                    continue;
                }
            };
            let picture = LlavaPicture::new(pixels.width(), pixels.height(), pixels.rgb().to_vec());
            let batch = by_size.entry((pixels.width(), pixels.height())).or_default();
            let number = question.pictures.number(index);
            batch.rows.push(Row { picture: picture.map_err(engine)?, number });
            batch.indices.push(index);
            if batch.rows.len() >= self.options.rows {
                let batch = std::mem::take(batch);
                self.ask_batch(question.instruction, batch, &mut done, on_event)?;
            }
        }
        for batch in by_size.into_values().filter(|batch| !batch.rows.is_empty()) {
            self.ask_batch(question.instruction, batch, &mut done, on_event)?;
        }
        on_event(VisionEvent::Done(done));
        Ok(())
    }
}

/// Pictures of one size that the model looks at together.
#[derive(Default)]
struct PictureBatch {
    rows: Vec<Row<'static>>,
    indices: Vec<usize>,
}

impl Asking<'_> {
    fn ask_batch(
        &self,
        instruction: &str,
        PictureBatch { rows, indices }: PictureBatch,
        done: &mut usize,
        on_event: &mut dyn FnMut(VisionEvent),
    ) -> Result<(), CaptionError> {
        let request = ask::BatchRequest {
            load: self.model.load.clone(),
            instruction: instruction.to_owned(),
            rows,
            options: self.options.generate,
        };
        let answers = ask::ask(request, &*self.stop, &mut |ended| {
            on_event(VisionEvent::Done(*done + ended))
        })?;
        *done += indices.len();
        for (index, answer) in indices.into_iter().zip(answers) {
            on_event(VisionEvent::Answer(index, answer));
        }
        on_event(VisionEvent::Done(*done));
        Ok(())
    }
}

fn engine(error: LlavaError) -> CaptionError {
    CaptionError::Engine { name: NAME.into(), message: one_line(&error) }
}

/// candle appends a backtrace where the environment asks for one.
fn one_line(error: &LlavaError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
