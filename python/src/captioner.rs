//! The captioner of an engine: what can be measured, the prompt alone, or a LLaVA model.

use std::sync::Arc;

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
    weights::CaptionerChoice,
};
use pyo3::prelude::*;

use crate::{
    errors::Failure,
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
    model: CaptionerChoice,
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
            model: CaptionerChoice {
                model: keywords.get("caption_model", |value| Ok(path(value)?.into_os_string()))?,
                mmproj: keywords.get("caption_mmproj", path)?,
                quantize: keywords.get("caption_quantize", named)?,
            },
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
        let (files, name) = self.model.open()?;
        let folder = if self.is_cached { CaptionCache::default_folder() } else { None };
        let cache = CaptionCache::new(folder);
        let (first, others) = devices.split_first().unwrap_or((&Device::Cpu, &[]));
        let captioner = LlavaCaptioner::new(files, name, self.settings, first, cache)?;
        Ok(Arc::new(captioner.with_others(others)))
    }
}
