//! The captioner of an engine: what can be measured, the prompt alone, or a LLaVA model.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use cupscale::{
    candle::Device,
    caption::{
        Captioner,
        attributes::Attributes,
        cache::CaptionCache,
        llava::{LlavaCaptioner, LlavaSettings},
        none::PromptOnly,
    },
    model::llava::TokenSampling,
    pipeline::Defaults,
    weights::{
        LlavaFiles, QuantType,
        registry::{Kind, ResolvedModel, Store, resolve_kind},
    },
};
use pyo3::prelude::*;

use crate::{
    errors::{Class, Failure},
    keywords::{Fault, Keywords, integer, named, number, path, text},
    values,
};

/// Keywords that have no effect without LLaVA.
const LLAVA_ONLY: [&str; 8] = [
    "caption_model",
    "caption_mmproj",
    "caption_quantize",
    "caption_temperature",
    "caption_top_p",
    "caption_seed",
    "caption_batch",
    "no_caption_cache",
];

/// The captioner that is chosen.
#[derive(Debug)]
pub enum Choice {
    Attributes,
    PromptOnly,
    Llava(Box<Llava>),
}

/// The model that is asked, and how.
#[derive(Debug)]
pub struct Llava {
    model: Option<OsString>,
    mmproj: Option<PathBuf>,
    quantize: Option<QuantType>,
    settings: LlavaSettings,
    is_cached: bool,
}

impl Choice {
    /// Reads the keywords.
    ///
    /// # Errors
    /// A value of another type, out of its range, or one that has no effect.
    pub fn read(keywords: &Keywords<'_>) -> PyResult<Self> {
        let name = keywords.get("captioner", |value| {
            let name = text(value)?;
            match ["attributes", "none", "llava"].contains(&name.as_str()) {
                true => Ok(name),
                false => Err(Fault::Value("not one of attributes, none, llava".to_owned())),
            }
        })?;
        if name.as_deref() == Some("llava") {
            return Ok(Self::Llava(Box::new(Llava::read(keywords)?)));
        }
        for idle in LLAVA_ONLY {
            if keywords.get(idle, |_| Ok(()))?.is_some() {
                return Err(Failure::settings(format!("{idle}: is for captioner=\"llava\"")).into());
            }
        }
        Ok(if name.as_deref() == Some("none") { Self::PromptOnly } else { Self::Attributes })
    }

    /// `true` if regions are described by a model.
    pub fn is_model(&self) -> bool {
        matches!(self, Self::Llava(_))
    }

    /// Opens it for devices of which there is at least one.
    ///
    /// # Errors
    /// A model that is not there, or none of its kind.
    pub fn open(self, devices: &[Device]) -> Result<Arc<dyn Captioner>, Failure> {
        match self {
            Self::Attributes => Ok(Arc::new(Attributes)),
            Self::PromptOnly => Ok(Arc::new(PromptOnly)),
            Self::Llava(llava) => llava.open(devices),
        }
    }
}

impl Llava {
    fn read(keywords: &Keywords<'_>) -> PyResult<Self> {
        let temperature =
            keywords.get("caption_temperature", |value| number(value, values::temperature))?;
        let top_p = keywords.get("caption_top_p", |value| number(value, values::weight))?;
        let seed = keywords.get("caption_seed", |value| integer(value, 0..=u64::MAX))?;
        let rows = keywords.get("caption_batch", |value| integer(value, 1..=1024))?;
        let sampling = temperature.filter(|temperature| *temperature > 0.0);
        Ok(Self {
            model: keywords.get("caption_model", |value| Ok(path(value)?.into_os_string()))?,
            mmproj: keywords.get("caption_mmproj", path)?,
            quantize: keywords.get("caption_quantize", named)?,
            settings: LlavaSettings {
                sampling: sampling.map(|temperature| TokenSampling {
                    temperature,
                    top_p: top_p.unwrap_or(Defaults::CAPTION_TOP_P),
                    seed: seed.unwrap_or(0),
                }),
                rows: rows.map(|rows| rows as usize),
            },
            is_cached: !keywords.flag("no_caption_cache")?,
        })
    }

    fn open(self, devices: &[Device]) -> Result<Arc<dyn Captioner>, Failure> {
        let model = match &self.model {
            Some(name) => resolve_kind(name, Kind::Captioner)?,
            None => only_installed()?,
        };
        let files = match self.mmproj.as_ref().or(model.mmproj.as_ref()) {
            Some(mmproj) => LlavaFiles::open_gguf(&model.weights, mmproj),
            None => LlavaFiles::open(&model.weights),
        };
        let mut files = files?;
        if let Some(quant) = self.quantize {
            files = files.quantized(quant);
        }
        let folder = if self.is_cached { CaptionCache::default_folder() } else { None };
        let cache = CaptionCache::new(folder);
        let (first, others) = devices.split_first().unwrap_or((&Device::Cpu, &[]));
        let name = model.known_name();
        let captioner = LlavaCaptioner::new(files, name, self.settings, first, cache)?;
        Ok(Arc::new(captioner.with_others(others)))
    }
}

/// The one captioner that is installed.
fn only_installed() -> Result<ResolvedModel, Failure> {
    let store = Store::open()?;
    let captioners = store.manifests()?.into_iter().filter(|entry| entry.kind == Kind::Captioner);
    let names: Vec<String> = captioners.map(|entry| entry.name).collect();
    let refuse = |reason: String| Err(Failure::new(Class::Model, reason));
    match names.as_slice() {
        [name] => Ok(store.resolve(name.as_ref())?),
        [] => refuse(
            "captioner=\"llava\": no such model is installed: cupscale-fast models pull llava-1.5-7b, or name one \
             with caption_model="
                .to_owned(),
        ),
        several => refuse(format!(
            "captioner=\"llava\": choose one of {} with caption_model=",
            several.join(", ")
        )),
    }
}
