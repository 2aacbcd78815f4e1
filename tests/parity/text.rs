//! Tokenizer and text encoders against transformers, and the conditioning that SDXL makes of them
//! against diffusers (fixtures by tests/make_fixtures/make_text_fixtures.py).

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::backend::Params;
use cupscale::model::text::{
    TextArrangement, TextConditioner, TextEncoder, TextError, TextPart, TextTokenizer,
    TokenizerFiles,
};
use serde_json::Value;

use crate::common::tensors::{bits, norm_error};

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("text").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

/// The tokenizer of one configuration; all but `json` share the vocabulary files of `first`.
fn tokenizer(name: &str) -> TextTokenizer {
    let read = |file: String| std::fs::read(fixture(&file)).ok();
    let vocab = read("tokenizer_first/vocab.json".to_owned());
    let merges = read("tokenizer_first/merges.txt".to_owned());
    let whole = read(format!("tokenizer_{name}/tokenizer.json"));
    let config = read(format!("tokenizer_{name}/tokenizer_config.json"));
    let special = read(format!("tokenizer_{name}/special_tokens_map.json"));
    TextTokenizer::from_files(&TokenizerFiles {
        vocab_json: vocab.as_deref(),
        merges_txt: merges.as_deref(),
        tokenizer_json: whole.as_deref(),
        spiece_model: None,
        tokenizer_config_json: config.as_deref(),
        special_tokens_map_json: special.as_deref(),
    })
    .unwrap()
}

