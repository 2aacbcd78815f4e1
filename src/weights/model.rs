//! A diffusion model of any form and family: the place where its parts become networks. Every part is built here
//! (denoiser, autoencoder, text encoders), so that the rest of the program never sees a class name or a file.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::control::ControlFiles;
use super::diffusers::DiffusersFolder;
use super::embedding::Embedding;
use super::enlarger::EnlargerFiles;
use super::families::autoencoder_kl;
use super::form::ModelForm;
use super::gguf::{self, Summary, model::GgufModel};
use super::headers::Footprint;
use super::kept::{Keeping, KeptWeights};
use super::lora::{self, Adapted, Index, Lora, LoraScale};
use super::part::{Part, PartConfig, with_class};
use super::quantize::Rules;
use super::read_options::ReadOptions;
use super::replace::Replaced;
use super::single_file::SingleFile;
use super::source::in_hub_cache;
use super::text_encoder::WithTextEncoder;
use super::{ModelSource, QuantType, WeightsError, tensors::TensorMap};
use crate::backend::{MatmulPrecision, Params};
use crate::model::denoiser::{Control, Denoiser};
use crate::model::text::{
    TextArrangement, TextConditioner, TextEncoder, TextError, TextPart, TextTokenizer,
    TokenizerFiles,
};
use crate::model::vae::Vae;

/// A model that has been found and recognised; its tensors have not been read.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    pub(super) form: Arc<dyn ModelForm>,
    loras: Vec<Lora>,
    pub(super) embeddings: Vec<Embedding>,
    /// lines for the user about files of embeddings
    pub(super) embedding_notes: Vec<String>,
    controls: Vec<ControlFiles>,
    pub(super) options: ReadOptions,
    /// matmul precision of the denoiser on the CPU
    precision: MatmulPrecision,
}

/// Configuration and weights of one part.
pub struct Component {
    /// class of diffusers or transformers, `AutoencoderKL` for example
    pub class: String,
    /// contents of `config.json`
    pub config: Value,
    /// full name of that file, for messages
    pub config_file: String,
    /// weights, in the precision and on the device asked for
    pub params: Params,
}

impl ModelFiles {
    /// Recognises the model's form and reads its description.
    ///
    /// # Errors
    /// A source that is no model in a known form, or a description that cannot be read.
    pub fn open(source: ModelSource) -> Result<Self, WeightsError> {
        let source = match source {
            ModelSource::Path(path) => ModelSource::Path(in_hub_cache(&path)),
            #[cfg(feature = "embedded-model")]
            ModelSource::Embedded => source,
        };
        source.check()?;
        let paths = source.path().map(Path::to_owned).into_iter().collect();
        let form: Arc<dyn ModelForm> = match (GgufModel::open(&source)?, source) {
            (Some(model), _) => Arc::new(model),
            (None, ModelSource::Path(file)) if file.is_file() => Arc::new(SingleFile::open(file)?),
            (None, folder) => Arc::new(DiffusersFolder::open(folder)?),
        };
        Ok(Self {
            form,
            loras: Vec::new(),
            embeddings: Vec::new(),
            embedding_notes: Vec::new(),
            controls: Vec::new(),
            options: ReadOptions::new(paths),
            precision: MatmulPrecision::F32,
        })
    }

    /// Model with another VAE: from a folder with its `config.json`, from a whole model in a
    /// folder or file, or from a file of its own, with diffusers' or ldm's names.
    ///
    /// # Errors
    /// No VAE there, or one that is not supported.
    pub fn with_vae(mut self, path: &Path) -> Result<Self, WeightsError> {
        self.options.paths.push(path.to_owned());
        Ok(Self { form: Arc::new(Replaced::vae(self.form, path)?), ..self })
    }

    /// Model with another denoiser, from the same kinds of places.
    ///
    /// # Errors
    /// No denoiser there, or one that is not supported.
    pub fn with_denoiser(mut self, path: &Path) -> Result<Self, WeightsError> {
        self.options.paths.push(path.to_owned());
        Ok(Self { form: Arc::new(Replaced::denoiser(self.form, path)?), ..self })
    }

    /// Model with another large text encoder (T5 of PixArt and Stable Diffusion 3, Qwen3 of Z-Image), or with one where it
    /// had none: from a folder with its `config.json`, from a whole model in a folder or file, or from a file of its own with
    /// transformers' or llama.cpp's names. A file has its vocabulary in itself (GGUF) or beside it (`tokenizer.json`,
    /// T5's `spiece.model`).
    ///
    /// # Errors
    /// A model that takes no such encoder, none of its kind there, or one that is not supported.
    pub fn with_text_encoder(mut self, path: &Path) -> Result<Self, WeightsError> {
        self.options.paths.push(path.to_owned());
        Ok(Self { form: Arc::new(WithTextEncoder::new(self.form, path)?), ..self })
    }

