//! LLaVA models of llama.cpp: the decoder in one GGUF file, the vision tower with the projector ("mmproj") in
//! another. Their metadata becomes transformers' configuration files, and their tensors get the names of the
//! published checkpoints, so that one loader serves both.
//!
//! Sources: llama.cpp `gguf-py/gguf/constants.py` (names), `conversion/llama.py` (`permute`: queries and
//! keys of LLaMA have their rotated pairs side by side), `tools/mtmd/clip-impl.h`,
//! `tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::keys::ARCHITECTURE_KEY;
use super::read::Header;
use super::vocabulary::{SCORES_KEY, TOKENS_KEY, TYPES_KEY, Vocabulary};
use crate::weights::WeightsError;
use crate::weights::source::{Bytes, refuse_foreign};
use crate::weights::tensors::{TensorInfo, TensorMap};

/// `general.architecture` of a file with a vision tower.
const VISION: &str = "clip";
/// Architecture of LLaMA and Mistral decoders.
const DECODER: &str = "llama";
/// Blocks of CLIP ViT-L, of which LLaVA takes the last but one.
const WHOLE_TOWER: u64 = 24;

/// Contents of a folder of transformers.
pub(in crate::weights) struct LlamaCppModel {
    /// `config.json`
    pub config: Value,
    /// `preprocessor_config.json`
    pub preprocessor: Value,
    pub chat_template: Option<String>,
    /// `tokenizer.json`
    pub tokenizer: Value,
    pub tensors: TensorMap,
}

/// A file whose header has been read.
pub(in crate::weights) struct LlamaCppFile {
    path: PathBuf,
    name: String,
    bytes: Bytes,
    header: Header,
}

impl LlamaCppFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// A file that cannot be read, or is no GGUF file.
    pub(in crate::weights) fn open(path: &Path) -> Result<Self, WeightsError> {
        refuse_foreign(path)?;
        let name = path.display().to_string();
        let bytes =
            Bytes::map(path).map_err(|source| WeightsError::Read { file: name.clone(), source })?;
        let header =
            Header::read_with(&bytes, |key| [TOKENS_KEY, SCORES_KEY, TYPES_KEY].contains(&key))
                .map_err(|reason| WeightsError::Gguf { file: name.clone(), reason })?;
        Ok(Self { path: path.to_owned(), name, bytes, header })
    }

    /// `true` if it holds a vision tower.
    pub(in crate::weights) fn is_vision(&self) -> bool {
        self.header.string(ARCHITECTURE_KEY) == Some(VISION)
    }

    /// `true` if it holds a decoder.
    pub(in crate::weights) fn is_decoder(&self) -> bool {
        self.header.string(ARCHITECTURE_KEY) == Some(DECODER)
    }

    /// Path of the file.
    pub(in crate::weights) fn path(&self) -> &Path {
        &self.path
    }

    fn fail(&self, reason: impl Into<String>) -> WeightsError {
        WeightsError::Gguf { file: self.name.clone(), reason: reason.into() }
    }

    fn integer(&self, key: &str) -> Result<u64, WeightsError> {
        self.header.optional(key).ok_or_else(|| self.fail(format!("`{key}` is missing")))
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// One size of a tensor that must be there.
    fn size(&self, name: &str, axis: usize) -> Result<usize, WeightsError> {
        self.tensor(name)
            .and_then(|tensor| tensor.shape.get(axis).copied())
            .ok_or_else(|| self.fail(format!("tensor `{name}` is missing")))
    }
}

