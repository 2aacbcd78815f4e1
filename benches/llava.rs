//! Captions of 49 regions by one LLaVA, all together and one by one, on the CPU: seconds, tokens a
//! second, and the ratio, for weights in f32, q8_0 and q4_k. The weights are random; the model has 46
//! million of them (LLaVA-7B 7 billion), enough that they do not fit a processor's caches.
//!
//! `cargo bench --bench llava [-- REGIONS TOKENS]`; `RAYON_NUM_THREADS` sets the threads.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::backend::{ParamSource, Params, Working, ops::Weight};
use cupscale::model::llava::{
    GenerateOptions, Llava, LlavaConfig, LlavaParts, LlavaTokenizer, Picture, Prompt, Row, Step,
};
use serde_json::{Value, json};

/// The small tokenizer of the tests; what the model says is gibberish anyway.
const TOKENIZER: &[u8] = include_bytes!("../tests/fixtures/llava/llava15_llama/tokenizer.json");
const SIDE: usize = 168;

/// A small random weight for every name, matrices in this format.
struct Random(Option<GgmlDType>);

impl ParamSource for Random {
    fn get(&self, name: &str, shape: &Shape, _: DType, device: &Device) -> Result<Tensor> {
        if name.contains("norm") && name.ends_with("weight") {
            return Tensor::ones(shape, DType::F32, device);
        }
        Tensor::randn(0f32, 0.04, shape, device)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn matrix(&self, name: &str, shape: &Shape, working: &Working) -> Result<Weight> {
        let rows = self.get(name, shape, working.dtype, &working.device)?;
        match self.0 {
            Some(format) if name.starts_with("language_model.") => Weight::pack(&rows, format),
            _ => Weight::dense(&rows, working.products),
        }
    }
}

fn model(format: Option<GgmlDType>) -> Result<Llava> {
    let fail =
        |error: cupscale::model::llava::LlavaError| candle_core::Error::Msg(error.to_string());
    let tokenizer = LlavaTokenizer::from_json(TOKENIZER).map_err(fail)?;
    let json: Value = serde_json::from_slice(TOKENIZER).map_err(candle_core::Error::wrap)?;
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let image =
        added.filter(|token| token["content"] == "<image>").map(|token| &token["id"]).next();
    let mut config = LlavaConfig::from_json(
        &json!({
            "model_type": "llava",
            "image_token_index": image,
            "text_config": {
                "model_type": "llama", "vocab_size": 8192, "hidden_size": 768,
                "intermediate_size": 2048, "num_hidden_layers": 5, "num_attention_heads": 12,
                "max_position_embeddings": 2048,
            },
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 256, "intermediate_size": 1024,
                "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIDE,
                "patch_size": 14,
            },
        }),
        &Value::Null,
    )
    .map_err(fail)?;
    // Every text is as long as it may be.
    config.decoder.end_tokens.clear();
    let params = Params::new(Arc::new(Random(format)), DType::F32, &Device::Cpu);
    let parts = LlavaParts {
        config,
        preprocessor: &Value::Null,
        tokenizer,
        chat_template: None,
        prompt_format: None,
    };
    Llava::load(parts, &params).map_err(fail)
}

/// Texts, and the seconds until prompts were computed and until all was.
fn run(
    model: &Llava,
    prompt: &Prompt,
    rows: &[Row],
    options: &GenerateOptions,
) -> (Vec<Vec<u32>>, f64, f64) {
    let start = Instant::now();
    let mut prefilled = 0.0;
    let texts = model.generate(prompt, rows, options, &mut |step| {
        if let Step::Prefilled { .. } = step {
            prefilled = start.elapsed().as_secs_f64();
        }
        ControlFlow::Continue(())
    });
    (texts.unwrap_or_default(), prefilled, start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let (regions, tokens) = match numbers[..] {
        [regions, tokens, ..] => (regions, tokens),
        _ => (49, 60),
    };
    let rows: Vec<Row> = (0..regions)
        .map(|index| {
            let rgb: Vec<u8> =
                (0..SIDE * SIDE * 3).map(|at| (at * (index + 3) / 7 % 256) as u8).collect();
            let picture = Picture::new(SIDE, SIDE, rgb).map_err(candle_core::Error::wrap)?;
            Ok(Row { picture, number: index as u64 })
        })
        .collect::<Result<_>>()?;
    let options = GenerateOptions { max_new_tokens: tokens, ..GenerateOptions::default() };
    println!("{regions} regions, {tokens} tokens each, {} threads", rayon_threads());
    println!(
        "| weights | bytes | one by one s | (prompts s) | together s | (prompts s) | tokens/s | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, format) in
        [("f32", None), ("q8_0", Some(GgmlDType::Q8_0)), ("q4_k", Some(GgmlDType::Q4K))]
    {
        let model = model(format)?;
        let prompt = model.prompt("Describe in one sentence what is visible in this picture.");
        let prompt = prompt.map_err(candle_core::Error::wrap)?;
        // Pages and threads are there before the clock starts.
        run(&model, &prompt, &rows[..1], &GenerateOptions { max_new_tokens: 2, ..options });
        let (together, prompts, all) = run(&model, &prompt, &rows, &options);
        let (mut single_prompts, mut single_all) = (0.0, 0.0);
        for (row, text) in rows.iter().zip(&together) {
            let (alone, prompts, all) = run(&model, &prompt, std::slice::from_ref(row), &options);
            assert_eq!(&alone[0], text, "a row of the batch differs from the row alone");
            single_prompts += prompts;
            single_all += all;
        }
        println!(
            "| {name} | {} MB | {single_all:.2} | {single_prompts:.2} | {all:.2} | {prompts:.2} | {:.0} | {:.1} |",
            model.weight_bytes() / 1_000_000,
            (regions * tokens) as f64 / all,
            single_all / all
        );
    }
    Ok(())
}

fn rayon_threads() -> usize {
    std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|text| text.parse().ok())
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}
