//! Weighted prompts: what they are read as, the states that they become on small encoders, and embeddings (fixtures by
//! tests/make_fixtures/make_prompt_fixtures.py: A1111's rules written once more in PyTorch, compel, and diffusers).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::backend::Trace;
use cupscale::model::text::{
    EmbeddingName, Piece, Prompt, PromptError, PromptSyntax, TextArrangement, TextConditioner,
    TextPart,
};
use serde_json::Value;

use crate::common::{
    self,
    tensors::{bits, norm_error},
};
use crate::{t5::t5, text::encoder};

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(common::fixture("prompt").join(name)).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(common::fixture("prompt").join(name), &Device::Cpu).unwrap()
}

fn weighted(text: &str) -> Prompt {
    Prompt::parse(PromptSyntax::Weighted, text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn sd() -> TextConditioner {
    TextConditioner::new(vec![encoder("first", "clip")], TextArrangement::Clip).unwrap()
}

fn sdxl() -> TextConditioner {
    let parts = vec![encoder("first", "clip"), encoder("second", "clip_with_projection_f16")];
    TextConditioner::new(parts, TextArrangement::Clip).unwrap()
}

#[test]
fn prompts_are_read_as_a1111_reads_them() {
    let table: Vec<(String, Vec<Value>)> = serde_json::from_value(json("table.json")).unwrap();
    assert!(table.len() >= 60);
    for (text, expected) in table {
        let prompt = weighted(&text);
        assert_eq!(prompt.pieces().len(), expected.len(), "{text:?}: {prompt:?}");
        for (piece, expected) in prompt.pieces().iter().zip(expected) {
            match (piece, serde_json::from_value::<(String, f64)>(expected)) {
                (Piece::Text(ours, weight), Ok((expected, of_a1111))) => {
                    assert_eq!(*ours, expected, "{text:?}");
                    assert!((weight - of_a1111).abs() < 1e-12, "{text:?}: {weight}");
                }
                (Piece::Break, Err(_)) => {}
                (other, _) => panic!("{text:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn states_of_weighted_prompts_of_one_chunk_and_two_equal_pytorchs() {
    let (cases, expected) = (json("states.json"), tensors("states.safetensors"));
    let prompts: Vec<String> = serde_json::from_value(cases["prompts"].clone()).unwrap();
    let counts: Vec<usize> = serde_json::from_value(cases["chunks"].clone()).unwrap();
    let (sd, sdxl) = (sd(), sdxl());
    let mut largest = 0f64;
    for (index, (prompt, count)) in prompts.iter().zip(counts).enumerate() {
        let prompt = weighted(prompt);
        assert_eq!(sdxl.tokenizers().count(&prompt).unwrap(), count);
        let one = sd.encode_prompts(&[&prompt], count).unwrap();
        let two = sdxl.encode_prompts(&[&prompt], count).unwrap();
        assert_eq!(two.context.dims(), [1, sdxl.tokens_of(count), 40]);
        for (what, ours) in
            [("sd", &one.context), ("sdxl", &two.context), ("pooled", two.pooled.as_ref().unwrap())]
        {
            let error = norm_error(ours, &expected[&format!("{what}.{index}")]);
            assert!(error <= 1e-4, "{what} of {index}: {error:e}");
            largest = largest.max(error);
        }
    }
    println!("largest error of states: {largest:e}");
}

#[test]
fn a_short_prompt_is_filled_up_with_a_chunk_of_no_text_and_a_long_one_is_compels() {
    let (cases, expected) = (json("states.json"), tensors("states.safetensors"));
    let long = weighted(cases["compel"].as_str().unwrap());
    let both = sd().encode_prompts(&[&weighted("a cat"), &long], 2).unwrap().context;
    for (row, what) in ["sd.filled", "sd.compel"].into_iter().enumerate() {
        let error = norm_error(&both.narrow(0, row, 1).unwrap(), &expected[what]);
        assert!(error <= 1e-4, "{what}: {error:e}");
    }
}

#[test]
fn a_weighted_prompt_without_syntax_is_the_plain_one_to_the_bit() {
    for conditioner in [sd(), sdxl()] {
        let text = "a photo of the old harbour, blue sky!";
        let plain = conditioner.encode(&[text]).unwrap();
        let other = conditioner.encode_prompts(&[&weighted(text)], 1).unwrap();
        assert_eq!(bits(&plain.context), bits(&other.context));
    }
}

#[test]
fn t5_moves_states_away_from_no_text_as_comfyui_does() {
    let (cases, expected) = (json("states.json"), tensors("states.safetensors"));
    let prompt = weighted(cases["prompts"][0].as_str().unwrap());
    let conditioner =
        TextConditioner::new(vec![t5()], TextArrangement::T5 { tokens: 120 }).unwrap();
    let made = conditioner.encode_prompts(&[&prompt], 1).unwrap();
    let length = made.lengths.unwrap()[0];
    assert_eq!(expected["t5"].dims(), [1, length, 40]);
    let error = norm_error(&made.context.narrow(1, 0, length).unwrap(), &expected["t5"]);
    assert!(error <= 1e-4, "{error:e}");
    // More than it takes is cut, as without weights.
    let long = weighted(&format!("(cat:1.2) {}", "a, ".repeat(200)));
    assert!(conditioner.tokenizers().cut_prompt(&long, 1).unwrap().is_some());
    assert_eq!(conditioner.encode_prompts(&[&long], 1).unwrap().lengths, Some(vec![120]));
}

#[test]
fn a_trace_of_weighted_prompts_has_their_shapes() {
    let trace = Trace::new(&Device::Cpu);
    let traced = sdxl().trace_prompts(2, (3, true), &trace).unwrap();
    assert_eq!(traced.context.dims(), [2, 3 * 77, 40]);
    let plain = Trace::new(&Device::Cpu);
    drop(sdxl().trace(2, &plain).unwrap());
    assert!(trace.peak() > plain.peak());
}

/// The parts with the vectors of these files, each of which has one name and a vector for each part.
fn inverted(parts: Vec<TextPart>, files: &[(&str, &[&str])]) -> TextConditioner {
    let loaded: Vec<_> = files.iter().map(|(file, _)| tensors(file)).collect();
    let parts = parts.into_iter().enumerate().map(|(index, part)| {
        let (mut names, mut vectors) = (Vec::new(), Vec::new());
        for ((_, keys), tensors) in files.iter().zip(&loaded) {
            let own = &tensors[keys[1 + index]];
            let own = if own.rank() == 1 { own.unsqueeze(0).unwrap() } else { own.clone() };
            names.push(EmbeddingName { names: vec![keys[0].to_owned()], vectors: own.dims()[0] });
            vectors.push(own);
        }
        TextPart {
            tokenizer: part.tokenizer.with_embeddings(&names).unwrap(),
            encoder: part.encoder.with_vectors(&Tensor::cat(&vectors, 0).unwrap()).unwrap(),
        }
    });
    TextConditioner::new(parts.collect(), TextArrangement::Clip).unwrap()
}

fn inverted_sd() -> TextConditioner {
    let files: [(&str, &[&str]); 2] = [
        ("learned_embeds.safetensors", &["<cat-toy>", "<cat-toy>"]),
        ("ink_3.safetensors", &["ink_3", "emb_params"]),
    ];
    inverted(vec![encoder("first", "clip")], &files)
}

#[test]
fn embeddings_of_one_vector_and_several_equal_diffusers_in_both_encoders() {
    let (prompts, expected) = (json("inverted.json"), tensors("inverted.safetensors"));
    let made = inverted_sd().encode(&[prompts["sd"].as_str().unwrap()]).unwrap();
    let error = norm_error(&made.context, &expected["sd"]);
    assert!(error <= 1e-4, "{error:e}");
    let files: [(&str, &[&str]); 1] = [("sky-bird.safetensors", &["sky-bird", "clip_l", "clip_g"])];
    let parts = vec![encoder("first", "clip"), encoder("second", "clip_with_projection_f16")];
    let made = inverted(parts, &files).encode(&[prompts["sdxl"].as_str().unwrap()]).unwrap();
    for (what, ours) in [("sdxl", &made.context), ("pooled", made.pooled.as_ref().unwrap())] {
        let error = norm_error(ours, &expected[what]);
        assert!(error <= 1e-4, "{what}: {error:e}");
    }
}

#[test]
fn an_embedding_is_a_word_in_both_syntaxes_and_stays_in_one_chunk() {
    let conditioner = inverted_sd();
    let states = |text: &str| bits(&conditioner.encode(&[text]).unwrap().context);
    assert_eq!(states("the ink_3, blue"), states("the INK_3, blue"));
    assert_ne!(states("the ink_3d sky"), states("the ink_3 d sky"));
    let weighted_states =
        |text: &str| bits(&conditioner.encode_prompts(&[&weighted(text)], 1).unwrap().context);
    assert_eq!(weighted_states("the ink_3 sky"), states("the ink_3 sky"));
    assert_ne!(weighted_states("the (ink_3:1.4) sky"), states("the ink_3 sky"));
    let (room, tokenizers) = (75, conditioner.tokenizers());
    let count = |words: usize, last: &str| {
        let prompt = weighted(&format!("{}{last}", "the ".repeat(words)));
        let chunks = tokenizers.chunks(&prompt).unwrap().remove(0);
        chunks.iter().map(|chunk| chunk.tokens.count - 2).collect::<Vec<_>>()
    };
    assert_eq!(count(room - 3, "ink_3"), [75]);
    assert_eq!(count(room - 2, "ink_3"), [73, 3]);
    // A plain prompt is cut where it is too long, as diffusers cuts it; the cut is where the embedding begins.
    let text = format!("{}ink_3 sky", "the ".repeat(room - 2));
    let cut = tokenizers.cut(&text).unwrap().unwrap();
    assert_eq!((cut.tokens, &text[cut.at..]), (room + 2, "ink_3 sky"));
}

#[test]
fn names_that_are_tokens_and_encoders_that_know_none_are_refused() {
    let name = |name: &str| [EmbeddingName { names: vec![name.to_owned()], vectors: 1 }];
    let part = encoder("first", "clip");
    let error = part.tokenizer.with_embeddings(&name("cat</w>")).unwrap_err().to_string();
    assert!(error.contains("`cat</w>`"), "{error}");
    let TextPart { tokenizer, encoder } = t5();
    assert!(tokenizer.with_embeddings(&name("x")).unwrap_err().to_string().contains("CLIP alone"));
    let vectors = Tensor::zeros((1, 40), DType::F32, &Device::Cpu).unwrap();
    assert!(encoder.with_vectors(&vectors).is_err());
    // An id without a vector.
    let part = self::encoder("first", "clip");
    let tokenizer = part.tokenizer.with_embeddings(&name("ink_3")).unwrap();
    let ids = tokenizer.encode("ink_3").unwrap().ids;
    let error = part.encoder.encode(&[ids], None).unwrap_err().to_string();
    assert!(error.contains("outside the vocabulary"), "{error}");
}

#[test]
fn a_prompt_of_more_chunks_than_there_may_be_is_refused() {
    let prompt = weighted(&"the ".repeat(75 * PromptError::CHUNKS + 1));
    let error = sdxl().encode_prompts(&[&prompt], 1).unwrap_err().to_string();
    assert!(error.contains("more than 32 chunks of 75 tokens"), "{error}");
}
