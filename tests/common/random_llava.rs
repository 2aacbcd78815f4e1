//! LLaVA models of any size with weights by chance: what they say is gibberish, what they take of memory
//! and time is not.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::{Value, json};

/// The decoder's sizes; the rest is small.
#[derive(Clone, Copy)]
pub struct Decoder {
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub vocabulary: usize,
}

const VISION: (usize, usize, usize) = (256, 1024, 4);
const SIDE: usize = 168;
const PATCH: usize = 14;

/// Writes such a model, LLaVA-1.5 on LLaMA, into `folder`, its weights in `dtype`.
pub fn write(folder: &Path, decoder: Decoder, dtype: DType) {
    fs::create_dir_all(folder).unwrap();
    let fixture = super::fixture("llava/llava15_llama");
    let tokenizer = fs::read(fixture.join("tokenizer.json")).unwrap();
    let known: Value = serde_json::from_slice(&tokenizer).unwrap();
    let mut added = known["added_tokens"].as_array().unwrap().iter();
    let image = added.find(|token| token["content"] == "<image>").unwrap()["id"].clone();
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    let (width, inner, layers) = VISION;
    let config = json!({
        "model_type": "llava", "image_token_index": image,
        "text_config": {
            "model_type": "llama", "vocab_size": decoder.vocabulary,
            "hidden_size": decoder.hidden, "intermediate_size": decoder.inner,
            "num_hidden_layers": decoder.layers, "num_attention_heads": decoder.hidden / 64,
            "max_position_embeddings": 2048,
        },
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": 4, "image_size": SIDE,
            "patch_size": PATCH,
        },
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors: HashMap<String, Tensor> =
        shapes(decoder).into_iter().map(|(name, shape)| weight(name, &shape, dtype)).collect();
    // Only tokens that begin a word are ever chosen, so that there is a text and that it is long.
    let mut begins_a_word = vec![0f32; decoder.vocabulary];
    for (word, token) in known["model"]["vocab"].as_object().unwrap() {
        if word.strip_prefix('▁').is_some_and(|rest| !rest.is_empty()) {
            begins_a_word[token.as_u64().unwrap() as usize] = 1.0;
        }
    }
    let kept = Tensor::from_vec(begins_a_word, (decoder.vocabulary, 1), &Device::Cpu).unwrap();
    let head = &tensors["language_model.lm_head.weight"];
    let head = head.broadcast_mul(&kept.to_dtype(dtype).unwrap()).unwrap();
    tensors.insert("language_model.lm_head.weight".to_owned(), head);
    safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

fn weight(name: String, shape: &[usize], dtype: DType) -> (String, Tensor) {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = if name.contains("norm") && name.ends_with("weight") {
        vec![1.0; count]
    } else {
        let scale = (*shape.last().unwrap() as f32).sqrt().recip();
        let mut state = name.bytes().fold(1u64, |seed, byte| seed * 31 + u64::from(byte)) | 1;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            values.push(((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale);
        }
        values
    };
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    (name, tensor)
}

fn shapes(decoder: Decoder) -> Vec<(String, Vec<usize>)> {
    let Decoder { hidden, inner, layers, vocabulary } = decoder;
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
    let language = "language_model";
    add(format!("{language}.model.embed_tokens.weight"), &[vocabulary, hidden]);
    add(format!("{language}.model.norm.weight"), &[hidden]);
    add(format!("{language}.lm_head.weight"), &[vocabulary, hidden]);
    for layer in 0..layers {
        let at = format!("{language}.model.layers.{layer}");
        for name in ["q", "k", "v", "o"] {
            add(format!("{at}.self_attn.{name}_proj.weight"), &[hidden, hidden]);
        }
        add(format!("{at}.mlp.gate_proj.weight"), &[inner, hidden]);
        add(format!("{at}.mlp.up_proj.weight"), &[inner, hidden]);
        add(format!("{at}.mlp.down_proj.weight"), &[hidden, inner]);
        add(format!("{at}.input_layernorm.weight"), &[hidden]);
        add(format!("{at}.post_attention_layernorm.weight"), &[hidden]);
    }
    let (width, wide, depth) = VISION;
    let vision = "vision_tower.vision_model";
    add(format!("{vision}.embeddings.class_embedding"), &[width]);
    add(format!("{vision}.embeddings.patch_embedding.weight"), &[width, 3, PATCH, PATCH]);
    let positions = (SIDE / PATCH).pow(2) + 1;
    add(format!("{vision}.embeddings.position_embedding.weight"), &[positions, width]);
    let mut both = |name: String, output: usize, input: Option<usize>| {
        let shape: Vec<usize> = std::iter::once(output).chain(input).collect();
        all.push((format!("{name}.weight"), shape));
        all.push((format!("{name}.bias"), vec![output]));
    };
    both(format!("{vision}.pre_layrnorm"), width, None);
    for layer in 0..depth {
        let at = format!("{vision}.encoder.layers.{layer}");
        for name in ["q", "k", "v", "out"] {
            both(format!("{at}.self_attn.{name}_proj"), width, Some(width));
        }
        both(format!("{at}.mlp.fc1"), wide, Some(width));
        both(format!("{at}.mlp.fc2"), width, Some(wide));
        both(format!("{at}.layer_norm1"), width, None);
        both(format!("{at}.layer_norm2"), width, None);
    }
    both("multi_modal_projector.linear_1".to_owned(), hidden, Some(width));
    both("multi_modal_projector.linear_2".to_owned(), hidden, Some(hidden));
    all
}
