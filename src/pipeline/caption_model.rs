//! The model that describes regions, beside the one that repaints them: checked before any job, loaded
//! when a job has a region that no cache knows, and gone before the UNet comes unless both fit.

use std::{fmt, sync::Arc};

use candle_core::{DType, Device};

use crate::{
    backend::{give_back_freed, working_dtype},
    caption::{
        CaptionError, Pixels,
        cache::CaptionCache,
        llava::{LlavaCaptioner, LlavaModel, LlavaOptions},
        wording::{Stop, instruction},
    },
    image::Picture,
    model::llava::{GenerateOptions, Llava},
    weights::{Footprint, LlavaFiles},
};

use super::{Engine, Error, LlavaSettings, Plan, captions, model::device_name, slot::Slot};

/// The longest side of a whole picture that is shown: no model looks at more of it.
const WHOLE_SIDE: u32 = 1344;

/// A LLaVA model for a device, and what earlier jobs asked of it.
pub struct CaptionModel {
    files: LlavaFiles,
    name: String,
    /// the model without its weights' values: for prompts and sizes
    pub(super) blueprint: Llava,
    pub(super) footprint: Footprint,
    pub(super) cache: CaptionCache,
    pub(super) device: Device,
    pub(super) dtype: DType,
    slot: Slot<Llava>,
}

impl CaptionModel {
    /// Makes the model ready for `device`: reads what describes it and the headers of its weights, and
    /// checks all that can be checked without the weights' values. `name` is what users call it.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, or parts that do not fit each other.
    pub fn load(
        files: LlavaFiles,
        name: String,
        device: &Device,
        cache: CaptionCache,
    ) -> Result<Self, Error> {
        let dtype = working_dtype(device);
        let (blueprint, footprint) = files.without_values(device, dtype)?;
        let (device, slot) = (device.clone(), Slot::empty());
        Ok(Self { files, name, blueprint, footprint, cache, device, dtype, slot })
    }

    /// What users call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type that its weights are rounded to, if they are.
    pub(super) fn quant(&self) -> Option<String> {
        self.files.quant().map(|quant| quant.to_string())
    }

    /// Changes with everything that captions follow from beside pictures, prompt and options.
    pub(super) fn fingerprint(&self) -> String {
        format!("{} {}", self.files.fingerprint(), device_name(&self.device, self.dtype))
    }

    /// The model for a captioner.
    pub(super) fn model(&self) -> LlavaModel {
        let (files, slot) = (self.files.clone(), self.slot.clone());
        let (device, dtype) = (self.device.clone(), self.dtype);
        let load = move || {
            slot.get(|| {
                let loaded = files.load(&device, dtype).map_err(|error| CaptionError::Engine {
                    name: "llava".into(),
                    message: error.to_string().lines().next().unwrap_or_default().to_owned(),
                });
                // What rounding weights has left behind is as large as they are.
                give_back_freed();
                loaded
            })
        };
        LlavaModel {
            name: self.name.clone(),
            fingerprint: self.fingerprint(),
            load: Arc::new(load),
        }
    }

    /// How many bytes of its weights are loaded on the device now.
    pub(super) fn loaded_bytes(&self) -> usize {
        self.slot.loaded().map_or(0, |_| self.footprint.kept)
    }

    /// Forgets the weights.
    pub(super) fn free(&self) {
        self.slot.free();
    }
}

impl fmt::Debug for CaptionModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptionModel").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The engine's model.
///
/// # Errors
/// None was given to it.
fn model_of(engine: &Engine) -> Result<&CaptionModel, Error> {
    let message = "the engine has no such model (Engine::with_captioner)".to_owned();
    let missing = || CaptionError::Engine { name: "llava".into(), message };
    Ok(engine.captioner().ok_or_else(missing)?)
}

/// What captions follow from beside the picture, the grid and the prompt.
///
/// # Errors
/// No model.
pub(super) fn identity(engine: &Engine, llava: &LlavaSettings) -> Result<String, Error> {
    let asked = instruction("");
    Ok(format!("llava {} {:?} {asked}", model_of(engine)?.fingerprint(), llava.sampling))
}

/// How texts are generated.
pub(super) fn generate_options(llava: &LlavaSettings) -> GenerateOptions {
    GenerateOptions { sampling: llava.sampling, ..GenerateOptions::default() }
}

/// The captioner of a planned job. Before its model is loaded, the other one goes where the plan does
/// not hold both.
///
/// # Errors
/// No model, or tokenizers that cannot be read.
pub(super) fn captioner<'a>(
    engine: &'a Engine,
    plan: &Plan,
    llava: &LlavaSettings,
    stop: Stop<'a>,
) -> Result<LlavaCaptioner<'a>, Error> {
    let own = model_of(engine)?;
    let mut model = own.model();
    let mut options = LlavaOptions { generate: generate_options(llava), ..LlavaOptions::default() };
    if let Some(batch) = plan.memory.captions {
        options.rows = batch.rows;
        options.generate.prefill_rows = Some(batch.prefill_rows);
        if !batch.stays {
            let (free_parts, load) = (engine.parts_freer(), model.load);
            model.load = Arc::new(move || {
                free_parts();
                load()
            });
        }
    }
    let fits = Box::new(engine.fits()?);
    Ok(LlavaCaptioner::new(model, options, &own.cache, fits, stop))
}

/// The width and height at which a whole picture is shown.
pub(super) fn whole_size((width, height): (u32, u32)) -> (u32, u32) {
    let longest = width.max(height);
    let side = |length: u32| match longest {
        ..=WHOLE_SIDE => length,
        _ => (u64::from(length) * u64::from(WHOLE_SIDE) / u64::from(longest)).max(1) as u32,
    };
    (side(width), side(height))
}

/// A caption of the whole picture that `describe` gives, or why there is none.
///
/// # Errors
/// A stop.
pub(super) fn describe_whole(
    describe: impl FnOnce(&Pixels) -> Result<String, CaptionError>,
    picture: &Picture,
) -> Result<Result<String, String>, Error> {
    let (width, height) = whole_size((picture.width, picture.height));
    let rgb = picture.resizer(width, height)?.window(0..width, 0..height);
    let pixels = Pixels::from_f32(width as usize, height as usize, &rgb)?;
    match describe(&pixels) {
        Ok(text) => Ok(Ok(text)),
        Err(error @ CaptionError::Interrupted) => Err(captions::interrupted(error)),
        Err(error) => Ok(Err(error.to_string())),
    }
}
