//! A model of any form, and how each of its parts becomes a component. Text encoders and VAE are
//! built here; of the UNet, configuration and weights are handed out, because what it is built with
//! is the pipeline's business.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};
use serde_json::Value;

use super::diffusers::DiffusersFolder;
use super::fingerprint::fingerprint;
use super::form::{Form, Part, PartConfig};
use super::gguf::{self, GgufModel, Summary};
use super::headers::{Footprint, Headers};
use super::kept::{Keeping, KeptWeights};
use super::lora::{self, Adapted, Index, Lora};
use super::quantize::Rules;
use super::replace::Replaced;
use super::single_file::SingleFile;
use super::source::in_hub_cache;
use super::{ModelSource, QuantType, WeightsError};
use crate::backend::MatmulPrecision;
use crate::backend::{ParamSource, Params};
use crate::model::text::{
    ClipTextConfig, ClipTextModel, ClipTokenizer, TextConditioner, TextEncoder, TokenizerFiles,
};
use crate::model::denoiser::unet::UNetConfig;
use crate::model::vae::{Vae, VaeConfig};

/// A model that has been found and recognised; its tensors have not been read.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    form: Arc<dyn Form>,
    /// every file and folder that a part of it comes from
    paths: Vec<PathBuf>,
    loras: Vec<Lora>,
    quantized: Option<QuantType>,
    keep_above: usize,
    /// in what the CPU multiplies in the UNet
    products: MatmulPrecision,
    /// Where to add up what weights would take, instead of reading them.
    footprint: Option<Arc<Mutex<Footprint>>>,
}