    /// Model with the changes of a LoRA or one of its relatives (`scale` 1 as it was trained, 0 not at all; any finite
    /// number, or a [`LoraScale`] with weights of blocks), after those it has. `path` is a safetensors file in kohya's,
    /// LyCORIS', peft's or one of diffusers' namings, or the folder in which diffusers or peft saved one. Weights change
    /// as they are read: in f32, one LoRA after the other, then rounded once to the precision or format in which they
    /// are kept.
    ///
    /// # Errors
    /// A file that cannot be read or is of a kind that is not supported, one made for another model family, matrices
    /// that do not fit the weights they are named after, or weights of blocks that the model has not.
    pub fn with_lora(
        mut self,
        path: &Path,
        scale: impl Into<LoraScale>,
    ) -> Result<Self, WeightsError> {
        let mut parts = Vec::new();
        for part in [Part::Denoiser].into_iter().chain(self.form.text_encoders()?) {
            parts.push((part, self.form.tensors(part, DType::F32)?));
        }
        let family = self.form.family();
        let names = family.denoiser_names(&self.form.config(Part::Denoiser)?)?;
        let index = Index::new(&parts, &names, family.lora());
        let path = lora::file_of(path);
        self.loras.push(Lora::open(&path, scale.into(), &index, family)?);
        // What it says of the scale changes the weights, too.
        self.options.paths.extend(lora::config_of(&path));
        self.options.paths.push(path);
        Ok(self)
    }

    /// Model with a control beside its denoiser, after those that it has: a ControlNet in a folder with its `config.json`,
    /// or in a file of its own, with diffusers' names or those of the code that trained it. `name` is what users and
    /// metadata see.
    ///
    /// # Errors
    /// No ControlNet there, or one that is not supported. Whether it was made for this model, building both tells.
    pub fn with_control(mut self, path: &Path, name: String) -> Result<Self, WeightsError> {
        self.options.paths.push(path.to_owned());
        self.controls.push(ControlFiles::open(&*self.form, path, name)?);
        Ok(self)
    }

    /// Names of the controls, in the order in which they were given.
    pub fn controls(&self) -> impl Iterator<Item = &str> {
        self.controls.iter().map(ControlFiles::name)
    }

    /// LoRAs in the order in which they were given: the file's name without its folder, and the scale.
    pub fn loras(&self) -> impl Iterator<Item = (&str, &LoraScale)> {
        self.loras.iter().map(|lora| (lora.name.as_str(), &lora.scale))
    }

