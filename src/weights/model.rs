//! A model in diffusers layout: which parts `model_index.json` names, where their files are, and
//! how each becomes a component. Text encoders and VAE are built here; of the UNet, configuration
//! and tensors are handed out, because what it is built with (hooks, adapters) is the pipeline's
//! business.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde_json::Value;

use super::{ModelSource, WeightsError, tensors::TensorFiles};
use crate::model::text::{
    ClipTextConfig, ClipTextModel, ClipTokenizer, TextConditioner, TextEncoder, TokenizerFiles,
};
use crate::model::vae::Vae;

/// A model whose `model_index.json` has been read. Nothing else has.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    source: ModelSource,
    index: Value,
}

/// The configuration and the tensors of one part.
pub struct Component {
    /// the class that `model_index.json` names, `UNet2DConditionModel` for example
    pub class: String,
    /// `config.json`
    pub config: Value,
    /// the full name of `config.json`, for messages
    pub config_file: String,
    /// tensors, in the precision and on the device asked for
    pub vars: VarBuilder<'static>,
}

/// Everything that running a model needs.
pub struct LoadedModel {
    pub unet: Component,
    pub vae: Vae,
    pub text: TextConditioner,
    /// `scheduler/scheduler_config.json`
    pub scheduler: Value,
}

/// Loads a whole model, after checking that every part of it is there.
///
/// # Errors
/// Any [`WeightsError`].
pub fn load_model(
    source: &ModelSource,
    device: &Device,
    dtype: DType,
) -> Result<LoadedModel, WeightsError> {
    let files = ModelFiles::open(source.clone())?;
    files.check_parts()?;
    Ok(LoadedModel {
        scheduler: files.scheduler()?,
        text: files.text(device, dtype)?,
        vae: files.vae(device, dtype)?,
        unet: files.component("unet", device, dtype)?,
    })
}

impl ModelFiles {
    /// Reads `model_index.json`.
    ///
    /// # Errors
    /// A source that is no model in diffusers layout, or an index that is not JSON.
    pub fn open(source: ModelSource) -> Result<Self, WeightsError> {
        source.check()?;
        let index = read_json(&source, "model_index.json")?;
        Ok(Self { source, index })
    }

    /// Where the model is.
    #[must_use]
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// The class that `model_index.json` names for a part, if it names one.
    #[must_use]
    pub fn class(&self, part: &str) -> Option<&str> {
        self.index.get(part)?.get(1)?.as_str()
    }

    /// Finds every file that [`load_model`] will read, without reading any.
    ///
    /// # Errors
    /// The first part that is missing.
    pub fn check_parts(&self) -> Result<(), WeightsError> {
        self.require("scheduler", "scheduler/scheduler_config.json")?;
        for part in ["unet", "vae"].into_iter().chain(self.text_encoders()?) {
            self.require(part, &format!("{part}/config.json"))?;
            self.weight_files(part, DType::F32)?;
        }
        for part in self.text_encoders()? {
            self.tokenizer_files(tokenizer_of(part))?;
        }
        Ok(())
    }

    /// `scheduler/scheduler_config.json`.
    ///
    /// # Errors
    /// A file that is missing or not JSON.
    pub fn scheduler(&self) -> Result<Value, WeightsError> {
        let file = "scheduler/scheduler_config.json";
        self.require("scheduler", file)?;
        read_json(&self.source, file)
    }

