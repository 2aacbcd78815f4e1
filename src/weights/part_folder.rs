//! One part in diffusers layout: a folder with a `config.json` and safetensors files, of a whole model or by
//! itself.

use std::borrow::Cow;

use candle_core::DType;
use serde_json::Value;

use super::families::Family;
use super::file_kind::FileKind;
use super::form::unused_note;
use super::hub::names::is_name;
use super::part::{Part, PartConfig};
use super::quoted::quoted;
use super::{ModelSource, WeightsError, tensors::TensorMap};

/// A part in a folder of a source; nothing has been read.
#[derive(Clone, Debug)]
pub(super) struct PartFolder {
    source: ModelSource,
    /// relative to the source; empty where the source is the part
    folder: String,
    part: Part,
    family: &'static dyn Family,
}

impl PartFolder {
    /// Part in this folder of a source, relative to it; empty where the source is the part.
    pub(super) fn new(
        source: ModelSource,
        folder: &str,
        part: Part,
        family: &'static dyn Family,
    ) -> Self {
        Self { source, folder: folder.to_owned(), part, family }
    }

    /// Reads `config.json`; `class` is the part's class in an index, else the file says it.
    ///
    /// # Errors
    /// A file that is missing or not JSON.
    pub(super) fn config(&self, class: Option<&str>) -> Result<PartConfig, WeightsError> {
        let file = self.file("config.json");
        self.require(&file)?;
        let config = read_json(&self.source, &file)?;
        let class = class.or_else(|| config.get("_class_name")?.as_str()).unwrap_or_default();
        Ok(PartConfig { class: class.to_owned(), file: self.source.full_name(&file), config })
    }

    /// Reads the headers of the weights; `dtype` is the precision wanted, where there is a choice.
    ///
    /// # Errors
    /// A file that is missing, cannot be read, or is damaged.
    pub(super) fn tensors(&self, dtype: DType) -> Result<TensorMap, WeightsError> {
        let mut tensors = TensorMap::default();
        for file in self.weight_files(dtype)? {
            tensors.add_safetensors(self.source.full_name(&file), self.source.map(&file)?)?;
        }
        Ok(tensors)
    }

    /// Finds configuration and weights without reading any.
    ///
    /// # Errors
    /// A file that is missing.
    pub(super) fn check(&self) -> Result<(), WeightsError> {
        self.require(&self.file("config.json"))?;
        self.weight_files(DType::F32).map(|_| ())
    }

    /// Line about tensors that the configuration does not ask for. What cannot be read is left to
    /// [`tensors`](Self::tensors) to report.
    pub(super) fn note(&self, class: Option<&str>) -> Option<String> {
        let expected = self.family.expected_names(self.part, &self.config(class).ok()?)?;
        let tensors = self.tensors(DType::F32).ok()?;
        let files = self.weight_files(DType::F32).ok()?;
        let unused = tensors.names().filter(|name| {
            !expected.contains(*name) && !expected.contains(&format!("text_model.{name}"))
        });
        unused_note(&self.source.full_name(files.first()?), unused)
    }

    /// Safetensors files of the part: the variant in the wanted precision if there is a choice, else the plain
    /// one, else any; each whole or as the shards that an index lists.
    fn weight_files(&self, dtype: DType) -> Result<Vec<String>, WeightsError> {
        let stem = match self.part {
            Part::Denoiser | Part::Vae | Part::Control => "diffusion_pytorch_model",
            Part::TextEncoder(_) => "model",
        };
        let preferred = match dtype {
            DType::F16 => ["fp16", "", "bf16"],
            DType::BF16 => ["bf16", "", "fp16"],
            _ => ["", "fp16", "bf16"],
        };
        let names = self.source.names(&self.folder);
        let others = names.iter().filter_map(|name| variant_of(name, stem));
        for variant in preferred.into_iter().chain(others) {
            let dot = if variant.is_empty() { "" } else { "." };
            let whole = self.file(&format!("{stem}{dot}{variant}.safetensors"));
            if self.source.contains(&whole) {
                return Ok(vec![whole]);
            }
            // diffusers puts the variant before the last suffix.
            let index = self.file(&format!("{stem}.safetensors.index{dot}{variant}.json"));
            if self.source.contains(&index) {
                return self.shards(&index);
            }
        }
        // Some savers give safetensors the name of a pickle.
        let pickle = self.file(match self.part {
            Part::Denoiser | Part::Vae | Part::Control => "diffusion_pytorch_model.bin",
            Part::TextEncoder(_) => "pytorch_model.bin",
        });
        if self.source.path().and_then(|path| FileKind::of_file(&path.join(&pickle)))
            == Some(FileKind::Safetensors)
        {
            return Ok(vec![pickle]);
        }
        match self.source.find_pickle(&self.folder) {
            Some(file) => Err(WeightsError::Pickled { file }),
            None => Err(self.missing(&self.file(&format!("{stem}.safetensors")))),
        }
    }

