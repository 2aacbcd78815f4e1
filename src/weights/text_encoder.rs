//! A model with its large text encoder, T5 or Qwen3, taken from elsewhere: it is larger than most denoisers, so it is handed
//! around by itself, in many precisions, and models come without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use serde_json::Value;

use super::families::{self, Family, qwen3, t5, tokenizer_folder};
use super::file_kind::FileKind;
use super::form::{ModelForm, unused_note};
use super::part::{Part, PartConfig, TokenizerBytes};
use super::part_file::PartFile;
use super::part_folder::{PartFolder, read_json};
use super::weights_file::open_tensors;
use super::{
    ModelSource, WeightsError, gguf, qwen_vocabulary, source, t5_vocabulary, tensors::TensorMap,
    tokenizer_files,
};
use crate::model::text::TextArrangement;

/// A model in some form, and its large text encoder from another place.
#[derive(Debug)]
pub(super) struct WithTextEncoder {
    base: Arc<dyn ModelForm>,
    part: Part,
    kind: Kind,
    place: Place,
}

/// Kind of the encoder that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    T5,
    Qwen3,
}

impl Kind {
    /// Name of the encoder in messages, without the article.
    fn title(self) -> &'static str {
        match self {
            Self::T5 => "T5 text encoder",
            Self::Qwen3 => "Qwen3 text encoder",
        }
    }

    /// `true` if this is a class of such encoders in transformers.
    fn is_class(self, class: &str) -> bool {
        match self {
            Self::T5 => t5::is_class(class),
            Self::Qwen3 => qwen3::is_class(class),
        }
    }

    /// Class of an encoder that this `config.json` in a folder of its own describes.
    ///
    /// # Errors
    /// An encoder of another kind, in one line without the file's name.
    fn class_of(self, config: &Value) -> Result<&'static str, String> {
        let model = config["model_type"].as_str().unwrap_or("none");
        match (self, model) {
            (Self::T5, "t5") => Ok("T5EncoderModel"),
            (Self::T5, "umt5") => Ok("UMT5EncoderModel"),
            (Self::T5, _) => Err(format!("`model_type` is {model}, not t5 or umt5")),
            (Self::Qwen3, "qwen3") => qwen3::class_of(config).ok_or_else(|| {
                let class = &config["architectures"][0];
                format!("`architectures` names {class}, not Qwen3ForCausalLM or Qwen3Model")
            }),
            (Self::Qwen3, _) => Err(format!("`model_type` is {model}, not qwen3")),
        }
    }

    /// The encoder in a file of any contents, if there is one.
    fn part(self, file: &str, tensors: &TensorMap) -> Result<Option<PartFile>, WeightsError> {
        match self {
            Self::T5 => t5::part(file, tensors),
            Self::Qwen3 => qwen3::part(file, tensors),
        }
    }

    /// The tokenizer for an encoder in a file.
    fn tokenizer(self, path: &Path) -> Result<TokenizerBytes, WeightsError> {
        match self {
            Self::T5 => t5_vocabulary::tokenizer(path),
            Self::Qwen3 => qwen_vocabulary::tokenizer(path),
        }
    }
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

impl Place {
    fn config(&self) -> Result<PartConfig, WeightsError> {
        match self {
            Self::Folder { folder, class, .. } => folder.config(Some(class)),
            Self::File { file, .. } => Ok(file.config.clone()),
        }
    }
}

impl WithTextEncoder {
    /// Takes the encoder from `path`: a folder with its `config.json`, a whole model in a folder or file, or a file of
    /// its own.
    ///
    /// # Errors
    /// A model that takes no such encoder, none of its kind there, or one that is not supported.
    pub(super) fn new(base: Arc<dyn ModelForm>, path: &Path) -> Result<Self, WeightsError> {
        let denoiser = base.config(Part::Denoiser)?;
        let (part, kind) = match base.family().text_arrangement(base.index(), &denoiser.config) {
            TextArrangement::T5 { .. } => (Part::TextEncoder(0), Kind::T5),
            TextArrangement::Joint { .. } => (Part::TextEncoder(2), Kind::T5),
            TextArrangement::Chat { .. } | TextArrangement::ChatLayers { .. } => {
                (Part::TextEncoder(0), Kind::Qwen3)
            }
            TextArrangement::Clip => {
                return Err(WeightsError::Config {
                    file: path.display().to_string(),
                    reason: "another text encoder is of no use to a model that reads texts with \
                             CLIP alone"
                        .to_owned(),
                });
            }
        };
        let path = &source::in_hub_cache(path);
        source::refuse_foreign(path)?;
        let place = if path.is_dir() {
            in_folder(path, part, kind, base.family())?
        } else if path.is_file() {
            in_file(path, kind)?
        } else {
            return Err(WeightsError::NotFound(path.to_owned()));
        };
        if kind == Kind::Qwen3 {
            check_layers(&place.config()?, base.config(part).ok().as_ref())?;
        }
        Ok(Self { base, part, kind, place })
    }
}

