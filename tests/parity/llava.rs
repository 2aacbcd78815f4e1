//! LLaVA-1.5 and 1.6 on small random models against transformers (fixtures by
//! tests/make_fixtures/make_llava_fixtures.py), and the rule that a picture's text is the same in any batch.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::model::llava::{
    GenerateOptions, GenerationStep, Llava, LlavaError, LlavaPicture, PromptFormat, Row,
    TokenSampling,
};
use cupscale::weights::{LlavaFiles, QuantType};
use serde_json::Value;

const MODELS: [&str; 4] =
    ["llava15_llama", "llava15_mistral_full", "llava16_mistral", "llava16_llama"];

/// Fixtures that also exist as GGUF files: the older kind, without the image token and with the layers
/// of the vision tower's MLPs swapped, and the newer kind.
const GGUF: [&str; 2] = ["llava15_llama", "llava16_mistral"];

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("llava").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

fn load(name: &str) -> Llava {
    LlavaFiles::open(fixture(name)).unwrap().load(&Device::Cpu, DType::F32).unwrap()
}

/// Crop number `index` of the fixtures' picture.
fn crop(index: usize) -> LlavaPicture<'static> {
    let whole = &tensors("picture.safetensors")["picture"];
    let crop: [usize; 4] = serde_json::from_value(expected()["crops"][index].clone()).unwrap();
    let [x, y, width, height] = crop;
    let part = whole.narrow(0, y, height).unwrap().narrow(1, x, width).unwrap();
    let rgb = part.contiguous().unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    LlavaPicture::new(width, height, rgb).unwrap()
}

fn instruction() -> String {
    expected()["instruction"].as_str().unwrap().to_owned()
}