    fn shards(&self, index: &str) -> Result<Vec<String>, WeightsError> {
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
            if !is_name(name) {
                let name = quoted(name, LONGEST_QUOTE);
                return Err(fail(format!("`{name}` is not the name of a shard")));
            }
            shards.push(self.file(name));
        }
        if shards.is_empty() {
            return Err(fail("its `weight_map` is empty".to_owned()));
        }
        shards.sort();
        shards.dedup();
        for shard in &shards {
            self.require(shard)?;
        }
        Ok(shards)
    }

    /// Name of a file of the part, relative to the source.
    fn file(&self, name: &str) -> String {
        if self.folder.is_empty() { name.to_owned() } else { format!("{}/{name}", self.folder) }
    }

    fn require(&self, file: &str) -> Result<(), WeightsError> {
        if self.source.contains(file) { Ok(()) } else { Err(self.missing(file)) }
    }

    fn missing(&self, file: &str) -> WeightsError {
        WeightsError::MissingPart {
            model: self.source.to_string(),
            part: self.family.title(self.part),
            file: file.to_owned(),
        }
    }
}

/// Variant of a weights file or of the index of one: `fp32`, `non_ema` and whatever else its maker thought of.
fn variant_of<'a>(name: &'a str, stem: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let index = rest.strip_prefix("safetensors.index.").and_then(|rest| rest.strip_suffix(".json"));
    let variant = index.or_else(|| rest.strip_suffix(".safetensors"))?;
    // A shard has its number there.
    variant.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(variant)
}

/// Longest description: the index of a model with thousands of shards has some hundred kilobytes, and a megabyte of
/// JSON can take a hundred in memory.
const LONGEST_JSON: u64 = 2 << 20;
/// Characters of a name in a message.
const LONGEST_QUOTE: usize = 80;

/// Reads a small file as JSON.
///
/// # Errors
/// A file that is missing, too long or not JSON.
pub(super) fn read_json(source: &ModelSource, name: &str) -> Result<Value, WeightsError> {
    let bytes = source.read_up_to(name, LONGEST_JSON)?;
    serde_json::from_slice(&finite(&bytes)).map_err(|source_error| WeightsError::Json {
        file: source.full_name(name),
        source: source_error,
    })
}

/// Replaces by `null` the numbers that JSON cannot write and Python does all the same: the schedulers of
/// diffusers have a `"lambda_min_clipped": -Infinity`. Lines keep their numbers, for messages.
fn finite(text: &[u8]) -> Cow<'_, [u8]> {
    const NAMES: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut text = Cow::Borrowed(text);
    let (mut at, mut quoted) = (0, false);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            _ => {
                if let Some(name) = NAMES.into_iter().find(|name| text[at..].starts_with(name)) {
                    let mut null = b"null".to_vec();
                    null.resize(name.len().max(4), b' ');
                    text.to_mut().splice(at..at + name.len(), null);
                }
            }
        }
        at += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_null_and_texts_stay() {
        let text = br#"{"a": -Infinity, "NaN": [NaN, Infinity], "b": "\"-Infinity"}"#;
        let json: Value = serde_json::from_slice(&finite(text)).unwrap();
        assert_eq!(json.to_string(), r#"{"NaN":[null,null],"a":null,"b":"\"-Infinity"}"#);
        assert!(matches!(finite(br#"{"a": 1}"#), Cow::Borrowed(_)));
    }

    #[test]
    fn any_variant_is_told_from_a_shard() {
        let stem = "diffusion_pytorch_model";
        for (end, variant) in [
            (".fp32.safetensors", Some("fp32")),
            (".non_ema.safetensors", Some("non_ema")),
            (".safetensors.index.ema.json", Some("ema")),
            (".safetensors", None),
            (".fp16-00001-of-00002.safetensors", None),
            (".safetensors.index.json", None),
            (".fp16.bin", None),
        ] {
            assert_eq!(variant_of(&format!("{stem}{end}"), stem), variant, "{end}");
        }
    }
}
