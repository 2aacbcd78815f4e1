//! A model of any form, and how each of its parts becomes a component. Text encoders and VAE are
//! built here; of the UNet, configuration and weights are handed out, because what it is built with
//! is the pipeline's business.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::diffusers::DiffusersFolder;
use super::form::{Form, Part, PartConfig};
use super::replace::Replaced;
use super::single_file::SingleFile;
use super::{ModelSource, WeightsError};
use crate::backend::Params;
use crate::model::text::{
    ClipTextConfig, ClipTextModel, ClipTokenizer, TextConditioner, TextEncoder, TokenizerFiles,
};
use crate::model::vae::Vae;

/// A model that has been found and recognised; its tensors have not been read.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    form: Arc<dyn Form>,
}

/// The configuration and the weights of one part.
pub struct Component {
    /// the class of diffusers or transformers, `UNet2DConditionModel` for example
    pub class: String,
    /// what `config.json` says
    pub config: Value,
    /// the full name of the file that says so, for messages
    pub config_file: String,
    /// weights, in the precision and on the device asked for
    pub params: Params,
}

impl ModelFiles {
    /// Recognises the model's form and reads what describes it.
    ///
    /// # Errors
    /// A source that is no model in a known form, or a description that cannot be read.
    pub fn open(source: ModelSource) -> Result<Self, WeightsError> {
        source.check()?;
        let form: Arc<dyn Form> = match source {
            ModelSource::Path(file) if file.is_file() => Arc::new(SingleFile::open(file)?),
            folder => Arc::new(DiffusersFolder::open(folder)?),
        };
        Ok(Self { form })
    }

    /// The model with another VAE: from a folder with its `config.json`, from a whole model in a
    /// folder or file, or from a file of its own, with diffusers' or ldm's names.
    ///
    /// # Errors
    /// No VAE there, or one that is not supported.
    pub fn with_vae(self, path: &Path) -> Result<Self, WeightsError> {
        Ok(Self { form: Arc::new(Replaced::vae(self.form, path)?) })
    }

    /// The model with another UNet, from the same kinds of places.
    ///
    /// # Errors
    /// No UNet there, or one that is not supported.
    pub fn with_unet(self, path: &Path) -> Result<Self, WeightsError> {
        Ok(Self { form: Arc::new(Replaced::unet(self.form, path)?) })
    }

    /// What a user may want to know of the model, one line each: tensors that nothing uses, and what
    /// had to be guessed. Reads the headers of its files.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.form.notes()
    }

    /// Where the model is.
    #[must_use]
    pub fn source(&self) -> &ModelSource {
        self.form.source()
    }

    /// What `model_index.json` says about the model as a whole.
    #[must_use]
    pub fn index(&self) -> &Value {
        self.form.index()
    }

    /// Finds every file that loading the model will read, without reading any.
    ///
    /// # Errors
    /// The first part that is missing.
    pub fn check_parts(&self) -> Result<(), WeightsError> {
        self.form.check()
    }

    /// What `scheduler_config.json` says.
    ///
    /// # Errors
    /// A file that is missing or not JSON.
    pub fn scheduler(&self) -> Result<Value, WeightsError> {
        self.form.scheduler()
    }

    /// The configuration and weights of a part.
    ///
    /// # Errors
    /// A part that is missing, or a file that cannot be read.
    pub fn component(
        &self,
        part: Part,
        device: &Device,
        dtype: DType,
    ) -> Result<Component, WeightsError> {
        let PartConfig { class, config, file: config_file } = self.form.config(part)?;
        let tensors = self.form.tensors(part, dtype)?;
        let params = Params::new(Arc::new(tensors), dtype, device);
        Ok(Component { class, config, config_file, params })
    }

    /// The autoencoder, in `dtype`; in f32 where `dtype` is f16 and the configuration does not say
    /// that its weights stand that (`force_upcast`, METHOD §6).
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration that is not supported.
    pub fn vae(&self, device: &Device, dtype: DType) -> Result<Vae, WeightsError> {
        let Component { class, mut config, config_file, mut params } =
            self.component(Part::Vae, device, dtype)?;
        if let Some(fields) = config.as_object_mut() {
            fields.entry("_class_name").or_insert_with(|| class.into());
        }
        let is_kl = config["_class_name"] == "AutoencoderKL";
        let upcast = config.get("force_upcast").and_then(Value::as_bool).unwrap_or(is_kl);
        if dtype == DType::F16 && upcast {
            params = params.to_dtype(DType::F32);
        }
        Vae::load(&config, &params).map_err(|error| WeightsError::from_vae(error, &config_file))
    }

    /// The text encoders with their tokenizers.
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration or tokenizer that is not supported.
    pub fn text(&self, device: &Device, dtype: DType) -> Result<TextConditioner, WeightsError> {
        let mut encoders = Vec::new();
        for part in self.form.text_encoders()? {
            let tokenizer = self.tokenizer(part)?;
            let component = self.component(part, device, dtype)?;
            let file = &component.config_file;
            let config = ClipTextConfig::from_json(&component.config)
                .map_err(|error| WeightsError::from_text(error, file))?;
            let with_projection = match component.class.as_str() {
                "CLIPTextModel" => false,
                "CLIPTextModelWithProjection" => true,
                class => {
                    return Err(WeightsError::Config {
                        file: self.source().full_name("model_index.json"),
                        reason: format!(
                            "{part}: `{class}` is not supported (CLIPTextModel, CLIPTextModelWithProjection)"
                        ),
                    });
                }
            };
            let model = ClipTextModel::load(&config, with_projection, &component.params)?;
            encoders.push(TextEncoder { tokenizer, model });
        }
        TextConditioner::new(encoders)
            .map_err(|error| WeightsError::from_text(error, &self.source().to_string()))
    }

    fn tokenizer(&self, encoder: Part) -> Result<ClipTokenizer, WeightsError> {
        let bytes = self.form.tokenizer(encoder)?;
        ClipTokenizer::from_files(&TokenizerFiles {
            vocab_json: bytes.vocab_json.as_deref(),
            merges_txt: bytes.merges_txt.as_deref(),
            tokenizer_json: bytes.tokenizer_json.as_deref(),
            tokenizer_config_json: bytes.tokenizer_config_json.as_deref(),
            special_tokens_map_json: bytes.special_tokens_map_json.as_deref(),
        })
        .map_err(|error| WeightsError::from_text(error, &bytes.place))
    }
}