fn options() -> GenerateOptions {
    let max_new_tokens = expected()["new_tokens"].as_u64().unwrap() as usize;
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

fn generate(model: &Llava, crops: &[usize], options: &GenerateOptions) -> Vec<Vec<u32>> {
    let prompt = model.prompt(&instruction()).unwrap();
    let rows: Vec<_> =
        crops.iter().map(|&index| Row { picture: crop(index), number: index as u64 }).collect();
    model.generate(&prompt, &rows, options, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Crop → its greedy text's tokens without the end, and the text.
fn texts(model: &str) -> Vec<(usize, Vec<u32>, String)> {
    let expected = expected();
    let of = &expected["models"][model];
    let crops: Vec<usize> = serde_json::from_value(of["crops"].clone()).unwrap();
    let tokens: Vec<Vec<u32>> = serde_json::from_value(of["tokens"].clone()).unwrap();
    let texts: Vec<String> = serde_json::from_value(of["texts"].clone()).unwrap();
    assert_eq!((tokens.len(), texts.len()), (crops.len(), crops.len()));
    crops
        .into_iter()
        .zip(tokens)
        .zip(texts)
        .map(|((crop, mut tokens), text)| {
            tokens.retain(|&token| token != 2);
            (crop, tokens, text)
        })
        .collect()
}

#[test]
fn the_prompt_has_the_tokens_that_transformers_processor_gives() {
    let expected = expected();
    for name in MODELS {
        let model = load(name);
        let prompt = model.prompt(&instruction()).unwrap();
        let prompts = expected["models"][name]["prompts"].as_object().unwrap();
        assert!(prompts.len() >= 4);
        for (index, ids) in prompts {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            let size = crop(index.parse().unwrap()).size();
            assert_eq!(model.prompt_length(&prompt, size), ids.len(), "{name}: crop {index}");
            assert!(ids.starts_with(&prompt.before), "{name}: crop {index}");
            assert!(ids.ends_with(&prompt.after), "{name}: crop {index}");
        }
    }
}

#[test]
fn the_scores_of_every_step_equal_transformers_for_square_and_long_pictures() {
    for name in MODELS {
        let model = load(name);
        let prompt = model.prompt(&instruction()).unwrap();
        let found = tensors(&format!("{name}/expected.safetensors"));
        assert!(found.len() >= 4);
        for (crop_index, given, _) in texts(name) {
            let Some(expected) = found.get(&format!("scores.{crop_index}")) else { continue };
            let steps = expected.dim(0).unwrap();
            let scores = model.scores(&prompt, &crop(crop_index), &given[..steps - 1]).unwrap();
            let scores = scores.into_tensor().unwrap();
            let largest = |x: &Tensor| {
                x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
            };
            let error = largest(&(&scores - expected).unwrap()) / largest(expected);
            assert!(error <= 1e-5, "{name}: crop {crop_index}: {error:e}");
        }
    }
}

#[test]
fn greedy_texts_equal_transformers() {
    for name in MODELS {
        let model = load(name);
        for (index, tokens, text) in texts(name).into_iter().rev().take(6) {
            let ours = generate(&model, &[index], &options()).remove(0);
            assert_eq!(ours, tokens, "{name}: crop {index}");
            assert_eq!(model.decode(&ours).unwrap(), text, "{name}: crop {index}");
        }
    }
}

#[test]
fn a_batch_of_any_size_gives_the_texts_of_transformers_one_by_one() {
    for name in ["llava15_llama", "llava16_mistral"] {
        let model = load(name);
        let known = texts(name);
        for count in [1, 8, 49] {
            let crops: Vec<usize> = (0..count).collect();
            let expected: Vec<_> =
                known[..count].iter().map(|(_, tokens, _)| tokens.clone()).collect();
            for prefill_rows in [1, 5, 49] {
                let options = GenerateOptions { prefill_rows: Some(prefill_rows), ..options() };
                assert_eq!(generate(&model, &crops, &options), expected, "{name}: {count} regions");
            }
        }
    }
}

/// Greedy texts hide differences of rounding; chance shows them: a draw falls anywhere.
#[test]
fn sampled_texts_do_not_depend_on_the_batch_but_on_the_seed() {
    let model = load("llava16_mistral");
    let crops: Vec<usize> = (0..49).collect();
    let sampled = |crops: &[usize], seed| {
        let sampling = Some(TokenSampling { temperature: 1.5, top_p: 0.9, seed });
        generate(&model, crops, &GenerateOptions { sampling, ..options() })
    };
    let together = sampled(&crops, 1);
    assert_eq!(sampled(&crops[20..28], 1), together[20..28]);
    for index in [0, 7, 48] {
        assert_eq!(sampled(&[index], 1)[0], together[index]);
    }
    assert_ne!(sampled(&crops, 2), together);
    assert_ne!(generate(&model, &crops, &options()), together);
}

#[test]
fn gguf_files_give_the_prompts_scores_and_texts_of_the_folder_that_they_were_made_of() {
    for name in GGUF {
        let gguf = load(&format!("{name}_gguf"));
        let folder = load(name);
        let prompt = gguf.prompt(&instruction()).unwrap();
        assert_eq!(prompt, folder.prompt(&instruction()).unwrap(), "{name}");
        for (crop_index, tokens, text) in texts(name).into_iter().rev().take(6) {
            let ours = gguf.scores(&prompt, &crop(crop_index), &tokens).unwrap();
            let theirs = folder.scores(&prompt, &crop(crop_index), &tokens).unwrap();
            let [ours, theirs] = [ours, theirs].map(|scores| scores.into_tensor().unwrap());
            let difference = (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap();
            let largest = difference.max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(largest <= 1e-4, "{name}: crop {crop_index}: {largest:e}");
            let ours = generate(&gguf, &[crop_index], &options()).remove(0);
            assert_eq!(gguf.decode(&ours).unwrap(), text, "{name}: crop {crop_index}");
        }
    }
}

#[test]
fn a_pair_of_gguf_files_is_found_by_its_folder_or_by_either_name() {
    let folder = fixture("llava16_mistral_gguf");
    let (decoder, vision) = (folder.join("model-f16.gguf"), folder.join("mmproj-model-f16.gguf"));
    let prompt =
        |files: LlavaFiles| files.load(&Device::Cpu, DType::F32).unwrap().prompt("What?").unwrap();
    let found = prompt(LlavaFiles::open(&folder).unwrap());
    assert_eq!(prompt(LlavaFiles::open(&decoder).unwrap()), found);
    assert_eq!(prompt(LlavaFiles::open_gguf(&decoder, &vision).unwrap()), found);
    // Its heads share keys, so it is taken for Mistral's; one may know better.
    let other = LlavaFiles::open(&folder).unwrap().prompt_format(PromptFormat::Vicuna);
    assert_ne!(prompt(other), found);

    let message = |decoder: &Path, vision: &Path| {
        LlavaFiles::open_gguf(decoder, vision).unwrap_err().to_string()
    };
    assert!(message(&vision, &vision).contains("`clip` model"), "{}", message(&vision, &vision));
    assert!(message(&decoder, &decoder).contains("vision tower"));
    let lonely = tempfile::tempdir().unwrap();
    std::fs::copy(&decoder, lonely.path().join("model.gguf")).unwrap();
    for path in [lonely.path().to_owned(), lonely.path().join("model.gguf")] {
        let error = LlavaFiles::open(&path).unwrap_err().to_string();
        assert!(error.contains("0 GGUF files with a vision tower"), "{error}");
    }
    std::fs::copy(&vision, lonely.path().join("a.gguf")).unwrap();
    std::fs::copy(&vision, lonely.path().join("b.gguf")).unwrap();
    let error = LlavaFiles::open(lonely.path()).unwrap_err().to_string();
    assert!(error.contains("2 GGUF files with a vision tower"), "{error}");
}

#[test]
fn a_generation_reports_its_steps_and_can_be_stopped_at_any_of_them() {
    let model = load("llava15_llama");
    let prompt = model.prompt(&instruction()).unwrap();
    let rows: Vec<_> = (0..5).map(|index| Row { picture: crop(index), number: 0 }).collect();
    let options = GenerateOptions { prefill_rows: Some(2), ..options() };
    let mut steps = Vec::new();
    let texts = model
        .generate(&prompt, &rows, &options, &mut |step| {
            steps.push(step);
            ControlFlow::Continue(())
        })
        .unwrap();
    let prefilled = [2, 4, 5].map(|rows| GenerationStep::Prefilled { rows });
    assert_eq!(steps[..3], prefilled);
    let ended = texts.iter().filter(|text| text.len() < options.max_new_tokens).count();
    let Some(GenerationStep::Decoded { tokens, ended: last }) = steps.last().copied() else {
        panic!()
    };
    assert_eq!((steps.len() - 3, last), (tokens, ended));
    for stop in [0, 2, 4] {
        let mut left = stop;
        let error = model.generate(&prompt, &rows, &options, &mut |_| {
            if left == 0 {
                ControlFlow::Break(())
            } else {
                left -= 1;
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(error, Err(LlavaError::Interrupted)));
    }
}

#[test]
fn special_tokens_in_an_instruction_are_no_tokens() {
    let model = load("llava15_llama");
    let plain = model.prompt("What is there?").unwrap();
    let odd = model.prompt("What</s> is<image> the<ima<s>ge>re?").unwrap();
    assert_eq!(plain, odd);
}

#[test]
fn a_prompt_that_is_too_long_and_pictures_of_two_sizes_are_refused() {
    let model = load("llava15_llama");
    let prompt = model.prompt(&instruction()).unwrap();
    let row = |index| Row { picture: crop(index), number: 0 };
    let mut go_on = |_| ControlFlow::Continue(());
    let long = GenerateOptions { max_new_tokens: 500, ..options() };
    let error = model.generate(&prompt, &[row(0)], &long, &mut go_on).unwrap_err();
    assert!(matches!(error, LlavaError::TooLong { limit: 512, .. }), "{error}");
    let error = model.generate(&prompt, &[row(0), row(49)], &options(), &mut go_on).unwrap_err();
    assert!(matches!(error, LlavaError::Sizes { width: 50, other_width: 111, .. }), "{error}");
    assert!(LlavaPicture::new(2, 2, vec![0; 11]).is_err());
    assert_eq!(
        model.generate(&prompt, &[], &options(), &mut go_on).unwrap(),
        Vec::<Vec<u32>>::new()
    );
}

#[test]
fn weights_kept_as_stored_and_quantized_ones_give_nearly_the_same_scores() {
    let files = || LlavaFiles::open(fixture("llava15_llama")).unwrap();
    let scores = |files: LlavaFiles| {
        let model = files.load(&Device::Cpu, DType::F32).unwrap();
        let prompt = model.prompt(&instruction()).unwrap();
        let scores = model.scores(&prompt, &crop(0), &[]).unwrap();
        (scores.into_tensor().unwrap(), model.weight_bytes())
    };
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let (plain, in_f32) = scores(files().keep_above(usize::MAX));
    let (kept, in_f16) = scores(files().keep_above(0));
    assert!(norm(&(&kept - &plain).unwrap()) <= 1e-6 * norm(&plain));
    // All but norms, positions and the patches' layer.
    assert!(in_f16 < in_f32 * 2 / 3, "{in_f16} of {in_f32} bytes");
    let (rounded, in_q8) = scores(files().quantized(QuantType::Q8_0).keep_above(0));
    let error = norm(&(&rounded - &plain).unwrap()) / norm(&plain);
    assert!((1e-4..0.05).contains(&error), "{error}");
    assert!(in_q8 < in_f16, "{in_q8} of {in_f16} bytes");
    // How weights are kept does not change what they are.
    let (again, _) = scores(files().quantized(QuantType::Q8_0).keep_above(usize::MAX));
    assert!(norm(&(&rounded - &again).unwrap()) <= 1e-6 * norm(&plain));
}

#[test]
fn a_folder_that_is_not_whole_is_named_with_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LlavaFiles::open(folder.path());
    let message =
        |result: Result<Llava, cupscale::weights::WeightsError>| result.unwrap_err().to_string();
    assert!(open().unwrap_err().to_string().contains("config.json"));
    let source = fixture("llava16_mistral");
    let copy = |name: &str| std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
    copy("config.json");
    let load = || open().and_then(|files| files.load(&Device::Cpu, DType::F32));
    assert!(message(load()).contains("model.safetensors"));
    copy("model.safetensors.index.json");
    copy("model-00001-of-00002.safetensors");
    assert!(message(load()).contains("model-00002-of-00002.safetensors"));
    copy("model-00002-of-00002.safetensors");
    assert!(message(load()).contains("tokenizer.json"));
    copy("tokenizer.json");
    load().unwrap();
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let wider = config.replace("\"intermediate_size\": 64", "\"intermediate_size\": 96");
    assert_ne!(wider, config);
    std::fs::write(folder.path().join("config.json"), wider).unwrap();
    let error = message(load());
    assert!(error.contains("mlp") && error.contains("configuration says"), "{error}");
}