impl LlamaCppModel {
    /// Joins the two files.
    ///
    /// # Errors
    /// A file of another kind, or one that lacks something.
    pub(in crate::weights) fn new(
        decoder: &LlamaCppFile,
        vision: &LlamaCppFile,
    ) -> Result<Self, WeightsError> {
        let decoder_config = decoder_config(decoder)?;
        let vocabulary =
            Vocabulary::read(&decoder.header).map_err(|reason| decoder.fail(reason))?;
        let newline = vision.header.tensors.iter().any(|tensor| is_newline(&tensor.name));
        let (vision_config, feature_layers) = vision_config(vision)?;
        let mut config = json!({
            "model_type": if newline { "llava_next" } else { "llava" },
            "image_token_index": vocabulary.image_token,
            "text_config": decoder_config,
            "vision_config": vision_config,
            "vision_feature_layer": feature_layers,
            "projector_hidden_act": "gelu",
        });
        if let Some(flat) = vision.header.integers("clip.vision.image_grid_pinpoints") {
            let pairs: Vec<_> = flat.chunks(2).map(<[i128]>::to_vec).collect();
            config["image_grid_pinpoints"] = json!(pairs);
        }
        let mut preprocessor = json!({});
        for key in ["image_mean", "image_std"] {
            if let Some(values) = vision.header.floats(&format!("clip.vision.{key}")) {
                preprocessor[key] = json!(values);
            }
        }
        let mut tensors = TensorMap::default();
        let named = decoder.header.tensors.iter();
        let named = named.filter_map(|tensor| Some((decoder_name(&tensor.name)?, tensor)));
        tensors.add_gguf(decoder.name.clone(), decoder.bytes.clone(), named);
        // llama.cpp's first converter for LLaVA took the MLP's layers one for the other.
        let inner = vision.size("v.blk.0.ffn_down.weight", 0)? as u64;
        let swapped = inner != vision.integer("clip.vision.embedding_length")?;
        let named = vision.header.tensors.iter();
        let named = named.filter_map(|tensor| Some((vision_name(&tensor.name, swapped)?, tensor)));
        tensors.add_gguf(vision.name.clone(), vision.bytes.clone(), named);
        Ok(Self {
            config,
            preprocessor,
            chat_template: decoder.header.string("tokenizer.chat_template").map(str::to_owned),
            tokenizer: vocabulary.tokenizer(),
            tensors,
        })
    }
}

