//! The conditions that FLUX.2 klein has of Qwen3, and its timesteps, against diffusers' pipeline (fixtures by
//! tests/make_fixtures/make_flux2_klein_fixtures.py).

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, safetensors};
use cupscale::{
    backend::{Params, Trace},
    model::text::{
        Prompt, TextArrangement, TextConditioner, TextEncoder, TextPart, TextTokenizer,
        TokenizerFiles,
    },
    sampler::{SamplerKind, Schedule, SchedulerConfig},
};
use serde_json::Value;

use crate::common::{
    drawn::{sizes, weight},
    fixture,
    tensors::{bits, norm_error},
};

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("flux2_klein").join(name)).unwrap()).unwrap()
}

/// The layers whose states the pipeline takes.
const LAYERS: &[usize] = &[9, 18, 27];

fn part(texts: &Value, layers: &[usize]) -> TextPart {
    let read = |file: &str| fs::read(fixture("z_image/tokenizer").join(file)).unwrap();
    let (config, whole) = (read("tokenizer_config.json"), read("tokenizer.json"));
    let tokenizer = TextTokenizer::from_files(&TokenizerFiles {
        tokenizer_config_json: Some(&config),
        tokenizer_json: Some(&whole),
        ..TokenizerFiles::default()
    })
    .unwrap();
    let shapes = texts["shapes"].as_object().unwrap().iter();
    let weights: HashMap<_, _> =
        shapes.map(|(name, shape)| (name.clone(), weight(name, &sizes(shape)))).collect();
    let params = Params::from_tensors(weights, DType::F32, &Device::Cpu);
    let encoder = TextEncoder::load("Qwen3ForCausalLM", &texts["config"], layers, &params).unwrap();
    TextPart { tokenizer, encoder }
}

fn conditioner(texts: &Value) -> TextConditioner {
    let tokens = texts["sequence"].as_u64().unwrap() as usize;
    let arrangement = TextArrangement::ChatLayers { tokens, layers: LAYERS };
    TextConditioner::new(vec![part(texts, LAYERS)], arrangement).unwrap()
}

fn prompts(texts: &Value) -> Vec<String> {
    serde_json::from_value(texts["prompts"].clone()).unwrap()
}

#[test]
fn texts_have_the_ids_and_the_states_of_the_pipeline_and_so_has_what_fills_them_up() {
    let texts = json("texts.json");
    let expected =
        safetensors::load(fixture("flux2_klein/texts.safetensors"), &Device::Cpu).unwrap();
    let conditioner = conditioner(&texts);
    let ids: Vec<Vec<u32>> = serde_json::from_value(texts["ids"].clone()).unwrap();
    let prompts = prompts(&texts);
    let text = conditioner.encode(&prompts).unwrap();
    assert!(text.pooled.is_none() && text.lengths.is_none(), "nothing is masked");
    assert_eq!(conditioner.widths(), (3 * 16, None));
    let mut counts = Vec::new();
    for (row, (prompt, ids)) in prompts.iter().zip(&ids).enumerate() {
        let chunk =
            conditioner.tokenizers().chunks(&Prompt::plain(prompt)).unwrap().remove(0).remove(0);
        let tokens = chunk.tokens;
        assert_eq!(&tokens.ids, ids, "{prompt:?}");
        counts.push(tokens.count);
        let error = norm_error(&text.context.get(row).unwrap(), &expected[&row.to_string()]);
        println!("{prompt:?}: {error:e}");
        assert!(error <= 1e-4, "{prompt:?}: {error:e}");
    }
    assert!(counts.iter().any(|&count| count < 64) && counts.contains(&64), "{counts:?}");
}

#[test]
fn a_prompts_states_are_the_same_to_the_bit_in_any_company() {
    let texts = json("texts.json");
    let conditioner = conditioner(&texts);
    let prompts = prompts(&texts);
    let all = conditioner.encode(&prompts).unwrap();
    for (row, prompt) in prompts.iter().enumerate() {
        let alone = conditioner.encode(&[prompt]).unwrap();
        assert_eq!(bits(&all.context.get(row).unwrap()), bits(&alone.context.get(0).unwrap()));
    }
}

#[test]
fn a_cut_is_a_place_in_the_text_and_a_trace_counts_what_fills_up() {
    let conditioner = conditioner(&json("texts.json"));
    let tokenizers = conditioner.tokenizers();
    let ids = |text: &str| {
        tokenizers.chunks(&Prompt::plain(text)).unwrap().remove(0).remove(0).tokens.ids
    };
    let long = format!("Dämmerung: {}", "a, ".repeat(90));
    let cut = tokenizers.cut(&long).unwrap().unwrap();
    assert_eq!(ids(&long[..cut.at]), ids(&long));
    assert_eq!(tokenizers.cut("an old harbour").unwrap(), None);
    let trace = Trace::new(&Device::Cpu);
    let text = conditioner.trace(2, &trace).unwrap();
    assert_eq!(text.context.dims(), [2, 64, 48]);
    assert!(trace.peak() >= 2 * 64 * 48 * 4);
}

#[test]
fn layers_and_encoders_that_do_not_fit_are_errors() {
    let texts = json("texts.json");
    let params = Params::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
    let mut few = texts["config"].clone();
    few["num_hidden_layers"] = 27.into();
    let error = TextEncoder::load("Qwen3ForCausalLM", &few, LAYERS, &params).unwrap_err();
    assert!(error.to_string().contains("of 27 in all"), "{error}");
    let chat = |encoders: Vec<TextPart>| {
        let arrangement = TextArrangement::ChatLayers { tokens: 64, layers: LAYERS };
        TextConditioner::new(encoders, arrangement).unwrap_err().to_string()
    };
    let both = chat(vec![part(&texts, LAYERS), part(&texts, LAYERS)]);
    assert!(both.contains("Qwen3's"), "{both}");
    assert!(chat(Vec::new()).contains("has none"));
}

#[test]
fn steps_are_those_of_the_pipelines_sigmas_and_measured_shift() {
    let table = json("schedule.json");
    let config = SchedulerConfig::from_json(&table["config"].to_string()).unwrap();
    let config = config.of_measured_shift();
    let sampler = SamplerKind::FlowEuler.build(&config, None).unwrap();
    let (mut compared, mut largest) = (0, 0f64);
    for (tokens, rows) in table["timesteps"].as_object().unwrap() {
        let schedule = Schedule::new(&config).unwrap().with_tokens(tokens.parse().unwrap());
        for (n, expected) in rows.as_object().unwrap() {
            let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
            let ours = sampler.steps(&schedule, n.parse().unwrap()).unwrap();
            assert_eq!(ours.len(), expected.len());
            for (step, t) in ours.iter().zip(&expected) {
                largest = largest.max((step.t - t).abs() / 1000.0);
                largest = largest.max((step.level.spread - t / 1000.0).abs());
                compared += 1;
            }
        }
    }
    println!("{compared} timesteps, {largest:e}");
    assert!(compared == 402 && largest <= 1e-5, "{compared}: {largest:e}");
}