    /// The configuration and tensors of `unet`, `vae`, `text_encoder` or `text_encoder_2`.
    ///
    /// # Errors
    /// A part that is missing, or a file that cannot be read.
    pub fn component(
        &self,
        part: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Component, WeightsError> {
        let config_file = format!("{part}/config.json");
        self.require(part, &config_file)?;
        let config = read_json(&self.source, &config_file)?;
        let mut tensors = TensorFiles::default();
        for file in self.weight_files(part, dtype)? {
            tensors.add(self.source.full_name(&file), self.source.map(&file)?)?;
        }
        Ok(Component {
            class: self.class(part).unwrap_or_default().to_owned(),
            config,
            config_file: self.source.full_name(&config_file),
            vars: tensors.into_vars(dtype, device),
        })
    }

    /// The autoencoder, in `dtype`; in f32 where `dtype` is f16 and the configuration does not say
    /// that its weights stand that (`force_upcast`, METHOD §6).
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration that is not supported.
    pub fn vae(&self, device: &Device, dtype: DType) -> Result<Vae, WeightsError> {
        let Component { class, mut config, config_file, mut vars } =
            self.component("vae", device, dtype)?;
        if let Some(fields) = config.as_object_mut() {
            fields.entry("_class_name").or_insert_with(|| class.into());
        }
        let is_kl = config["_class_name"] == "AutoencoderKL";
        let upcast = config.get("force_upcast").and_then(Value::as_bool).unwrap_or(is_kl);
        if dtype == DType::F16 && upcast {
            vars = vars.to_dtype(DType::F32);
        }
        Vae::load(&config, &vars).map_err(|error| WeightsError::from_vae(error, &config_file))
    }

    /// The text encoders with their tokenizers.
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration or tokenizer that is not supported.
    pub fn text(&self, device: &Device, dtype: DType) -> Result<TextConditioner, WeightsError> {
        let mut encoders = Vec::new();
        for part in self.text_encoders()? {
            let tokenizer = self.tokenizer(tokenizer_of(part))?;
            let component = self.component(part, device, dtype)?;
            let file = &component.config_file;
            let config = ClipTextConfig::from_json(&component.config)
                .map_err(|error| WeightsError::from_text(error, file))?;
            let with_projection = match component.class.as_str() {
                "CLIPTextModel" => false,
                "CLIPTextModelWithProjection" => true,
                class => {
                    return Err(WeightsError::Config {
                        file: self.source.full_name("model_index.json"),
                        reason: format!(
                            "{part}: `{class}` is not supported (CLIPTextModel, CLIPTextModelWithProjection)"
                        ),
                    });
                }
            };
            let model = ClipTextModel::load(&config, with_projection, &component.vars)?;
            encoders.push(TextEncoder { tokenizer, model });
        }
        TextConditioner::new(encoders)
            .map_err(|error| WeightsError::from_text(error, &self.source.to_string()))
    }

    fn tokenizer(&self, part: &str) -> Result<ClipTokenizer, WeightsError> {
        let read = |name: &str| {
            let file = format!("{part}/{name}");
            self.source.contains(&file).then(|| self.source.read(&file)).transpose()
        };
        self.tokenizer_files(part)?;
        let [vocab, merges, whole, config, special] = [
            read("vocab.json")?,
            read("merges.txt")?,
            read("tokenizer.json")?,
            read("tokenizer_config.json")?,
            read("special_tokens_map.json")?,
        ];
        ClipTokenizer::from_files(&TokenizerFiles {
            vocab_json: vocab.as_deref(),
            merges_txt: merges.as_deref(),
            tokenizer_json: whole.as_deref(),
            tokenizer_config_json: config.as_deref(),
            special_tokens_map_json: special.as_deref(),
        })
        .map_err(|error| WeightsError::from_text(error, &self.source.full_name(part)))
    }

    /// Checks that a tokenizer's vocabulary is there in one of its two forms.
    fn tokenizer_files(&self, part: &str) -> Result<(), WeightsError> {
        if self.source.contains(&format!("{part}/tokenizer.json")) {
            return Ok(());
        }
        self.require(part, &format!("{part}/vocab.json"))?;
        self.require(part, &format!("{part}/merges.txt"))
    }

    /// The text encoders that the index names, in the order of their conditioning.
    fn text_encoders(&self) -> Result<Vec<&'static str>, WeightsError> {
        let named: Vec<_> = ["text_encoder", "text_encoder_2"]
            .into_iter()
            .filter(|part| self.class(part).is_some())
            .collect();
        if named.is_empty() {
            return Err(self.missing("text_encoder", "model_index.json names none"));
        }
        Ok(named)
    }

    /// The safetensors files of a part: the one in the wanted precision if there is a choice, else
    /// the plain one, else any; each whole or as the shards that an index lists.
    fn weight_files(&self, part: &str, dtype: DType) -> Result<Vec<String>, WeightsError> {
        let stem =
            if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
        let preferred = match dtype {
            DType::F16 => ["fp16", "", "bf16"],
            DType::BF16 => ["bf16", "", "fp16"],
            _ => ["", "fp16", "bf16"],
        };
        for variant in preferred {
            let dot = if variant.is_empty() { "" } else { "." };
            let whole = format!("{part}/{stem}{dot}{variant}.safetensors");
            if self.source.contains(&whole) {
                return Ok(vec![whole]);
            }
            // diffusers puts the variant before the last suffix.
            let index = format!("{part}/{stem}.safetensors.index{dot}{variant}.json");
            if self.source.contains(&index) {
                return self.shards(part, &index);
            }
        }
        match self.source.find_pickle(part) {
            Some(file) => Err(WeightsError::Pickled { file }),
            None => Err(self.missing(part, &format!("{part}/{stem}.safetensors"))),
        }
    }

    fn shards(&self, part: &str, index: &str) -> Result<Vec<String>, WeightsError> {
        let fail =
            |reason: String| WeightsError::Config { file: self.source.full_name(index), reason };
        let json = read_json(&self.source, index)?;
        let map = json
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| fail("no `weight_map`".to_owned()))?;
        let mut shards = Vec::new();
        for name in map.values() {
            let name = name.as_str().unwrap_or_default();
            // A shard lies beside its index, nowhere else.
            if name.is_empty() || name.contains(['/', '\\']) {
                return Err(fail(format!("`{name}` is not the name of a shard")));
            }
            shards.push(format!("{part}/{name}"));
        }
        shards.sort();
        shards.dedup();
        for shard in &shards {
            self.require(part, shard)?;
        }
        Ok(shards)
    }

    fn require(&self, part: &str, file: &str) -> Result<(), WeightsError> {
        if self.source.contains(file) { Ok(()) } else { Err(self.missing(part, file)) }
    }

    fn missing(&self, part: &str, file: &str) -> WeightsError {
        WeightsError::MissingPart {
            model: self.source.to_string(),
            part: match part {
                "unet" => "the UNet",
                "vae" => "the VAE",
                "scheduler" => "the scheduler",
                part if part.starts_with("tokenizer") => "the tokenizer",
                _ => "the text encoder",
            },
            file: file.to_owned(),
        }
    }
}

fn tokenizer_of(text_encoder: &str) -> &'static str {
    if text_encoder.ends_with("_2") { "tokenizer_2" } else { "tokenizer" }
}

fn read_json(source: &ModelSource, name: &str) -> Result<Value, WeightsError> {
    serde_json::from_slice(&source.read(name)?).map_err(|source_error| WeightsError::Json {
        file: source.full_name(name),
        source: source_error,
    })
}
