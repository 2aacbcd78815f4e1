//! LLaVA-1.5 and LLaVA-1.6 (NeXT): CLIP's vision tower, a projector, and a LLaMA or Mistral decoder
//! that reads a picture's features among the words of a prompt (transformers `models/llava`,
//! `models/llava_next`). Nothing here knows of regions or captions; it turns pictures and a prompt
//! into text, many at once ([`Llava::generate`]).

mod anyres;
mod cache;
mod config;
mod decoder;
mod error;
mod generate;
mod picture;
mod processor_config;
mod prompt;
mod resize;
mod tokenizer;
mod trace;
mod vision;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::backend::{Activation, Params, Placement, Trace};
use decoder::LanguageDecoder;
use picture::Preprocessor;
use vision::{Projector, VisionTower};

pub use config::{DecoderConfig, DecoderFamily, LlavaConfig, RopeScaling, VisionConfig};
pub use error::LlavaError;
pub use generate::{GenerateOptions, GenerationStep, Row, TokenSampling};
pub use picture::LlavaPicture;
pub use prompt::PromptFormat;
pub use tokenizer::{LlavaTokenizer, Prompt};
pub use trace::TraceBatch;

/// Tiles that the vision tower sees at once: enough to fill a CPU, and little memory.
const TILES_AT_ONCE: usize = 8;

/// A loaded model.
#[derive(Clone, Debug)]
pub struct Llava {
    vision: VisionTower,
    projector: Projector,
    /// `[D]`, LLaVA-1.6
    newline: Option<Tensor>,
    decoder: LanguageDecoder,
    preprocessor: Preprocessor,
    tokenizer: LlavaTokenizer,
    format: PromptFormat,
    image_token: u32,
    dtype: DType,
    device: Device,
    weight_bytes: usize,
}

/// Configuration and files that a model is built from, besides its weights.
#[derive(Clone, Debug)]
pub struct LlavaParts<'a> {
    pub config: LlavaConfig,
    /// `preprocessor_config.json`, or null
    pub preprocessor: &'a Value,
    pub tokenizer: LlavaTokenizer,
    /// the chat template, if the model has one
    pub chat_template: Option<&'a str>,
    /// prompt format, if it is known from elsewhere
    pub prompt_format: Option<PromptFormat>,
}

impl Llava {
    /// Reads the tensors of `params`, by the names of the published checkpoints (those of
    /// transformers 4): `vision_tower.vision_model.…`, `multi_modal_projector.…`, `image_newline`,
    /// `language_model.model.…`, `language_model.lm_head.weight`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, or parts that do not fit each other.
    pub fn load(parts: LlavaParts<'_>, params: &Params) -> Result<Self, LlavaError> {
        let LlavaParts { config, preprocessor, tokenizer, chat_template, prompt_format } = parts;
        tokenizer.check_image_token(config.image_token)?;
        if tokenizer.largest_id() as usize >= config.decoder.vocab_size {
            return Err(LlavaError::Tokenizer {
                file: "tokenizer.json",
                reason: format!(
                    "token {} is outside the decoder's vocabulary of {}",
                    tokenizer.largest_id(),
                    config.decoder.vocab_size
                ),
            });
        }
        let is_next = config.pinpoints.is_some();
        let width = config.decoder.hidden_size;
        let bytes_before = params.bytes_kept();
        Ok(Self {
            vision: VisionTower::load(&config, &params.pp("vision_tower.vision_model"))?,
            projector: Projector::load(&config, &params.pp("multi_modal_projector"))?,
            newline: is_next.then(|| params.get(width, "image_newline")).transpose()?,
            decoder: LanguageDecoder::load(&config.decoder, &params.pp("language_model"))?,
            preprocessor: Preprocessor::new(&config, preprocessor)?,
            format: match prompt_format {
                Some(format) => format,
                None => PromptFormat::find(chat_template, config.decoder.family, is_next)?,
            },
            image_token: config.image_token,
            tokenizer,
            dtype: params.dtype(),
            device: params.device().clone(),
            weight_bytes: params.bytes_kept() - bytes_before,
        })
    }

    /// The prompt that asks for `instruction`, in which special tokens are no tokens.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn prompt(&self, instruction: &str) -> Result<Prompt, LlavaError> {
        let instruction = self.tokenizer.plain(instruction);
        self.tokenizer.split(&self.format.render(instruction.trim()), self.image_token)
    }

    /// A picture as the vision tower of LLaVA-1.5 sees it, before its values are normalized.
    #[must_use]
    pub fn whole(&self, picture: &LlavaPicture<'_>) -> LlavaPicture<'static> {
        self.preprocessor.whole(picture)
    }

    /// The text of generated tokens.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, LlavaError> {
        self.tokenizer.decode(tokens)
    }

    /// Image features of pictures of one size, as the decoder takes them, `[B, N, D]`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn encode(&self, pictures: &[&LlavaPicture<'_>]) -> Result<Activation, LlavaError> {
        let size = pictures.first().map_or((1, 1), |picture| picture.size());
        let tiles = pictures
            .iter()
            .map(|picture| self.preprocessor.tiles(picture).map(Activation::from))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = Activation::cat(&tiles, 0)?;
        drop(tiles);
        self.features(joined, pictures.len(), size, None)
    }

    /// The features of so many pictures of one size, whose tiles follow each other in host memory,
    /// `[tiles, 3, S, S]`, f32 → `[pictures, N, D]`; on the device, or within `trace`.
    fn features(
        &self,
        tiles: Activation,
        pictures: usize,
        size: (usize, usize),
        trace: Option<&Trace>,
    ) -> Result<Activation, LlavaError> {
        let features = self.tile_features(&tiles, trace)?;
        drop(tiles);
        let per_picture = features.dim(0)? / pictures.max(1);
        let Some(newline) = &self.newline else { return Ok(features) };
        let packing = self.preprocessor.packing(size);
        let packed = (0..pictures)
            .map(|index| {
                let tiles = features.narrow(0, index * per_picture, per_picture)?;
                match &packing {
                    Some(packing) => packing.pack(&tiles, newline),
                    None => tiles.squeeze(0),
                }
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Activation::stack(&packed, 0)?)
    }

    /// The features of every tile, `[tiles, N, D]`.
    fn tile_features(
        &self,
        tiles: &Activation,
        trace: Option<&Trace>,
    ) -> Result<Activation, LlavaError> {
        let count = tiles.dim(0)?;
        let mut features = Vec::new();
        for first in (0..count).step_by(TILES_AT_ONCE) {
            let part = tiles.narrow(0, first, TILES_AT_ONCE.min(count - first))?;
            let part = self.on_device(&part, trace)?.to_dtype(self.dtype)?;
            features.push(self.projector.forward(&self.vision.forward(&part)?)?);
        }
        Ok(Activation::cat(&features, 0)?)
    }

    /// Copies values in host memory, `x`, to the model's device.
    fn on_device(&self, x: &Activation, trace: Option<&Trace>) -> Result<Activation, LlavaError> {
        match trace {
            Some(trace) if trace.placement() != Placement::Cpu => {
                Ok(trace.activation(x.shape(), x.dtype()))
            }
            Some(_) => Ok(x.clone()),
            None => Ok(x.tensor()?.to_device(&self.device)?.into()),
        }
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
