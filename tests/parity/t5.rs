//! T5's tokenizer and encoder against transformers, the conditions that PixArt and Stable Diffusion 3 have of them against
//! diffusers, and the operations that they add against torch (fixtures by tests/make_fixtures/make_t5_fixtures.py).

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::backend::{
    Activation, MatmulPrecision, Params, Trace,
    ops::{attention_of_lengths, biased_attention, gelu_tanh},
};
use cupscale::model::text::{
    TextArrangement, TextConditioner, TextEncoder, TextPart, TextTokenizer, TokenizerFiles,
};
use serde_json::Value;

use crate::common::tensors::{bits, largest_error, norm_error};

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("t5").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<usize> {
    tensor.to_vec1::<i64>().unwrap().into_iter().map(|number| number as usize).collect()
}

fn tokenizer(name: &str) -> TextTokenizer {
    let read = |file: &str| std::fs::read(fixture(name).join(file)).ok();
    let (config, whole, spiece) =
        (read("tokenizer_config.json"), read("tokenizer.json"), read("spiece.model"));
    TextTokenizer::from_files(&TokenizerFiles {
        tokenizer_config_json: config.as_deref(),
        tokenizer_json: whole.as_deref(),
        spiece_model: spiece.as_deref(),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

#[test]
fn both_forms_of_a_vocabulary_give_texts_the_ids_of_transformers() {
    let cases = json("cases.json");
    let texts: Vec<String> = serde_json::from_value(cases["texts"].clone()).unwrap();
    assert!(texts.len() >= 300);
    let all = cases["ids"].as_object().unwrap();
    assert_eq!(all.len(), 4);
    for (name, ids) in all {
        let ids: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).unwrap();
        let (folder, length) = name.split_once('.').unwrap();
        let tokenizer = tokenizer(folder).with_length(length.parse().unwrap());
        for (text, expected) in texts.iter().zip(&ids) {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(&tokens.ids[..tokens.count], expected, "{name}: {text:?}");
            assert_eq!(tokens.ids.len(), tokenizer.length());
            assert!(tokens.ids[tokens.count..].iter().all(|&id| id == 0));
        }
    }
}

#[test]
fn a_cut_is_where_the_ids_end() {
    let tokenizer = tokenizer("json").with_length(24);
    let text = format!("Dämmerung: {}", "a, ".repeat(40));
    let cut = tokenizer.cut(&text).unwrap().unwrap();
    assert_eq!(cut.limit, 23);
    assert!(cut.is_all && cut.tokens > 60, "{cut:?}");
    assert_eq!(tokenizer.encode(&text).unwrap(), tokenizer.encode(&text[..cut.at]).unwrap());
    assert_eq!(tokenizer.cut(&text[..cut.at]).unwrap(), None);
}

fn load(folder: &str, dtype: DType) -> TextEncoder {
    let config = json(&format!("{folder}/config.json"));
    let class = config["architectures"][0].as_str().unwrap();
    let tensors = tensors(&format!("{folder}/model.safetensors"));
    TextEncoder::load(class, &config, &[], &Params::from_tensors(tensors, dtype, &Device::Cpu))
        .unwrap()
}

/// Sequences of a batch, each cut to its length.
fn sequences(ids: &Tensor, lengths: &[usize]) -> Vec<Vec<u32>> {
    let rows = ids.to_vec2::<i64>().unwrap().into_iter().zip(lengths);
    rows.map(|(row, &length)| row[..length].iter().map(|&id| id as u32).collect()).collect()
}

#[test]
fn encoders_equal_transformers_with_and_without_masked_padding() {
    for name in ["gated", "relu", "umt5"] {
        let encoder = load(name, DType::F32);
        let expected = tensors(&format!("{name}/expected.safetensors"));
        let lengths = numbers(&expected["lengths"]);
        // A mask is padding left out.
        let states: Vec<_> = sequences(&expected["ids"], &lengths)
            .into_iter()
            .map(|ids| encoder.encode(&[ids], None).unwrap().last.get(0).unwrap())
            .collect();
        let error = norm_error(&Activation::cat(&states, 0).unwrap(), &expected["masked"]);
        assert!(error <= 1e-4, "{name}, masked: {error:e}");
        let batch = sequences(&expected["ids"], &[40; 3]);
        let error = norm_error(&encoder.encode(&batch, None).unwrap().last, &expected["unmasked"]);
        assert!(error <= 1e-4, "{name}, in a batch: {error:e}");
    }
}

#[test]
fn an_encoder_in_half_precision_keeps_its_sum_in_f32() {
    let expected = tensors("gated/expected.safetensors");
    let batch = sequences(&expected["ids"], &[40; 3]);
    let largest = |scale: f64| {
        let mut tensors = tensors("gated/model.safetensors");
        for (name, tensor) in &mut tensors {
            if name.ends_with("wo.weight") {
                *tensor = (&*tensor * scale).unwrap();
            }
        }
        let params = Params::from_tensors(tensors, DType::F16, &Device::Cpu);
        let encoder = TextEncoder::load("T5EncoderModel", &json("gated/config.json"), &[], &params);
        let last = encoder.unwrap().encode(&batch, None).unwrap().last;
        assert_eq!(last.dtype(), DType::F16);
        let last = last.tensor().unwrap().to_dtype(DType::F32).unwrap();
        last.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    };
    // Far beyond 65504 within, as T5-XXL is; the last norm brings it back.
    assert!(largest(1e5).is_finite() && largest(1e5) > 0.1);
    let last = load("gated", DType::F16).encode(&batch, None).unwrap().last;
    let error = norm_error(&last.to_dtype(DType::F32).unwrap(), &expected["unmasked"]);
    assert!(error < 0.02, "{error:e}");
}

#[test]
fn a_wrong_sequence_is_an_error_and_no_panic() {
    let encoder = load("relu", DType::F32);
    for sequences in [vec![], vec![vec![]], vec![vec![1; 4097]], vec![vec![1; 3], vec![1; 4]]] {
        let error = encoder.encode(&sequences, None).unwrap_err().to_string();
        assert!(error.contains("from 1 to 4096"), "{error}");
    }
    assert!(encoder.encode(&[vec![50]], None).unwrap_err().to_string().contains("50 is outside"));
}

fn clip_tokenizer(name: &str) -> TextTokenizer {
    let read = |file: &str| std::fs::read(crate::common::fixture("text").join(file)).ok();
    let (vocab, merges) = (read("tokenizer_first/vocab.json"), read("tokenizer_first/merges.txt"));
    let config = read(&format!("tokenizer_{name}/tokenizer_config.json"));
    let special = read(&format!("tokenizer_{name}/special_tokens_map.json"));
    TextTokenizer::from_files(&TokenizerFiles {
        vocab_json: vocab.as_deref(),
        merges_txt: merges.as_deref(),
        tokenizer_config_json: config.as_deref(),
        special_tokens_map_json: special.as_deref(),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

pub fn t5() -> TextPart {
    TextPart { tokenizer: tokenizer("json"), encoder: load("pipelines/text_encoder_3", DType::F32) }
}

/// The parts of Stable Diffusion 3 without T5.
fn clips() -> Vec<TextPart> {
    [("first", "text_encoder"), ("second", "text_encoder_2")]
        .map(|(tokenizer, encoder)| TextPart {
            tokenizer: clip_tokenizer(tokenizer),
            encoder: load(&format!("pipelines/{encoder}"), DType::F32),
        })
        .into()
}

const JOINT: TextArrangement = TextArrangement::Joint { tokens: 60, width: 40 };

fn prompts() -> Vec<String> {
    serde_json::from_value(json("pipelines/prompts.json")).unwrap()
}

#[test]
fn conditions_of_pixart_are_the_valid_tokens_of_its_pipelines_and_zeros_behind() {
    let expected = tensors("pipelines/expected.safetensors");
    for (name, tokens) in [("alpha", 120), ("sigma", 300)] {
        let conditioner = TextConditioner::new(vec![t5()], TextArrangement::T5 { tokens }).unwrap();
        let made = conditioner.encode(&prompts()).unwrap();
        let lengths = made.lengths.unwrap();
        assert_eq!(lengths, numbers(&expected[&format!("{name}.lengths")]));
        assert_eq!(made.context.dims(), [3, tokens, 40]);
        assert_eq!((conditioner.tokens(), conditioner.widths()), (tokens, (40, None)));
        let valid = lengths.iter().enumerate().map(|(row, &length)| {
            let row = made.context.get(row).unwrap();
            let behind = row.narrow(0, length, tokens - length).unwrap();
            assert!(bits(&behind).iter().all(|&bits| bits == 0));
            row.narrow(0, 0, length).unwrap()
        });
        let valid = Activation::cat(&valid.collect::<Vec<_>>(), 0).unwrap();
        let error = norm_error(&valid, &expected[&format!("{name}.context")]);
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn conditions_of_stable_diffusion_3_equal_its_pipelines_with_t5_and_without() {
    let expected = tensors("pipelines/expected.safetensors");
    for (name, last) in [("sd3", Some(t5())), ("sd3_without_t5", None)] {
        let conditioner =
            TextConditioner::new(clips().into_iter().chain(last).collect(), JOINT).unwrap();
        let made = conditioner.encode(&prompts()).unwrap();
        assert_eq!((conditioner.tokens(), conditioner.widths()), (137, (40, Some(26))));
        for (what, ours) in [("context", &made.context), ("pooled", &made.pooled.unwrap())] {
            let error = norm_error(ours, &expected[&format!("{name}.{what}")]);
            assert!(error <= 1e-4, "{name}, {what}: {error:e}");
        }
        assert!(made.lengths.is_none());
    }
}

#[test]
fn what_t5_keeps_is_no_cut_of_a_text() {
    let long = "a, ".repeat(45);
    let cut = |parts, arrangement| {
        TextConditioner::new(parts, arrangement).unwrap().tokenizers().cut(&long).unwrap()
    };
    let all = || clips().into_iter().chain([t5()]).collect::<Vec<_>>();
    // 90 tokens of CLIP; those of T5 are counted with the end token.
    let joint = |tokens| TextArrangement::Joint { tokens, width: 40 };
    assert_eq!(cut(clips(), joint(300)).unwrap().limit, 75);
    assert_eq!(cut(all(), joint(300)), None);
    assert_eq!(cut(all(), joint(20)).unwrap().limit, 75);
    assert_eq!(cut(all(), joint(85)).unwrap().limit, 84);
    assert_eq!(cut(vec![t5()], TextArrangement::T5 { tokens: 20 }).unwrap().limit, 19);
}

#[test]
fn encoders_of_another_arrangement_are_refused() {
    let fail =
        |parts, arrangement| TextConditioner::new(parts, arrangement).unwrap_err().to_string();
    assert!(fail(vec![t5()], TextArrangement::Clip).contains("not CLIP's"));
    assert!(fail(clips(), TextArrangement::T5 { tokens: 120 }).contains("takes one, T5's"));
    assert!(fail(vec![t5()], JOINT).contains("two of CLIP"));
    let narrow = TextArrangement::Joint { tokens: 60, width: 30 };
    assert!(fail(clips(), narrow).contains("width of 30"));
    let wide = TextArrangement::Joint { tokens: 60, width: 64 };
    let all = clips().into_iter().chain([t5()]).collect();
    assert!(fail(all, wide).contains("width of 64"));
}

#[test]
fn a_trace_has_the_shapes_of_the_longest_text() {
    let trace = Trace::new(&Device::Cpu);
    let all: Vec<_> = clips().into_iter().chain([t5()]).collect();
    let traced = TextConditioner::new(all, JOINT).unwrap().trace(2, &trace).unwrap();
    assert_eq!(traced.context.dims(), [2, 137, 40]);
    let conditioner = TextConditioner::new(vec![t5()], TextArrangement::T5 { tokens: 120 });
    let traced = conditioner.unwrap().trace(2, &trace).unwrap();
    assert_eq!((traced.context.dims(), traced.lengths), (&[2, 120, 40][..], Some(vec![120, 120])));
}

#[test]
fn operations_equal_torch() {
    let tensors = tensors("operations.safetensors");
    let input = |name: &str| Activation::from(&tensors[name]);
    let (q, k, v) = (&input("q"), &input("k"), &input("v"));
    let lengths = numbers(&tensors["lengths"]);
    for (name, ours) in [
        ("gelu_tanh", gelu_tanh(&input("x")).unwrap()),
        ("biased", biased_attention(q, k, v, 3, &input("bias")).unwrap()),
        ("masked", attention_of_lengths(q, k, v, 3, &lengths, MatmulPrecision::F32).unwrap()),
    ] {
        let error = largest_error(ours.tensor().unwrap(), &tensors[name]);
        assert!(error <= 1e-5, "{name}: {error:e}");
    }
    for lengths in [&[0, 33][..], &[11, 34], &[11]] {
        assert!(attention_of_lengths(q, k, v, 3, lengths, MatmulPrecision::F32).is_err());
    }
    assert!(biased_attention(q, k, v, 3, &input("x")).is_err());
    // What lies behind the keys that count plays no part, whatever it is.
    let poison = |x: &Activation| {
        let valid = x.narrow(1, 0, 11).unwrap();
        let rest = x.narrow(1, 11, 22).unwrap().affine(0.0, f64::NAN).unwrap();
        Activation::cat(&[&valid, &rest], 1).unwrap()
    };
    let masked =
        attention_of_lengths(q, &poison(k), &poison(v), 3, &[11, 11], MatmulPrecision::F32);
    assert!(
        masked
            .unwrap()
            .tensor()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            .is_finite()
    );
}