/// Holds the number of layers against that of the model's own encoder, or of the published ones of its width: states are taken
/// before the last layer, so another number gives other states, though all tensors fit.
fn check_layers(given: &PartConfig, own: Option<&PartConfig>) -> Result<(), WeightsError> {
    let field = |config: &PartConfig, name: &str| {
        config.config[name].as_u64().and_then(|size| usize::try_from(size).ok())
    };
    let (Some(layers), Some(width)) =
        (field(given, "num_hidden_layers"), field(given, "hidden_size"))
    else {
        return Ok(());
    };
    // Of another width it does not fit at all, which the denoiser says.
    let own = own.filter(|own| field(own, "hidden_size") == Some(width));
    let wanted = own.and_then(|own| field(own, "num_hidden_layers"));
    match wanted.or_else(|| qwen3::published_layers(width)) {
        Some(wanted) if wanted != layers => Err(WeightsError::Config {
            file: given.file.clone(),
            reason: format!(
                "a Qwen3 of {layers} layers, where the model reads texts with one of {wanted}"
            ),
        }),
        _ => Ok(()),
    }
}

/// The encoder in a folder: of itself, or of a whole model.
fn in_folder(
    path: &Path,
    part: Part,
    kind: Kind,
    family: &'static dyn Family,
) -> Result<Place, WeightsError> {
    let source = ModelSource::Path(path.to_owned());
    let (mut inner, mut tokenizer) = (String::new(), String::new());
    if source.contains("model_index.json") {
        let index = read_json(&source, "model_index.json")?;
        let other = families::of_index(&index);
        let is_wanted =
            |part: &Part| other.class_in(&index, *part).is_some_and(|class| kind.is_class(class));
        if let Some(part) = other.text_encoders_in(&index).into_iter().find(is_wanted) {
            (inner, tokenizer) =
                (other.folder(part).into_owned(), tokenizer_folder(part).into_owned());
        }
    }
    let folder = PartFolder::new(source.clone(), &inner, part, family);
    folder.check()?;
    let PartConfig { config, file, .. } = folder.config(None)?;
    let class = kind.class_of(&config).map_err(|reason| WeightsError::Config { file, reason })?;
    Ok(Place::Folder { source, folder, class: class.to_owned(), tokenizer })
}

/// The encoder in a file.
fn in_file(path: &Path, kind: Kind) -> Result<Place, WeightsError> {
    let tensors = open_tensors(path)?;
    let name = path.display().to_string();
    let Some(mut file) = kind.part(&name, &tensors)? else {
        let (part, contents) = (kind.title(), families::contents(&tensors));
        return Err(WeightsError::NoSuchPart { file: name, part, contents });
    };
    if kind == Kind::Qwen3 && FileKind::of_file(path) == Some(FileKind::Gguf) {
        let layers = file.config.config["num_hidden_layers"].as_u64().unwrap_or_default();
        let said = gguf::qwen3_config(path, usize::try_from(layers).unwrap_or_default())?;
        for (field, value) in said {
            file.config.config[field] = value;
        }
    }
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
        if part == self.part { self.place.config() } else { self.base.config(part) }
    }

    fn tensors(&self, part: Part, dtype: DType) -> Result<TensorMap, WeightsError> {
        match &self.place {
            _ if part != self.part => self.base.tensors(part, dtype),
            Place::Folder { folder, .. } => folder.tensors(dtype),
            Place::File { file, .. } => Ok(file.tensors.clone()),
        }
    }

    /// The vocabulary that the encoder comes with, else the model's own: all T5 v1.1 have the same, and all Qwen3.
    fn tokenizer(&self, encoder: Part) -> Result<TokenizerBytes, WeightsError> {
        if encoder != self.part {
            return self.base.tokenizer(encoder);
        }
        let own = match &self.place {
            Place::Folder { source, tokenizer, .. } => tokenizer_files::read(source, tokenizer),
            Place::File { path, .. } => self.kind.tokenizer(path),
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
