//! Options of the captioner LLaVA: model, weight type and sampling.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};
use cupscale::{
    caption::{cache::CaptionCache, llava::LlavaSettings},
    model::llava::TokenSampling,
    pipeline::Defaults,
    weights::QuantType,
};

use crate::cli::values;

/// Options that have no effect without LLaVA.
pub const LLAVA_ONLY: [&str; 9] = [
    "caption_engine",
    "caption_model",
    "caption_mmproj",
    "caption_quantize",
    "caption_temperature",
    "caption_top_p",
    "caption_seed",
    "caption_batch",
    "no_caption_cache",
];

/// Engines that run the captioning model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptionEngineArg {
    /// This program itself
    Builtin,
    /// mistral.rs, in a separate process; any vision model that it supports
    Mistralrs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Captions by LLaVA (--captioner llava)")]
pub struct LlavaArgs {
    /// Engine that runs the model
    #[arg(long, value_enum, default_value_t = CaptionEngineArg::Builtin)]
    pub caption_engine: CaptionEngineArg,
    /// A LLaVA model that `models list` shows, a folder of transformers, a .gguf file with the decoder
    /// [default: the one that is installed]
    #[arg(long, value_name = "NAME|PATH")]
    pub caption_model: Option<OsString>,
    /// The .gguf file with the vision tower [default: the one beside the decoder's]
    #[arg(long, value_name = "FILE", requires = "caption_model")]
    pub caption_mmproj: Option<PathBuf>,
    /// Round the decoder's weights to this type as they are read
    #[arg(long, value_name = "q8_0|q6_k|q5_k|q4_k|f16")]
    pub caption_quantize: Option<QuantType>,
    /// Sampling temperature; 0 takes the likeliest word [default: 0]
    #[arg(long, value_name = "0-2", value_parser = values::temperature)]
    caption_temperature: Option<f64>,
    /// Sample from the likeliest words with this share of the probability (top-p)
    #[arg(long, value_name = "0-1", default_value_t = Defaults::CAPTION_TOP_P, value_parser = values::weight,
          requires = "caption_temperature")]
    caption_top_p: f64,
    /// Seed of the sampling: same seed, same captions; each region has a random stream of its own
    #[arg(long, value_name = "N", default_value_t = 0, requires = "caption_temperature")]
    caption_seed: u64,
    /// Captions written at once [default: 64, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    caption_batch: Option<u32>,
    /// Neither read nor write the cache of captions
    #[arg(long)]
    pub no_caption_cache: bool,
}

impl LlavaArgs {
    /// First given option that has no effect with mistral.rs.
    #[cfg(feature = "mistralrs")]
    pub fn builtin_only(&self) -> Option<&'static str> {
        [
            ("caption-mmproj", self.caption_mmproj.is_some()),
            ("caption-temperature", self.caption_temperature.is_some()),
            ("caption-batch", self.caption_batch.is_some()),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }

    /// Folder of the caption cache; `None` if captions are not kept.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        if self.no_caption_cache { None } else { CaptionCache::default_folder() }
    }

    /// Settings of the LLaVA captioner.
    pub fn settings(&self) -> LlavaSettings {
        let temperature = self.caption_temperature.filter(|temperature| *temperature > 0.0);
        LlavaSettings {
            sampling: temperature.map(|temperature| TokenSampling {
                temperature,
                top_p: self.caption_top_p,
                seed: self.caption_seed,
            }),
            rows: self.caption_batch.map(|rows| rows as usize),
        }
    }
}
