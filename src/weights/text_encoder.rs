//! A model with its T5 taken from elsewhere: the encoder is larger than most denoisers, so it is handed around by itself,
//! in many precisions, and models come without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use serde_json::Value;

use super::families::{self, Family, t5, tokenizer_folder};
use super::form::{ModelForm, unused_note};
use super::part::{Part, PartConfig, TokenizerBytes};
use super::part_file::PartFile;
use super::part_folder::{PartFolder, read_json};
use super::weights_file::open_tensors;
use super::{
    ModelSource, WeightsError, source, t5_vocabulary, tensors::TensorMap, tokenizer_files,
};
use crate::model::text::TextArrangement;

/// A model in some form, and T5's encoder from another place.
#[derive(Debug)]
pub(super) struct WithTextEncoder {
    base: Arc<dyn ModelForm>,
    part: Part,
    place: Place,
}

/// Place where the encoder comes from.
#[derive(Debug)]
enum Place {
    /// `tokenizer` is relative to the source, as the part's folder is
    Folder {
        source: ModelSource,
        folder: PartFolder,
        class: String,
        tokenizer: String,
    },
    File {
        path: PathBuf,
        file: Box<PartFile>,
        note: Option<String>,
    },
}

impl WithTextEncoder {
    /// Takes T5's encoder from `path`: a folder with its `config.json`, a whole model in a folder or file, or a file of
    /// its own.
    ///
    /// # Errors
    /// A model that takes no T5, no T5 there, or one that is not supported.
    pub(super) fn new(base: Arc<dyn ModelForm>, path: &Path) -> Result<Self, WeightsError> {
        let denoiser = base.config(Part::Denoiser)?;
        let part = match base.family().text_arrangement(base.index(), &denoiser.config) {
            TextArrangement::T5 { .. } => Part::TextEncoder(0),
            TextArrangement::Joint { .. } => Part::TextEncoder(2),
            TextArrangement::Clip
            | TextArrangement::Chat { .. }
            | TextArrangement::ChatLayers { .. } => {
                return Err(WeightsError::Config {
                    file: path.display().to_string(),
                    reason:
                        "a T5 text encoder is of no use to a model that reads texts without one"
                            .to_owned(),
                });
            }
        };
        let path = &source::in_hub_cache(path);
        source::refuse_foreign(path)?;
        let place = if path.is_dir() {
            in_folder(path, part, base.family())?
        } else if path.is_file() {
            in_file(path)?
        } else {
            return Err(WeightsError::NotFound(path.to_owned()));
        };
        Ok(Self { base, part, place })
    }
}

/// The encoder in a folder: of itself, or of a whole model.
fn in_folder(path: &Path, part: Part, family: &'static dyn Family) -> Result<Place, WeightsError> {
    let source = ModelSource::Path(path.to_owned());
    let (mut inner, mut tokenizer) = (String::new(), String::new());
    if source.contains("model_index.json") {
        let index = read_json(&source, "model_index.json")?;
        let other = families::of_index(&index);
        let is_t5 = |part: &Part| other.class_in(&index, *part).is_some_and(t5::is_class);
        if let Some(part) = other.text_encoders_in(&index).into_iter().find(is_t5) {
            (inner, tokenizer) =
                (other.folder(part).into_owned(), tokenizer_folder(part).into_owned());
        }
    }
    let folder = PartFolder::new(source.clone(), &inner, part, family);
    folder.check()?;
    let PartConfig { config, file, .. } = folder.config(None)?;
    let class = match config["model_type"].as_str() {
        Some("t5") => "T5EncoderModel",
        Some("umt5") => "UMT5EncoderModel",
        other => {
            let other = other.unwrap_or("none").to_owned();
            let reason = format!("`model_type` is {other}, not t5 or umt5");
            return Err(WeightsError::Config { file, reason });
        }
    };
    Ok(Place::Folder { source, folder, class: class.to_owned(), tokenizer })
}

/// The encoder in a file.
fn in_file(path: &Path) -> Result<Place, WeightsError> {
    let tensors = open_tensors(path)?;
    let name = path.display().to_string();
    let Some(file) = t5::part(&name, &tensors)? else {
        let contents = families::contents(&tensors);
        return Err(WeightsError::NoSuchPart { file: name, part: "T5 text encoder", contents });
    };
    let note = unused_note(&name, file.unused(&tensors));
    Ok(Place::File { path: path.to_owned(), file: Box::new(file), note })
}

impl ModelForm for WithTextEncoder {
    fn source(&self) -> &ModelSource {
        self.base.source()
    }