    /// Digest that changes when any file of the model does, or how it is put together. Reads no weights: files
    /// are told apart by place, length and time of change.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> String {
        self.options.fingerprint(self.loras.iter().flat_map(|lora| lora.scale.numbers()))
    }

    /// Lines that the user should read though the model can be used: tensors that nothing uses, what had to be
    /// guessed, modules of a LoRA that fit nothing. Reads the headers of the files.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let of_loras = self.loras.iter().flat_map(|lora| lora.notes.clone());
        let of_embeddings = self.embedding_notes.iter().cloned();
        let of_controls = self.controls.iter().filter_map(ControlFiles::note);
        let of_parts = of_loras.chain(of_embeddings).chain(of_controls);
        self.form.notes().into_iter().chain(of_parts).collect()
    }

    /// Same model with its weights rounded to this type as they are read: the same, to the bit, as if
    /// [`quantize`](Self::quantize) had written it and it had been opened from there.
    #[must_use]
    pub fn quantized(self, quant: QuantType) -> Self {
        Self { options: self.options.quantized(quant), ..self }
    }

    /// Same model, of which the CPU keeps parts with more weights than this as they are stored, instead of those
    /// that are worth it: 0 for all, `usize::MAX` for none.
    #[must_use]
    pub fn keep_above(self, weights: usize) -> Self {
        Self { options: self.options.keep_above(weights), ..self }
    }

    /// Same model with this matmul precision of the denoiser on the CPU, where it takes nearly all the time of a
    /// job; everything else stays in f32.
    #[must_use]
    pub fn with_precision(self, precision: MatmulPrecision) -> Self {
        Self { precision, ..self }
    }

    /// Matmul precision of the denoiser on the CPU.
    #[must_use]
    pub fn precision(&self) -> MatmulPrecision {
        self.precision
    }

    /// Writes the whole model, quantized, into one GGUF file that [`open`](Self::open) reads.
    /// Replaces `output` when complete, and leaves nothing before that; `progress` is called with the bytes
    /// of tensors that are done, and with those of all, and can stop the work.
    ///
    /// # Errors
    /// A model that is not whole, one that would replace itself, weights that are not finite, a file that
    /// cannot be written or for which there is no room, or [`WeightsError::Interrupted`].
    pub fn quantize(
        &self,
        quant: QuantType,
        output: &Path,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Summary, WeightsError> {
        self.form.check()?;
        if self.options.paths.iter().any(|path| is_part_of(output, path)) {
            return Err(WeightsError::OntoItself(output.display().to_string()));
        }
        let files = self.clone().quantized(quant);
        let weights = |part| files.weights(part, DType::F32);
        gguf::export(&*self.form, weights, quant, output, progress)
    }

    /// Place of the model.
    #[must_use]
    pub fn source(&self) -> &ModelSource {
        self.form.source()
    }

    /// The network that enlarges the input before this model repaints it, if it has one of its own.
    ///
    /// # Errors
    /// A file that cannot be read; a network that is none of those that are known.
    pub fn first_enlarger(&self) -> Result<Option<EnlargerFiles>, WeightsError> {
        EnlargerFiles::of_model(self.source())
    }

    /// Contents of `model_index.json`, about the model as a whole.
    #[must_use]
    pub(crate) fn index(&self) -> &Value {
        self.form.index()
    }

    /// Sampling that the makers of models of this family recommend for its denoiser, as a model's own `cupscale` has it.
    ///
    /// # Errors
    /// A denoiser that is missing.
    pub(crate) fn defaults(&self) -> Result<Value, WeightsError> {
        let denoiser = self.form.config(Part::Denoiser)?;
        Ok(self.form.family().defaults(self.index(), &denoiser.config))
    }

    /// Finds every file that loading the model will read, without reading any.
    ///
    /// # Errors
    /// The first part that is missing.
    pub fn check_parts(&self) -> Result<(), WeightsError> {
        self.form.check()
    }

    /// Contents of `scheduler_config.json`.
    ///
    /// # Errors
    /// A file that is missing or not JSON.
    pub fn scheduler(&self) -> Result<Value, WeightsError> {
        self.form.scheduler()
    }

    /// Configuration and weights of a part.
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
        let precision = match part {
            Part::Denoiser | Part::Control => self.precision,
            Part::Vae | Part::TextEncoder(_) => MatmulPrecision::F32,
        };
        let params = self.options.params(weights, dtype, device, precision);
        Ok(Component { class, config, config_file, params })
    }

    /// Builds something of the model from the headers of its files alone: finds tensors that are missing or of a
    /// wrong shape or type, as building with weights would, and tells what the weights would take. `build` gets
    /// files whose weights have shapes and no values: a network built of them has a configuration, and runs on
    /// shapes alone ([`Trace`](crate::backend::Trace)).
    ///
    /// # Errors
    /// Those of `build`.
    pub fn without_values<T, E>(
        &self,
        build: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<(T, Footprint), E> {
        self.options.without_values(|options| build(&Self { options, ..self.clone() }))
    }

    /// First weight of the model, or of its LoRAs, with a value that is not finite: its file and its name there.
    /// Reads all weights.
    #[must_use]
    pub(crate) fn find_non_finite(&self) -> Option<String> {
        let mut parts = self.form.parts().unwrap_or_default().into_iter();
        let in_part = |part| self.form.tensors(part, DType::F32).ok()?.find_non_finite();
        let of_control =
            |control: &ControlFiles| control.tensors(DType::F32).ok()?.find_non_finite();
        parts
            .find_map(in_part)
            .or_else(|| self.loras.iter().find_map(Lora::find_non_finite))
            .or_else(|| self.controls.iter().find_map(of_control))
    }

    /// Weights of a part with the changes of all LoRAs, to be kept as the options say.
    fn weights(&self, part: Part, dtype: DType) -> Result<KeptWeights, WeightsError> {
        let stored = Arc::new(self.form.tensors(part, dtype)?);
        let changes: Vec<_> = self.loras.iter().filter_map(|lora| lora.changes(part)).collect();
        let adapted = (!changes.is_empty()).then(|| Adapted::new(stored.clone(), changes));
        Ok(self.kept(part, stored, adapted))
    }

    /// Weights of a part, to be kept as the options say.
    fn kept(&self, part: Part, stored: Arc<TensorMap>, adapted: Option<Adapted>) -> KeptWeights {
        let as_stored = stored.count() > self.options.keep_above;
        let rules = self.options.quantized.map(|quant| Rules::Part {
            part,
            family: self.form.family(),
            quant,
        });
        KeptWeights::new(stored, adapted, Keeping { as_stored, rules })
    }

    /// Denoiser in `dtype`.
    ///
    /// # Errors
    /// As [`component`](Self::component), or a class or configuration that is not supported.
    pub fn denoiser(&self, device: &Device, dtype: DType) -> Result<Denoiser, WeightsError> {
        let Component { class, config, config_file, params } =
            self.component(Part::Denoiser, device, dtype)?;
        Ok(Denoiser::load(&class, &config, &config_file, &params)?)
    }

    /// Controls in `dtype`, in the order in which they were given.
    ///
    /// # Errors
    /// As [`component`](Self::component), or a class or configuration that is not supported.
    pub fn load_controls(
        &self,
        device: &Device,
        dtype: DType,
    ) -> Result<Vec<Control>, WeightsError> {
        let load = |files: &ControlFiles| {
            let PartConfig { class, config, file } = files.config()?;
            let weights = self.kept(Part::Control, Arc::new(files.tensors(dtype)?), None);
            let params = self.options.params(weights, dtype, device, self.precision);
            Ok(Control::load(&class, &config, &file, &params)?)
        };
        self.controls.iter().map(load).collect()
    }

    /// Autoencoder in `dtype`; in f32 where `dtype` is f16 and the configuration does not say that its weights
    /// stand that (`force_upcast`, docs/method.md §6).
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration that is not supported.
    pub fn vae(&self, device: &Device, dtype: DType) -> Result<Vae, WeightsError> {
        let Component { class, config, config_file, mut params } =
            self.component(Part::Vae, device, dtype)?;
        let config = with_class(config, class);
        let is_kl = config["_class_name"].as_str().is_some_and(autoencoder_kl::is_class);
        let upcast = config.get("force_upcast").and_then(Value::as_bool).unwrap_or(is_kl);
        if dtype == DType::F16 && upcast {
            params = params.to_dtype(DType::F32);
        }
        Vae::load(&config, &params).map_err(|error| WeightsError::from_vae(error, &config_file))
    }

    /// Text encoders with their tokenizers.
    ///
    /// # Errors
    /// As [`component`](Self::component), or a configuration or tokenizer that is not supported.
    pub fn text(&self, device: &Device, dtype: DType) -> Result<TextConditioner, WeightsError> {
        // A model without any is told first.
        let encoders = self.form.text_encoders()?;
        let (mut parts, arrangement) = (Vec::new(), self.arrangement()?);
        for (index, part) in encoders.into_iter().enumerate() {
            let tokenizer = self.tokenizer(part)?;
            let Component { class, config, config_file, params } =
                self.component(part, device, dtype)?;
            let mut encoder = TextEncoder::load(&class, &config, arrangement.layers(), &params)
                .map_err(|error| match error {
                    // The index names the class.
                    TextError::Class { .. } => WeightsError::Config {
                        file: self.source().full_name("model_index.json"),
                        reason: format!("{}: {error}", self.form.family().folder(part)),
                    },
                    error => WeightsError::from_text(error, &config_file),
                })?;
            let of_embeddings = self.embeddings.iter().filter_map(|one| one.vectors.get(index));
            let vectors: Vec<_> = of_embeddings.collect();
            if !vectors.is_empty() {
                encoder = encoder
                    .with_vectors(&Tensor::cat(&vectors, 0)?)
                    .map_err(|error| WeightsError::from_text(error, &config_file))?;
            }
            parts.push(TextPart { tokenizer, encoder });
        }
        TextConditioner::new(parts, arrangement)
            .map_err(|error| WeightsError::from_text(error, &self.source().to_string()))
    }

    /// How the states of the text encoders are arranged for the denoiser.
    pub(super) fn arrangement(&self) -> Result<TextArrangement, WeightsError> {
        let denoiser = self.form.config(Part::Denoiser)?;
        Ok(self.form.family().text_arrangement(self.index(), &denoiser.config))
    }

    fn tokenizer(&self, encoder: Part) -> Result<TextTokenizer, WeightsError> {
        let bytes = self.form.tokenizer(encoder)?;
        let names: Vec<_> = self.embeddings.iter().map(|one| one.name.clone()).collect();
        TextTokenizer::from_files(&TokenizerFiles {
            vocab_json: bytes.vocab_json.as_deref(),
            merges_txt: bytes.merges_txt.as_deref(),
            tokenizer_json: bytes.tokenizer_json.as_deref(),
            spiece_model: bytes.spiece_model.as_deref(),
            tokenizer_config_json: bytes.tokenizer_config_json.as_deref(),
            special_tokens_map_json: bytes.special_tokens_map_json.as_deref(),
        })
        .and_then(|tokenizer| tokenizer.with_embeddings(&names))
        .map_err(|error| WeightsError::from_text(error, &bytes.place))
    }
}

/// `true` if `file` exists and is `model` or in the folder `model`.
fn is_part_of(file: &Path, model: &Path) -> bool {
    match (file.canonicalize(), model.canonicalize()) {
        (Ok(file), Ok(model)) => file.starts_with(model),
        _ => false,
    }
}
