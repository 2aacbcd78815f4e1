//! Captions of 49 regions by one LLaVA, all together and one by one: seconds, tokens a second, and the
//! ratio, for several formats of its weights, which are random. On the CPU the model has 46 million of
//! them, enough that they do not fit a processor's caches; on a GPU it is LLaVA-1.6-Mistral-7B at full
//! size, with regions of 336².
//!
//! `cargo bench --bench llava [-- REGIONS TOKENS] [FORMAT …]`; `RAYON_NUM_THREADS` sets the threads.
//! `cargo bench --features cuda --bench llava -- --gpu [REGIONS TOKENS] [FORMAT …]`; `--together` leaves out what takes
//! longest, the regions one by one, and `--json FILE` appends each result to a file

mod results;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::backend::{
    DeviceSpec, ParamSource, Params, Stored, Weight, WeightStorage, WeightUse, Working, pack_rows,
    peak_memory,
};
use cupscale::model::llava::{
    GenerateOptions, GenerationStep, Llava, LlavaConfig, LlavaParts, LlavaPicture, LlavaTokenizer,
    Prompt, Row,
};
use serde_json::{Value, json};

/// As the program has it.
#[cfg(target_os = "linux")]
#[path = "../src/allocator/mod.rs"]
#[allow(dead_code, reason = "its tests are built here and run with the program's")]
mod allocator;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// The small tokenizer of the tests; what the model says is gibberish anyway.
const TOKENIZER: &[u8] = include_bytes!("../tests/fixtures/llava/llava15_llama/tokenizer.json");

/// The setup to measure: a model, the side of a region, and the formats of the decoder's matrices.
struct Setup {
    device: Device,
    dtype: DType,
    config: Value,
    side: usize,
    formats: &'static [(&'static str, Option<GgmlDType>)],
}

impl Setup {
    fn small() -> Self {
        let side = 168;
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            config: json!({
                "model_type": "llava",
                "text_config": {
                    "model_type": "llama", "vocab_size": 8192, "hidden_size": 768,
                    "intermediate_size": 2048, "num_hidden_layers": 5, "num_attention_heads": 12,
                    "max_position_embeddings": 2048,
                },
                "vision_config": {
                    "model_type": "clip_vision_model", "hidden_size": 256, "intermediate_size": 1024,
                    "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": side,
                    "patch_size": 14,
                },
            }),
            side,
            formats: &[
                ("f32", None),
                ("q8_0", Some(GgmlDType::Q8_0)),
                ("q4_k", Some(GgmlDType::Q4K)),
            ],
        }
    }

    /// llava-hf/llava-v1.6-mistral-7b-hf, by its config.json.
    fn full(device: Device) -> Self {
        Self {
            device,
            dtype: DType::F16,
            config: json!({
                "model_type": "llava_next",
                "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
                "text_config": {
                    "model_type": "mistral", "vocab_size": 32064, "hidden_size": 4096,
                    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "max_position_embeddings": 32768,
                    "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-5, "sliding_window": null,
                },
                "vision_config": {
                    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336,
                    "patch_size": 14,
                },
            }),
            side: 336,
            formats: &[("f16", None), ("q4_k", Some(GgmlDType::Q4K))],
        }
    }
}

/// A small random weight for every name, the decoder's matrices in this format.
struct Random {
    format: Option<GgmlDType>,
    /// Rounding seven billion numbers takes minutes: matrices of one shape have the same ones.
    packed: Mutex<HashMap<(usize, usize), PackedRows>>,
}

type PackedRows = Arc<[u8]>;

impl ParamSource for Random {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        if name.contains("norm") && name.ends_with("weight") {
            return Tensor::ones(shape, dtype, device);
        }
        // Small enough that 32 layers do not overflow 16 bits.
        let deviation = 0.04f32.min(1.0 / (shape.dims()[shape.rank() - 1] as f32).sqrt());
        Tensor::randn(0f32, deviation, shape, device)?.to_dtype(dtype)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        let format = self.format.filter(|_| name.starts_with("language_model."));
        let stored = format.map(|format| Stored { format, in_file: false, keep: true });
        let storage = WeightStorage::choose(weight_use, shape, stored, working)?;
        let WeightStorage::OnDevice(format) = storage else {
            let weight = self.get(name, shape, storage.numbers(), &working.device)?;
            return Weight::new(&weight, weight_use, storage);
        };
        let (output, input) = shape.dims2()?;
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match packed.get(&(output, input)) {
            Some(bytes) => bytes.clone(),
            None => {
                let rows = self.get(name, shape, DType::F32, &Device::Cpu)?;
                let values = rows.flatten_all()?.to_vec1::<f32>()?;
                let bytes: PackedRows = pack_rows(&values, format, input)?.into();
                packed.insert((output, input), bytes.clone());
                bytes
            }
        };
        Weight::on_device(&bytes, format, (output, input), &working.device)
    }
}