/// On the CPU, parts with more weights than this are kept as they are stored: those that would take
/// more than 384 MiB in f32. Smaller ones gain little, and the embedded model and SDXL's VAE, whose
/// convolutions would be brought to f32 for every tile, stay as fast as f32 is. Weights are counted, not bytes, so that quantizing a part does not change how it is kept.
pub(super) const KEEP_ABOVE: usize = 96 << 20;

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
        let source = match source {
            ModelSource::Path(path) => ModelSource::Path(in_hub_cache(&path)),
            ModelSource::Embedded => source,
        };
        source.check()?;
        let paths = match &source {
            ModelSource::Path(path) => vec![path.clone()],
            ModelSource::Embedded => Vec::new(),
        };
        let form: Arc<dyn Form> = match (GgufModel::open(&source)?, source) {
            (Some(model), _) => Arc::new(model),
            (None, ModelSource::Path(file)) if file.is_file() => Arc::new(SingleFile::open(file)?),
            (None, folder) => Arc::new(DiffusersFolder::open(folder)?),
        };
        Ok(Self {
            form,
            paths,
            loras: Vec::new(),
            quantized: None,
            keep_above: KEEP_ABOVE,
            products: MatmulPrecision::F32,
            footprint: None,
        })
    }

    /// The model with another VAE: from a folder with its `config.json`, from a whole model in a
    /// folder or file, or from a file of its own, with diffusers' or ldm's names.
    ///
    /// # Errors
    /// No VAE there, or one that is not supported.
    pub fn with_vae(mut self, path: &Path) -> Result<Self, WeightsError> {
        self.paths.push(path.to_owned());
        Ok(Self { form: Arc::new(Replaced::vae(self.form, path)?), ..self })
    }

    /// The model with another UNet, from the same kinds of places.
    ///
    /// # Errors
    /// No UNet there, or one that is not supported.
    pub fn with_unet(mut self, path: &Path) -> Result<Self, WeightsError> {
        self.paths.push(path.to_owned());
        Ok(Self { form: Arc::new(Replaced::unet(self.form, path)?), ..self })
    }

    /// The model with the changes of a LoRA (`scale` 1 as it was trained, 0 not at all; any finite
    /// number), in addition to those it has. `path` is a safetensors file in kohya's, peft's or one of
    /// diffusers' namings, or the folder in which diffusers or peft saved one. Weights change as they are read: summed in f32 over all LoRAs, then rounded
    /// once to the precision or format in which they are kept.
    ///
    /// # Errors
    /// A file that cannot be read or is no plain LoRA, one made for another model family, or matrices
    /// that do not fit the weights they are named after.
    pub fn with_lora(mut self, path: &Path, scale: f64) -> Result<Self, WeightsError> {
        let mut parts = Vec::new();
        for part in [Part::Unet].into_iter().chain(self.form.text_encoders()?) {
            parts.push((part, self.form.tensors(part, DType::F32)?));
        }
        let PartConfig { config, file, .. } = self.form.config(Part::Unet)?;
        let unet = UNetConfig::from_json(&config.to_string())
            .map_err(|error| WeightsError::Config { file, reason: error.to_string() })?;
        let path = lora::file_of(path);
        self.loras.push(Lora::open(&path, scale, &Index::new(&parts, &unet))?);
        self.paths.push(path);
        Ok(self)
    }

    /// The LoRAs, in the order in which they were given: the file's name without its folder, and the
    /// scale.
    pub fn loras(&self) -> impl Iterator<Item = (&str, f64)> {
        self.loras.iter().map(|lora| (lora.name.as_str(), lora.scale))
    }

    /// A digest that changes when any file of the model does, or how it is put together. Reads no
    /// weights: files are told apart by place, length and time of change.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.paths, self.loras.iter().map(|lora| lora.scale), self.quantized)
    }

    /// What the user should know though the model can be used, a line each: tensors that nothing
    /// uses, what had to be guessed, what of a LoRA fits nothing. Reads the headers of the files.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let of_loras = self.loras.iter().flat_map(|lora| lora.notes.clone());
        self.form.notes().into_iter().chain(of_loras).collect()
    }

    /// The same model with its weights rounded to this type as they are read: the same, to the bit,
    /// as if [`quantize`](Self::quantize) had written it and it had been opened from there.
    #[must_use]
    pub fn quantized(self, quant: QuantType) -> Self {
        Self { quantized: Some(quant), ..self }
    }

    /// On the CPU, keep parts with more weights than this as they are stored, instead of those that
    /// are worth it: 0 for all, `usize::MAX` for none.
    #[must_use]
    pub fn keep_above(self, weights: usize) -> Self {
        Self { keep_above: weights, ..self }
    }

    /// On the CPU, multiply in this precision in the UNet, which takes nearly all the time of a job;
    /// everything else stays in f32.
    #[must_use]
    pub fn with_products(self, products: MatmulPrecision) -> Self {
        Self { products, ..self }
    }

    /// In what the CPU multiplies in the UNet.
    #[must_use]
    pub fn products(&self) -> MatmulPrecision {
        self.products
    }

    /// Writes the whole model, quantized, into one GGUF file that [`open`](Self::open) reads.
    /// Replaces `output` when complete; `progress` is called with the bytes of tensors that are
    /// done, and with those of all.
    ///
    /// # Errors
    /// A model that is not whole, one that would replace itself, weights that are not finite, or
    /// a file that cannot be written.
    pub fn quantize(
        &self,
        quant: QuantType,
        output: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Summary, WeightsError> {
        self.form.check()?;
        if let ModelSource::Path(source) = self.source()
            && is_part_of(output, source)
        {
            return Err(WeightsError::OntoItself(output.display().to_string()));
        }
        let files = self.clone().quantized(quant);
        let weights = |part| files.weights(part, DType::F32);
        gguf::export(&*self.form, weights, quant, output, progress)
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
        let weights = self.weights(part, dtype)?;
        let source: Arc<dyn ParamSource> = match &self.footprint {
            Some(footprint) => Arc::new(Headers::new(weights, footprint.clone())),
            None => Arc::new(weights),
        };
        let products = if part == Part::Unet { self.products } else { MatmulPrecision::F32 };
        let params = Params::new(source, dtype, device).with_precision(products);
        Ok(Component { class, config, config_file, params })
    }

    /// Builds something of the model from the headers of its files alone: finds what building it with
    /// its weights would find missing, of a wrong shape or of a wrong type, and tells what they would
    /// take. `build` gets files whose weights have shapes and no values: what it builds of them may be
    /// asked for its configuration and must not be run.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn without_values<T, E>(
        &self,
        build: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<(T, Footprint), E> {
        let footprint = Arc::default();
        let files = Self { footprint: Some(Arc::clone(&footprint)), ..self.clone() };
        let built = build(&files)?;
        let footprint = *footprint.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((built, footprint))
    }

    /// The first weight of the model, or of its LoRAs, that has a value which is no number: its file and
    /// its name there. Reads all of them.
    #[must_use]
    pub fn find_non_finite(&self) -> Option<String> {
        let encoders = self.form.text_encoders().unwrap_or_default();
        let mut parts = [Part::Unet, Part::Vae].into_iter().chain(encoders);
        let in_part = |part| self.form.tensors(part, DType::F32).ok()?.find_non_finite();
        parts.find_map(in_part).or_else(|| self.loras.iter().find_map(Lora::find_non_finite))
    }

    /// A part's weights with the changes of all LoRAs, to be kept as this model is to keep them.
    fn weights(&self, part: Part, dtype: DType) -> Result<KeptWeights, WeightsError> {
        let stored = Arc::new(self.form.tensors(part, dtype)?);
        let changes: Vec<_> = self.loras.iter().filter_map(|lora| lora.deltas(part)).collect();
        let adapted = (!changes.is_empty()).then(|| Adapted::new(stored.clone(), changes));
        let as_stored = stored.count() > self.keep_above;
        let rules = self.quantized.map(|quant| Rules::Part { part, quant });
        Ok(KeptWeights::new(stored, adapted, Keeping { as_stored, rules }))
    }

    /// The autoencoder, in `dtype`; in f32 where `dtype` is f16 and the configuration does not say
    /// that its weights stand that (`force_upcast`, METHOD §6).
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration that is not supported.
    pub fn vae(&self, device: &Device, dtype: DType) -> Result<Vae, WeightsError> {
        let Component { class, config, config_file, mut params } =
            self.component(Part::Vae, device, dtype)?;
        let config = with_class(config, class);
        let is_kl = config["_class_name"] == "AutoencoderKL";
        let upcast = config.get("force_upcast").and_then(Value::as_bool).unwrap_or(is_kl);
        if dtype == DType::F16 && upcast {
            params = params.to_dtype(DType::F32);
        }
        Vae::load(&config, &params).map_err(|error| WeightsError::from_vae(error, &config_file))
    }

    /// The autoencoder's configuration.
    ///
    /// # Errors
    /// A part that is missing, or a configuration that is not supported.
    pub fn vae_config(&self) -> Result<VaeConfig, WeightsError> {
        let PartConfig { class, config, file } = self.form.config(Part::Vae)?;
        VaeConfig::from_json(&with_class(config, class))
            .map_err(|error| WeightsError::from_vae(error, &file))
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

    /// The tokenizers of the text encoders alone.
    ///
    /// # Errors
    /// A tokenizer that is missing or not supported.
    pub fn tokenizers(&self) -> Result<Vec<ClipTokenizer>, WeightsError> {
        self.form.text_encoders()?.into_iter().map(|part| self.tokenizer(part)).collect()
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

/// An autoencoder's configuration with its class, which may be in the model's index alone.
fn with_class(mut config: Value, class: String) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.entry("_class_name").or_insert_with(|| class.into());
    }
    config
}

/// Whether `file` exists and is `model` or in the folder `model`.
fn is_part_of(file: &Path, model: &Path) -> bool {
    match (file.canonicalize(), model.canonicalize()) {
        (Ok(file), Ok(model)) => file.starts_with(model),
        _ => false,
    }
}