    fn family(&self) -> &'static dyn Family {
        self.base.family()
    }

    fn text_encoders(&self) -> Result<Vec<Part>, WeightsError> {
        // A model may name no other.
        let mut parts = self.base.text_encoders().unwrap_or_default();
        if !parts.contains(&self.part) {
            parts.push(self.part);
            parts.sort();
        }
        Ok(parts)
    }

    fn index(&self) -> &Value {
        self.base.index()
    }

    fn scheduler(&self) -> Result<Value, WeightsError> {
        self.base.scheduler()
    }

    fn config(&self, part: Part) -> Result<PartConfig, WeightsError> {
        match &self.place {
            _ if part != self.part => self.base.config(part),
            Place::Folder { folder, class, .. } => folder.config(Some(class)),
            Place::File { file, .. } => Ok(file.config.clone()),
        }
    }

    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError> {
        match &self.place {
            _ if part != self.part => self.base.tensors(part, dtype),
            Place::Folder { folder, .. } => folder.tensors(dtype),
            Place::File { file, .. } => Ok(file.tensors.clone()),
        }
    }

    /// The vocabulary that the encoder comes with, else the model's own: all T5 v1.1 have the same.
    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        if encoder != self.part {
            return self.base.tokenizer(encoder);
        }
        let own = match &self.place {
            Place::Folder { source, tokenizer, .. } => tokenizer_files::read(source, tokenizer),
            Place::File { path, .. } => t5_vocabulary::tokenizer(path),
        };
        match own {
            Err(missing @ WeightsError::MissingPart { .. }) => {
                self.base.tokenizer(encoder).map_err(|_| missing)
            }
            own => own,
        }
    }

    fn check_part(&self, part: Part) -> Result<(), WeightsError> {
        if part != self.part {
            return self.base.check_part(part);
        }
        if let Place::Folder { folder, .. } = &self.place {
            folder.check()?;
        }
        self.tokenizer(part).map(|_| ())
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.base.notes();
        notes.extend(match &self.place {
            Place::Folder { folder, class, .. } => folder.note(Some(class)),
            Place::File { note, .. } => note.clone(),
        });
        notes
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, safetensors};

    use super::*;
    use crate::backend::Params;
    use crate::model::text::{TextEncoder, TextTokenizer, TokenizerFiles};
    use crate::weights::kept::{Keeping, KeptWeights};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/t5").join(name)
    }

    /// Largest difference from what transformers computes with the rounded weights, over the largest value.
    fn error(file: &str, expected: &str, as_stored: bool) -> f32 {
        let tensors = open_tensors(&fixture(file)).unwrap();
        let part = t5::part(file, &tensors).unwrap().unwrap();
        assert_eq!(part.unused(&tensors).next(), None);
        let keeping = Keeping { as_stored, rules: None };
        let weights = KeptWeights::new(Arc::new(part.tensors), None, keeping);
        let params = Params::new(Arc::new(weights), DType::F32, &Device::Cpu);
        let encoder =
            TextEncoder::load(&part.config.class, &part.config.config, &[], &params).unwrap();
        let reference =
            safetensors::load(fixture("files/expected.safetensors"), &Device::Cpu).unwrap();
        let ids: Vec<Vec<i64>> = reference["ids"].to_vec2().unwrap();
        let ids: Vec<Vec<u32>> =
            ids.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect();
        let ours = encoder.encode(&ids, None).unwrap().last.into_tensor().unwrap();
        let most = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let reference = &reference[expected];
        most((ours - reference).unwrap()) / most(reference.clone())
    }

    #[test]
    fn files_of_llama_cpp_and_comfyui_give_the_states_of_transformers() {
        for (file, expected) in
            [("files/t5.gguf", "gguf"), ("files/t5_fp8_e4m3fn.safetensors", "fp8")]
        {
            for as_stored in [false, true] {
                let error = error(file, expected, as_stored);
                assert!(error <= 1e-4, "{file}, as stored: {as_stored}: {error:e}");
            }
        }
    }

    /// Tokenizer of a T5 encoder's file.
    fn tokenizer(path: &Path) -> Result<TextTokenizer, WeightsError> {
        let files = t5_vocabulary::tokenizer(path)?;
        Ok(TextTokenizer::from_files(&TokenizerFiles {
            tokenizer_json: files.tokenizer_json.as_deref(),
            spiece_model: files.spiece_model.as_deref(),
            tokenizer_config_json: files.tokenizer_config_json.as_deref(),
            ..TokenizerFiles::default()
        })
        .unwrap())
    }

    #[test]
    fn a_vocabulary_in_the_file_or_beside_it_is_that_of_the_folder() {
        let cases: Value =
            serde_json::from_slice(&std::fs::read(fixture("cases.json")).unwrap()).unwrap();
        let texts: Vec<String> = serde_json::from_value(cases["texts"].clone()).unwrap();
        let beside = tempfile::tempdir().unwrap();
        let file = beside.path().join("t5.safetensors");
        std::fs::copy(fixture("files/t5_fp8_e4m3fn.safetensors"), &file).unwrap();
        let error = tokenizer(&file).unwrap_err().to_string();
        assert!(
            error.contains("T5's vocabulary is missing (put tokenizer.json or spiece.model"),
            "{error}"
        );
        std::fs::copy(fixture("spiece/spiece.model"), beside.path().join("spiece.model")).unwrap();
        for (path, name) in [(fixture("files/t5.gguf"), "json.24"), (file, "spiece.24")] {
            let ids: Vec<Vec<u32>> = serde_json::from_value(cases["ids"][name].clone()).unwrap();
            let tokenizer = tokenizer(&path).unwrap().with_length(24);
            for (text, expected) in texts.iter().zip(&ids) {
                let tokens = tokenizer.encode(text).unwrap();
                assert_eq!(&tokens.ids[..tokens.count], expected, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn fp8_with_scales_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t5xxl_fp8_e4m3fn_scaled.safetensors");
        let one = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        let name = "encoder.block.0.layer.0.SelfAttention.q.scale_weight".to_owned();
        safetensors::save(&std::collections::HashMap::from([(name, one)]), &file).unwrap();
        let error = open_tensors(&file).unwrap_err().to_string();
        assert!(error.contains("scaled_fp8") && error.contains("GGUF"), "{error}");
    }
}