fn model(setup: &Setup, format: Option<GgmlDType>) -> Result<Llava> {
    let fail =
        |error: cupscale::model::llava::LlavaError| candle_core::Error::Msg(error.to_string());
    let tokenizer = LlavaTokenizer::from_json(TOKENIZER).map_err(fail)?;
    let json: Value = serde_json::from_slice(TOKENIZER).map_err(candle_core::Error::wrap)?;
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let image =
        added.filter(|token| token["content"] == "<image>").map(|token| &token["id"]).next();
    let mut config = setup.config.clone();
    config["image_token_index"] = image.cloned().unwrap_or_default();
    let mut config = LlavaConfig::from_json(&config, &Value::Null).map_err(fail)?;
    // Every text is as long as it may be.
    config.decoder.end_tokens.clear();
    let source = Random { format, packed: Mutex::default() };
    let params = Params::new(Arc::new(source), setup.dtype, &setup.device);
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
        if let GenerationStep::Prefilled { .. } = step {
            prefilled = start.elapsed().as_secs_f64();
        }
        ControlFlow::Continue(())
    });
    let texts = texts.unwrap_or_else(|error| panic!("{error}"));
    (texts, prefilled, start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    #[cfg(target_os = "linux")]
    allocator::install();
    let arguments: Vec<String> = std::env::args().collect();
    let setup = if arguments.iter().any(|argument| argument == "--gpu") {
        // As the program opens it.
        let gpu = DeviceSpec::Cuda(0).open().or_else(|_| DeviceSpec::Metal.open());
        Setup::full(gpu.map_err(candle_core::Error::wrap)?)
    } else {
        Setup::small()
    };
    let together_alone = arguments.iter().any(|argument| argument == "--together");
    let json_file = arguments.iter().position(|argument| argument == "--json");
    let json_file = json_file.and_then(|at| arguments.get(at + 1)).map(std::path::Path::new);
    let numbers: Vec<usize> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let (regions, tokens) = match numbers[..] {
        [regions, tokens, ..] => (regions, tokens),
        _ => (49, 60),
    };
    let side = setup.side;
    let rows: Vec<Row> = (0..regions)
        .map(|index| {
            let rgb: Vec<u8> =
                (0..side * side * 3).map(|at| (at * (index + 3) / 7 % 256) as u8).collect();
            let picture = LlavaPicture::new(side, side, rgb).map_err(candle_core::Error::wrap)?;
            Ok(Row { picture, number: index as u64 })
        })
        .collect::<Result<_>>()?;
    let options = GenerateOptions { max_new_tokens: tokens, ..GenerateOptions::default() };
    println!("{regions} regions, {tokens} tokens each, {} threads", rayon_threads());
    println!(
        "| weights | bytes | one by one s | (prompts s) | together s | (prompts s) | tokens/s | ratio | equal texts |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let named = |name: &str| arguments.iter().any(|argument| argument == name);
    let some = setup.formats.iter().any(|&(name, _)| named(name));
    for &(name, format) in setup.formats.iter().filter(|&&(name, _)| named(name) || !some) {
        let model = model(&setup, format)?;
        let prompt = model.prompt("Describe in one sentence what is visible in this picture.");
        let prompt = prompt.map_err(candle_core::Error::wrap)?;
        // Pages, threads and kernels are there before the clock starts, for all rows as for one.
        run(&model, &prompt, &rows, &GenerateOptions { max_new_tokens: 2, ..options });
        let (together, prompts, all) = run(&model, &prompt, &rows, &options);
        let (mut single_prompts, mut single_all, mut equal) = (0.0, 0.0, 0);
        let one_by_one = if together_alone { 0 } else { rows.len() };
        for (row, text) in rows.iter().zip(&together).take(one_by_one) {
            let (alone, prompts, all) = run(&model, &prompt, std::slice::from_ref(row), &options);
            // On a GPU, products of another number of rows may be rounded otherwise, and random weights
            // make near ties of all tokens.
            assert!(
                !setup.device.is_cpu() || &alone[0] == text,
                "a row of the batch differs from the row alone"
            );
            equal += usize::from(&alone[0] == text);
            single_prompts += prompts;
            single_all += all;
        }
        let alone = |value: String| if one_by_one > 0 { value } else { "–".to_owned() };
        println!(
            "| {name} | {} MB | {} | {} | {all:.2} | {prompts:.2} | {:.0} | {} | {} |",
            model.weight_bytes() / 1_000_000,
            alone(format!("{single_all:.2}")),
            alone(format!("{single_prompts:.2}")),
            (regions * tokens) as f64 / all,
            alone(format!("{:.1}", single_all / all)),
            alone(format!("{equal} of {regions}")),
        );
        let result = json!({
            "weights": name, "regions": regions, "tokens": tokens, "seconds": all, "prompts_s": prompts,
            "one_by_one_s": (one_by_one > 0).then_some(single_all),
            "peak_bytes": peak_memory(&setup.device),
        });
        results::record(json_file, &result)
            .map_err(|error| candle_core::Error::Msg(error.to_string()))?;
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
