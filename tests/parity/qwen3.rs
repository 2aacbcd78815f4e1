//! Qwen's tokenizer and Qwen3's states against transformers, and the conditions that Z-Image has of them against
//! diffusers (fixtures by tests/make_fixtures/make_z_image_fixtures.py).

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::backend::{Params, Trace};
use cupscale::model::text::{
    Prompt, TextArrangement, TextConditioner, TextEncoder, TextPart, TextTokenizer, TokenizerFiles,
};
use serde_json::Value;

use crate::common::{
    drawn::{sizes, weight},
    fixture,
    tensors::{bits, norm_error},
};

const ENCODERS: [&str; 3] = ["shared_heads", "alone", "one_head_of_keys"];

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("z_image").join(name)).unwrap()).unwrap()
}

/// The tokenizer of one form of its files.
fn tokenizer(is_whole: bool) -> TextTokenizer {
    let read = |file: &str| fs::read(fixture("z_image/tokenizer").join(file)).ok();
    let config = read("tokenizer_config.json");
    let (whole, vocab, merges) = (read("tokenizer.json"), read("vocab.json"), read("merges.txt"));
    TextTokenizer::from_files(&TokenizerFiles {
        tokenizer_config_json: config.as_deref(),
        tokenizer_json: whole.as_deref().filter(|_| is_whole),
        vocab_json: vocab.as_deref(),
        merges_txt: merges.as_deref(),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

fn weights(description: &Value) -> HashMap<String, Tensor> {
    let shapes = description["shapes"].as_object().unwrap().iter();
    shapes.map(|(name, shape)| (name.clone(), weight(name, &sizes(shape)))).collect()
}

fn encoder(name: &str) -> TextEncoder {
    let description = json(&format!("{name}.json"));
    let class = description["config"]["architectures"][0].as_str().unwrap();
    let vb = Params::from_tensors(weights(&description), DType::F32, &Device::Cpu);
    TextEncoder::load(class, &description["config"], &[], &vb).unwrap()
}

fn conditioner(name: &str, tokens: usize) -> TextConditioner {
    let part = TextPart { tokenizer: tokenizer(true), encoder: encoder(name) };
    TextConditioner::new(vec![part], TextArrangement::Chat { tokens }).unwrap()
}

fn prompts() -> Vec<String> {
    serde_json::from_value(json("texts.json")["prompts"].clone()).unwrap()
}

fn sequence() -> usize {
    json("texts.json")["sequence"].as_u64().unwrap() as usize
}

#[test]
fn texts_have_the_ids_of_transformers() {
    let cases = json("texts.json");
    let texts: Vec<String> = serde_json::from_value(cases["texts"].clone()).unwrap();
    for (length, ids) in cases["ids"].as_object().unwrap() {
        let ids: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).unwrap();
        let tokenizer = tokenizer(true).with_length(length.parse().unwrap());
        assert_eq!(texts.len(), ids.len());
        for (text, expected) in texts.iter().zip(&ids) {
            let tokens = tokenizer.encode(text).unwrap();
            let count = expected.len().max(1);
            assert_eq!(tokens.count, count, "{text:?}");
            assert_eq!(tokens.ids.len(), tokenizer.length());
            assert_eq!(&tokens.ids[..expected.len()], expected, "{length}: {text:?}");
        }
    }
}

#[test]
fn vocabulary_and_merges_alone_are_the_same_tokenizer_but_for_the_added_tokens() {
    let (whole, parts) = (tokenizer(true), tokenizer(false));
    for text in ["an old harbour, 12 boats!", " Größe\n\n 一只猫\t x", "isn't IT'S"] {
        assert_eq!(parts.encode(text).unwrap().ids[..8], whole.encode(text).unwrap().ids[..8]);
    }
}

#[test]
fn every_encoder_gives_the_states_that_the_pipeline_takes() {
    for name in ENCODERS {
        let expected =
            safetensors::load(fixture("z_image").join(format!("{name}.safetensors")), &Device::Cpu)
                .unwrap();
        let conditioner = conditioner(name, sequence());
        let text = conditioner.encode(&prompts()).unwrap();
        let lengths = text.lengths.as_ref().unwrap();
        assert!(text.pooled.is_none() && conditioner.has_lengths());
        for (row, &length) in lengths.iter().enumerate() {
            let expected = &expected[&row.to_string()];
            assert_eq!(length, expected.dims()[0], "{name}: prompt {row}");
            let states = text.context.get(row).unwrap();
            let error = norm_error(&states.narrow(0, 0, length).unwrap(), expected);
            assert!(error <= 1e-4, "{name}: prompt {row}: {error:e}");
            let behind = states.narrow(0, length, sequence() - length).unwrap();
            assert!(bits(&behind).iter().all(|&bits| bits == 0));
        }
    }
}

#[test]
fn a_prompts_states_are_the_same_to_the_bit_in_any_company() {
    let conditioner = conditioner("shared_heads", sequence());
    let all = conditioner.encode(&prompts()).unwrap();
    for (row, prompt) in prompts().iter().enumerate() {
        let alone = conditioner.encode(&[prompt]).unwrap();
        assert_eq!(bits(&all.context.get(row).unwrap()), bits(&alone.context.get(0).unwrap()));
    }
}

#[test]
fn a_cut_is_a_place_in_the_text_and_not_in_its_chat() {
    let conditioner = conditioner("shared_heads", sequence());
    let tokenizers = conditioner.tokenizers();
    let ids = |text: &str| {
        tokenizers.chunks(&Prompt::plain(text)).unwrap().remove(0).remove(0).tokens.ids
    };
    let long = format!("Dämmerung: {}", "a, ".repeat(90));
    let cut = tokenizers.cut(&long).unwrap().unwrap();
    assert!(cut.is_all && cut.tokens > cut.limit, "{cut:?}");
    // What is kept fills the sequence, and without its last sign it does not.
    let kept = &long[..cut.at];
    assert_eq!(ids(kept), ids(&long));
    assert_ne!(ids(&kept[..kept.len() - 1]), ids(&long));
    assert_eq!(tokenizers.cut(kept).unwrap(), None);
    assert_eq!(tokenizers.cut("").unwrap(), None);
    assert_eq!(tokenizers.cut("an old harbour").unwrap(), None);
}

#[test]
fn a_trace_counts_the_longest_text() {
    let conditioner = conditioner("alone", 64);
    let trace = Trace::new(&Device::Cpu);
    let text = conditioner.trace(2, &trace).unwrap();
    assert_eq!(text.context.dims(), [2, 64, 32]);
    assert_eq!(text.lengths, Some(vec![64; 2]));
    assert!(trace.peak() >= 2 * 64 * 32 * 4);
}

#[test]
fn files_and_sequences_that_do_not_fit_are_errors() {
    let read = |config: &str| {
        let files = TokenizerFiles {
            tokenizer_config_json: Some(config.as_bytes()),
            tokenizer_json: Some(br#"{"model": {"vocab": {"a": 0}, "merges": []}}"#),
            ..TokenizerFiles::default()
        };
        TextTokenizer::from_files(&files).unwrap_err().to_string()
    };
    let class = r#""tokenizer_class": "Qwen2Tokenizer""#;
    for (field, word) in [
        (r#""chat_template": "[INST] {{ text }}""#, "chat_template"),
        (r#""add_prefix_space": true"#, "add_prefix_space"),
        (r#""padding_side": "left""#, "padding_side"),
        (r#""pad_token": """#, "special token ``"),
    ] {
        let error = read(&format!("{{{class}, {field}}}"));
        assert!(error.contains(word), "{error}");
    }
    let encoder = encoder("alone");
    assert!(encoder.encode(&[], None).is_err());
    assert!(encoder.encode(&[vec![0; 5000]], None).is_err());
    let error = encoder.encode(&[vec![700]], None).unwrap_err().to_string();
    assert!(error.contains("700 is outside"), "{error}");
    let description = json("shared_heads.json");
    let mut weights = weights(&description);
    let name = "model.layers.1.self_attn.k_norm.weight";
    weights.remove(name).unwrap();
    let vb = Params::from_tensors(weights, DType::F32, &Device::Cpu);
    let error =
        TextEncoder::load("Qwen3ForCausalLM", &description["config"], &[], &vb).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    let clip = TextConditioner::new(
        vec![TextPart { tokenizer: tokenizer(true), encoder }],
        TextArrangement::Clip,
    );
    assert!(clip.is_err());
}
