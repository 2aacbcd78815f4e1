//! Adapter that makes mistral.rs 0.8.1 run LLaVA-1.5 correctly.
//!
//! mistral.rs decodes and re-encodes a prompt twice, and loses the picture's position the second time, so that the
//! picture moves to the end. It also numbers the layers of the vision tower differently, and resizes pictures with
//! another filter. The adapter therefore presents another folder with the same weights, in which token 0, the
//! filler at the picture's position, is spelled `<image>`, tokenizing is lossless, and the layer number is
//! adjusted; and it resizes pictures itself. Prompts are those of [`Llava`], checked token by token. The resulting
//! texts equal those of transformers (`tests/captions/mistralrs.rs`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use image::{DynamicImage, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;

use super::MistralrsError;
use super::folder::{parse, shown};
use crate::model::llava::{Llava, LlavaPicture};
use crate::weights::LlavaFiles;

/// Placeholder of the picture in the prompt.
const IMAGE: &str = "<image>";

/// Token with which mistral.rs fills the picture's position.
const FILLER: u32 = 0;

/// Translation of pictures and prompts for the folder that mistral.rs is shown.
pub(super) struct LlavaView {
    /// the model's folder, for messages
    name: PathBuf,
    /// for prompts and sizes
    llava: Llava,
    tokenizer: Tokenizer,
    /// what comes before the picture
    before: String,
}

impl LlavaView {
    /// A view of the model in the folder `name`, and the temporary folder that mistral.rs loads instead; it may be
    /// removed after loading.
    pub(super) fn new(name: &Path) -> Result<(Self, TempDir), MistralrsError> {
        let wrong = |reason: String| MistralrsError::Llava { folder: name.to_owned(), reason };
        let (llava, _) = LlavaFiles::open(name)
            .and_then(|files| files.without_values(&Device::Cpu, DType::F32))
            .map_err(|error| wrong(first_line(&error)))?;

        let config = config_of(parse(&name.join("config.json"))?).map_err(wrong)?;
        let tokens = tokenizer_of(parse(&name.join("tokenizer.json"))?).map_err(wrong)?;
        let tokenizer: Tokenizer = tokens
            .to_string()
            .parse()
            .map_err(|error: tokenizers::Error| wrong(error.to_string()))?;
        let mut view = Self { name: name.to_owned(), llava, tokenizer, before: String::new() };
        let prompt = view.llava.prompt("").map_err(|error| wrong(first_line(&error)))?;
        view.before = view.read(&prompt.before)?;

        let mut words: Value = match name.join("tokenizer_config.json") {
            path if path.is_file() => parse(&path)?,
            _ => json!({}),
        };
        // JSON's strings are Jinja's.
        words["chat_template"] = format!(
            "{{{{ {} }}}}{{% for message in messages %}}{{{{ message['content'] }}}}{{% endfor %}}",
            Value::from(view.before.as_str())
        )
        .into();
        let made = [
            ("config.json", config),
            ("tokenizer.json", tokens),
            ("tokenizer_config.json", words),
            // Templates that would go before ours.
            ("chat_template.jinja", Value::Null),
            ("chat_template.json", Value::Null),
            ("processor_config.json", Value::Null),
        ];
        let folder = shown(name, &made)?;
        Ok((view, folder))
    }

    /// The picture in the size that the model sees.
    pub(super) fn picture(&self, picture: &DynamicImage) -> Result<DynamicImage, MistralrsError> {
        let picture = picture.to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let picture = LlavaPicture::new(width, height, picture.into_raw())
            .map_err(|error| self.wrong(first_line(&error)))?;
        let seen = self.llava.whole(&picture);
        let (width, height) = seen.size();
        RgbImage::from_raw(width as u32, height as u32, seen.rgb().to_vec())
            .map(DynamicImage::ImageRgb8)
            .ok_or_else(|| self.wrong("a picture of another size".to_owned()))
    }

    /// Text behind the picture in the prompt for `instruction`.
    pub(super) fn text(&self, instruction: &str) -> Result<String, MistralrsError> {
        let prompt =
            self.llava.prompt(instruction).map_err(|error| self.wrong(first_line(&error)))?;
        let after = self.read(&prompt.after)?;
        let whole: Vec<u32> = [prompt.before, vec![FILLER], prompt.after].concat();
        let text = format!("{}{IMAGE}{after}", self.before);
        if self.read(&whole)? == text { Ok(after) } else { Err(self.unreadable()) }
    }

    /// The model's text without the filler token, which is spelled like the picture's placeholder here.
    pub(super) fn without_filler(text: &str) -> String {
        text.replace(IMAGE, "")
    }

    /// The text of tokens, from which the same tokens come back.
    fn read(&self, tokens: &[u32]) -> Result<String, MistralrsError> {
        let text = self.tokenizer.decode(tokens, false).map_err(|_| self.unreadable())?;
        let again = self.tokenizer.encode_fast(text.as_str(), false);
        match again {
            Ok(again) if again.get_ids() == tokens => Ok(text),
            _ => Err(self.unreadable()),
        }
    }

    fn unreadable(&self) -> MistralrsError {
        self.wrong("a tokenizer whose tokens mistral.rs would not read back".to_owned())
    }

    fn wrong(&self, reason: String) -> MistralrsError {
        MistralrsError::Llava { folder: self.name.clone(), reason }
    }
}

/// Configuration with the layer number adjusted: mistral.rs does not count the state before the first layer.
fn config_of(mut config: Value) -> Result<Value, String> {
    let layer = match &config["vision_feature_layer"] {
        Value::Null => -2,
        layer => layer.as_i64().unwrap_or(0),
    };
    if layer >= 0 {
        return Err("vision_feature_layer must be one number below 0".to_owned());
    }
    let strategy = &config["vision_feature_select_strategy"];
    if !strategy.is_null() && strategy != "default" {
        return Err("vision_feature_select_strategy must be \"default\"".to_owned());
    }
    config["vision_feature_layer"] = (layer - 1).into();
    config["vision_feature_select_strategy"] = "default".into();
    Ok(config)
}

/// A lossless tokenizer in which the spellings of the picture's token and of token 0 are exchanged.
fn tokenizer_of(mut tokenizer: Value) -> Result<Value, String> {
    let unlike = || "a tokenizer of another kind than LLaMA's".to_owned();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().ok_or_else(unlike)?;
    let filler = vocabulary.iter().find(|(_, id)| **id == FILLER).map(|(text, _)| text.clone());
    let filler = filler.ok_or_else(unlike)?;
    let number = vocabulary.remove(&filler);
    if let Some(image) = vocabulary.remove(IMAGE) {
        vocabulary.insert(filler.clone(), image);
    }
    vocabulary.insert(IMAGE.to_owned(), number.unwrap_or_default());
    if tokenizer["model"]["unk_token"] == filler.as_str() {
        tokenizer["model"]["unk_token"] = IMAGE.into();
    }
    let added = tokenizer["added_tokens"].as_array_mut().ok_or_else(unlike)?;
    for token in added {
        let text = match token["content"].as_str() {
            Some(IMAGE) => filler.clone(),
            Some(text) if text == filler => IMAGE.to_owned(),
            _ => continue,
        };
        token["content"] = text.into();
    }
    tokenizer["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    tokenizer["pre_tokenizer"] = Value::Null;
    tokenizer["post_processor"] = Value::Null;
    tokenizer["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]});
    Ok(tokenizer)
}

/// candle appends a backtrace where the environment asks for one.
fn first_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
