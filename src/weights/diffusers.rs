//! A model in diffusers layout: a folder with a `model_index.json` and one folder a part; also the
//! form of the embedded model.

use candle_core::DType;
use serde_json::Value;

use super::form::{Form, Part, PartConfig, TokenizerBytes};
use super::{ModelSource, WeightsError, tensors::TensorMap};

/// A folder in diffusers layout whose `model_index.json` has been read. Nothing else has.
#[derive(Debug)]
pub(super) struct DiffusersFolder {
    source: ModelSource,
    index: Value,
}

impl DiffusersFolder {
    /// Reads `model_index.json`.
    ///
    /// # Errors
    /// A folder without one, or an index that is not JSON.
    pub(super) fn open(source: ModelSource) -> Result<Self, WeightsError> {
        let index = read_json(&source, "model_index.json")?;
        Ok(Self { source, index })
    }

    /// The class that `model_index.json` names for a part, if it names one.
    fn class(&self, part: Part) -> Option<&str> {
        self.index.get(part.folder())?.get(1)?.as_str()
    }

    /// The safetensors files of a part: the one in the wanted precision if there is a choice, else
    /// the plain one, else any; each whole or as the shards that an index lists.
    fn weight_files(&self, part: Part, dtype: DType) -> Result<Vec<String>, WeightsError> {
        let stem = match part {
            Part::Unet | Part::Vae => "diffusion_pytorch_model",
            Part::TextEncoder | Part::TextEncoder2 => "model",
        };
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
        match self.source.find_pickle(part.folder()) {
            Some(file) => Err(WeightsError::Pickled { file }),
            None => Err(self.missing(part.title(), &format!("{part}/{stem}.safetensors"))),
        }
    }

    fn shards(&self, part: Part, index: &str) -> Result<Vec<String>, WeightsError> {
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
            self.require(part.title(), shard)?;
        }
        Ok(shards)
    }

    /// Checks that a tokenizer's vocabulary is there in one of its two forms.
    fn check_tokenizer(&self, folder: &str) -> Result<(), WeightsError> {
        if self.source.contains(&format!("{folder}/tokenizer.json")) {
            return Ok(());
        }
        self.require("the tokenizer", &format!("{folder}/vocab.json"))?;
        self.require("the tokenizer", &format!("{folder}/merges.txt"))
    }

    fn require(&self, part: &'static str, file: &str) -> Result<(), WeightsError> {
        if self.source.contains(file) { Ok(()) } else { Err(self.missing(part, file)) }
    }

    fn missing(&self, part: &'static str, file: &str) -> WeightsError {
        WeightsError::MissingPart { model: self.source.to_string(), part, file: file.to_owned() }
    }
}

impl Form for DiffusersFolder {
    fn source(&self) -> &ModelSource {
        &self.source
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        let named: Vec<_> = [Part::TextEncoder, Part::TextEncoder2]
            .into_iter()
            .filter(|&part| self.class(part).is_some())
            .collect();
        if named.is_empty() {
            return Err(self.missing("the text encoder", "model_index.json names none"));
        }
        Ok(named)
    }

    fn index(&self) -> &Value {
        &self.index
    }

    fn scheduler(&self) -> Result<Value, WeightsError> {
        let file = "scheduler/scheduler_config.json";
        self.require("the scheduler", file)?;
        read_json(&self.source, file)
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        let file = format!("{part}/config.json");
        self.require(part.title(), &file)?;
        Ok(PartConfig {
            class: self.class(part).unwrap_or_default().to_owned(),
            config: read_json(&self.source, &file)?,
            file: self.source.full_name(&file),
        })
    }

    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError> {
        let mut tensors = TensorMap::default();
        for file in self.weight_files(part, dtype)? {
            tensors.add_safetensors(self.source.full_name(&file), self.source.map(&file)?)?;
        }
        Ok(tensors)
    }

    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        let folder = encoder.tokenizer_folder();
        self.check_tokenizer(folder)?;
        let read = |name: &str| {
            let file = format!("{folder}/{name}");
            let bytes = self.source.contains(&file).then(|| self.source.read(&file)).transpose()?;
            Ok::<_, WeightsError>(bytes.map(|bytes| bytes.to_vec()))
        };
        Ok(TokenizerBytes {
            vocab_json: read("vocab.json")?,
            merges_txt: read("merges.txt")?,
            tokenizer_json: read("tokenizer.json")?,
            tokenizer_config_json: read("tokenizer_config.json")?,
            special_tokens_map_json: read("special_tokens_map.json")?,
            place: self.source.full_name(folder),
        })
    }

    fn check(&self) -> Result<(), WeightsError> {
        self.require("the scheduler", "scheduler/scheduler_config.json")?;
        let encoders = self.text_encoders()?;
        for &part in [Part::Unet, Part::Vae].iter().chain(&encoders) {
            self.require(part.title(), &format!("{part}/config.json"))?;
            self.weight_files(part, DType::F32)?;
        }
        for encoder in encoders {
            self.check_tokenizer(encoder.tokenizer_folder())?;
        }
        Ok(())
    }
}

fn read_json(source: &ModelSource, name: &str) -> Result<Value, WeightsError> {
    serde_json::from_slice(&source.read(name)?).map_err(|source_error| WeightsError::Json {
        file: source.full_name(name),
        source: source_error,
    })
}