#[test]
fn every_configuration_gives_odd_texts_the_ids_of_transformers() {
    let cases = json("cases.json");
    let texts: Vec<String> = serde_json::from_value(cases["texts"].clone()).unwrap();
    let configurations = cases["ids"].as_object().unwrap();
    assert_eq!(configurations.len(), 6);
    for (name, ids) in configurations {
        let ids: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).unwrap();
        let tokenizer = tokenizer(name);
        assert_eq!(ids.len(), texts.len());
        for (text, expected) in texts.iter().zip(&ids) {
            assert_eq!(&tokenizer.encode(text).unwrap().ids, expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_cut_is_where_the_ids_end_and_nothing_else_is_cut() {
    let tokenizer = tokenizer("first");
    let limit = tokenizer.length() - 2;
    // After its first word, of letters outside of ASCII, every sign is a token: no cut falls into a word.
    let text = format!("Dämmerung: {}", "a, ".repeat(limit));
    let cut = tokenizer.cut(&text).unwrap().unwrap();
    assert_eq!(cut.limit, limit);
    assert!(cut.tokens > 2 * limit, "{cut:?}");
    assert_eq!(tokenizer.encode(&text).unwrap(), tokenizer.encode(&text[..cut.at]).unwrap());
    assert_eq!(tokenizer.cut(&text[..cut.at]).unwrap(), None);
    assert_eq!(tokenizer.cut("").unwrap(), None);
}

fn load_encoder(name: &str) -> TextEncoder {
    let config = json(&format!("{name}/config.json"));
    let class = config["architectures"][0].as_str().unwrap();
    let vars = Params::from_tensors(
        tensors(&format!("{name}/model.safetensors")),
        DType::F32,
        &Device::Cpu,
    );
    TextEncoder::load(class, &config, &[], &vars).unwrap()
}

fn assert_equals_transformers(name: &str) {
    let encoder = load_encoder(name);
    let expected = tensors(&format!("{name}/expected.safetensors"));
    let ids: Vec<Vec<u32>> = expected["ids"]
        .to_vec2::<i64>()
        .unwrap()
        .into_iter()
        .map(|row| row.into_iter().map(|id| id as u32).collect())
        .collect();
    let encoding = encoder.encode(&ids, None).unwrap();
    for (what, ours) in [
        ("penultimate", encoding.penultimate.as_ref().unwrap()),
        ("last", &encoding.last),
        ("pooled", encoding.pooled.as_ref().unwrap()),
    ] {
        let error = norm_error(ours, &expected[what]);
        assert!(error <= 1e-4, "{name}: {what}: {error:e}");
    }
}

#[test]
fn clip_text_model_with_the_old_end_token_rule_equals_transformers() {
    assert_equals_transformers("clip");
}

#[test]
fn clip_text_model_with_projection_and_f16_weights_equals_transformers() {
    assert_equals_transformers("clip_with_projection_f16");
}

#[test]
fn clip_text_model_with_prefixed_names_equals_transformers() {
    assert_equals_transformers("clip_prefixed_f16");
}

pub fn encoder(tokenizer_name: &str, model: &str) -> TextPart {
    TextPart { tokenizer: tokenizer(tokenizer_name), encoder: load_encoder(model) }
}

fn sdxl() -> TextConditioner {
    let encoders = vec![encoder("first", "clip"), encoder("second", "clip_with_projection_f16")];
    TextConditioner::new(encoders, TextArrangement::Clip).unwrap()
}

fn prompts() -> Vec<String> {
    serde_json::from_value(json("prompts.json")).unwrap()
}

#[test]
fn conditioning_by_two_encoders_equals_the_sdxl_pipelines() {
    let expected = tensors("conditioning.safetensors");
    let conditioner = sdxl();
    let conditioning = conditioner.encode(&prompts()).unwrap();
    let pooled = conditioning.pooled.unwrap();
    assert!(norm_error(&conditioning.context, &expected["context"]) <= 1e-4);
    assert!(norm_error(&pooled, &expected["pooled"]) <= 1e-4);
    assert_eq!(conditioner.widths(), (40, Some(20)));
}

#[test]
fn conditioning_by_one_encoder_is_its_last_state() {
    let conditioner =
        TextConditioner::new(vec![encoder("first", "clip")], TextArrangement::Clip).unwrap();
    let conditioning = conditioner.encode(&prompts()[..3]).unwrap();
    let expected = &tensors("clip/expected.safetensors")["last"];
    assert!(norm_error(&conditioning.context, expected) <= 1e-4);
    assert!(conditioning.pooled.is_none());
    assert_eq!(conditioner.widths(), (16, None));
}

#[test]
fn a_prompts_conditioning_is_the_same_to_the_bit_in_any_company() {
    let conditioner = sdxl();
    let all = conditioner.encode(&prompts()).unwrap();
    for (row, prompt) in prompts().iter().enumerate() {
        let alone = conditioner.encode(&[prompt]).unwrap();
        assert_eq!(bits(&all.context.get(row).unwrap()), bits(&alone.context.get(0).unwrap()));
        let (ours, its) = (all.pooled.as_ref().unwrap(), alone.pooled.as_ref().unwrap());
        assert_eq!(bits(&ours.get(row).unwrap()), bits(&its.get(0).unwrap()));
    }
}

#[test]
fn encoders_that_do_not_go_together_are_refused() {
    let fail =
        |encoders| TextConditioner::new(encoders, TextArrangement::Clip).unwrap_err().to_string();
    assert!(fail(vec![]).contains("none"));
    let two = vec![encoder("second", "clip_with_projection_f16"), encoder("first", "clip")];
    assert!(fail(two).contains("projection"));
}

#[test]
fn a_wrong_sequence_is_an_error_and_no_panic() {
    let model = load_encoder("clip");
    for sequences in [vec![], vec![vec![]], vec![vec![1; 78]], vec![vec![1; 3], vec![1; 4]]] {
        assert!(model.encode(&sequences, None).unwrap_err().to_string().contains("from 1 to 77"));
    }
    let error = model.encode(&[vec![100_000]], None).unwrap_err().to_string();
    assert!(error.contains("100000 is outside"), "{error}");
}

#[test]
fn a_broken_tokenizer_file_is_named() {
    let vocab = std::fs::read(fixture("tokenizer_first/vocab.json")).unwrap();
    let merges = std::fs::read(fixture("tokenizer_first/merges.txt")).unwrap();
    let files = TokenizerFiles {
        vocab_json: Some(&vocab),
        merges_txt: Some(&merges),
        ..TokenizerFiles::default()
    };
    let fail = |files: TokenizerFiles| TextTokenizer::from_files(&files).unwrap_err().to_string();
    let cases = [
        (TokenizerFiles { vocab_json: None, ..files }, "vocab.json: missing"),
        (TokenizerFiles { merges_txt: None, ..files }, "merges.txt: missing"),
        (
            TokenizerFiles { vocab_json: Some(b"{\n\"a\": x}"), ..files },
            "vocab.json: expected value at line 2",
        ),
        (
            TokenizerFiles { merges_txt: Some(b"#version: 0.2\nt h\nth\n"), ..files },
            "merges.txt: line 3",
        ),
        (
            TokenizerFiles { merges_txt: Some(b"q q\n"), ..files },
            "merges.txt: the merge `q q` needs `qq`",
        ),
        (TokenizerFiles { tokenizer_json: Some(b"{}"), ..files }, "tokenizer.json: no `model`"),
        (
            TokenizerFiles { tokenizer_config_json: Some(b"{\"pad_token\": \"\"}"), ..files },
            "special token ``",
        ),
    ];
    for (files, expected) in cases {
        let error = fail(files);
        assert!(error.contains(expected), "{error} / {expected}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(matches!(
        TextTokenizer::from_files(&TokenizerFiles { vocab_json: None, ..files }),
        Err(TextError::TokenizerFile { file: "vocab.json", .. })
    ));
}