fn decoder_config(file: &LlamaCppFile) -> Result<Value, WeightsError> {
    let architecture = file.header.string(ARCHITECTURE_KEY).unwrap_or_default();
    if architecture != DECODER {
        return Err(file.fail(format!("a `{architecture}` model; `{DECODER}` is wanted")));
    }
    if file.tensor("rope_freqs.weight").is_some() {
        return Err(file.fail("its rotary frequencies are a table: not supported"));
    }
    let key = |name: &str| format!("{DECODER}.{name}");
    let integer = |name: &str| file.integer(&key(name));
    let heads = integer("attention.head_count")?;
    let key_heads = file.header.optional(&key("attention.head_count_kv")).unwrap_or(heads);
    let width = integer("embedding_length")?;
    let head_dim = file
        .header
        .optional(&key("attention.key_length"))
        .or_else(|| file.header.optional(&key("rope.dimension_count")))
        .unwrap_or_else(|| width / heads.max(1));
    let mut scaling = Value::Null;
    match file.header.string(&key("rope.scaling.type")) {
        None | Some("none") => {}
        Some(kind) => {
            scaling =
                json!({"type": kind, "factor": file.header.float(&key("rope.scaling.factor"))});
        }
    }
    // Both are `llama` here. Vicuna's heads share nothing, Mistral's do.
    let is_mistral = key_heads < heads;
    Ok(json!({
        "model_type": if is_mistral { "mistral" } else { "llama" },
        "vocab_size": file.size("token_embd.weight", 0)?,
        "hidden_size": width,
        "intermediate_size": integer("feed_forward_length")?,
        "num_hidden_layers": integer("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_dim,
        "max_position_embeddings": integer("context_length")?,
        "rms_norm_eps": file.header.float(&key("attention.layer_norm_rms_epsilon"))
            .ok_or_else(|| file.fail("no `attention.layer_norm_rms_epsilon`"))?,
        "rope_theta": file.header.float(&key("rope.freq_base")),
        "rope_scaling": scaling,
        "sliding_window": file.header.optional(&key("attention.sliding_window")),
        "tie_word_embeddings": file.tensor("output.weight").is_none(),
        "eos_token_id": file.header.optional("tokenizer.ggml.eos_token_id"),
    }))
}

/// Configuration of the vision tower, and the indices of its states that are features.
fn vision_config(file: &LlamaCppFile) -> Result<(Value, Vec<i128>), WeightsError> {
    let kind = file.header.string("clip.projector_type").unwrap_or("mlp");
    if !file.is_vision() || kind != "mlp" || file.tensor("mm.0.weight").is_none() {
        return Err(file.fail(format!(
            "no vision tower with LLaVA's projector (architecture `{}`, projector `{kind}`)",
            file.header.string(ARCHITECTURE_KEY).unwrap_or_default()
        )));
    }
    let integer = |name: &str| file.integer(&format!("clip.vision.{name}"));
    let blocks = integer("block_count")?;
    // Files hold the blocks up to the last state that is a feature, or all of them.
    let layers =
        file.header.integers("clip.vision.feature_layer").filter(|layers| !layers.is_empty());
    let layers = layers.unwrap_or_else(|| vec![i128::from(blocks.min(WHOLE_TOWER - 1))]);
    let gelu = file.header.flag("clip.use_gelu").unwrap_or(false);
    let config = json!({
        "model_type": "clip_vision_model",
        "hidden_size": integer("embedding_length")?,
        "intermediate_size": integer("feed_forward_length")?,
        "num_hidden_layers": blocks,
        "num_attention_heads": integer("attention.head_count")?,
        "image_size": integer("image_size")?,
        "patch_size": integer("patch_size")?,
        "layer_norm_eps": file.header.float("clip.vision.attention.layer_norm_epsilon"),
        "hidden_act": if gelu { "gelu" } else { "quick_gelu" },
    });
    Ok((config, layers))
}

/// Name of a decoder's tensor in published checkpoints.
fn decoder_name(name: &str) -> Option<String> {
    Some(match name {
        "token_embd.weight" => "language_model.model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => "language_model.model.norm.weight".to_owned(),
        "output.weight" => "language_model.lm_head.weight".to_owned(),
        _ => {
            let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let rest = match rest.strip_suffix(".weight")? {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("language_model.model.layers.{block}.{rest}.weight")
        }
    })
}

fn is_newline(name: &str) -> bool {
    matches!(name, "model.image_newline" | "v.image_newline")
}

/// Name of a tensor of the vision tower or projector in published checkpoints.
fn vision_name(name: &str, swapped: bool) -> Option<String> {
    if is_newline(name) {
        return Some("image_newline".to_owned());
    }
    if let Some(rest) = name.strip_prefix("mm.") {
        let (layer, rest) = rest.split_once('.')?;
        let layer = match layer {
            "0" => "linear_1",
            "2" => "linear_2",
            _ => return None,
        };
        return Some(format!("multi_modal_projector.{layer}.{rest}"));
    }
    let inner = match name.strip_prefix("v.")? {
        "class_embd" => "embeddings.class_embedding".to_owned(),
        "patch_embd.weight" => "embeddings.patch_embedding.weight".to_owned(),
        "position_embd.weight" => "embeddings.position_embedding.weight".to_owned(),
        rest => match rest.strip_prefix("pre_ln.") {
            Some(rest) => format!("pre_layrnorm.{rest}"),
            None => {
                let (block, rest) = rest.strip_prefix("blk.")?.split_once('.')?;
                let (module, rest) = rest.split_once('.')?;
                let module = match (module, swapped) {
                    ("attn_q", _) => "self_attn.q_proj",
                    ("attn_k", _) => "self_attn.k_proj",
                    ("attn_v", _) => "self_attn.v_proj",
                    ("attn_out", _) => "self_attn.out_proj",
                    ("ln1", _) => "layer_norm1",
                    ("ln2", _) => "layer_norm2",
                    ("ffn_up", false) | ("ffn_down", true) => "mlp.fc1",
                    ("ffn_down", false) | ("ffn_up", true) => "mlp.fc2",
                    _ => return None,
                };
                format!("encoder.layers.{block}.{module}.{rest}")
            }
        },
    };
    Some(format!("vision_tower.vision_model.{inner}"))
}
