//! T5 in a model and beside it: what Stable Diffusion 3 reads texts with, from a folder, from a file, and without.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use cupscale::model::text::{
    TextArrangement, TextConditioner, TextConditioning, TextEncoder, TextPart, TextTokenizer,
    TokenizerFiles,
};
use cupscale::weights::{ModelFiles, ModelSource};
use serde_json::{Value, json};

use crate::common::{fixture, tensors::bits};

/// A folder of Stable Diffusion 3 with the encoders of CLIP, and with T5's where that is wanted. It has no weights
/// besides: only texts are encoded.
fn model(with_t5: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |from: PathBuf, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    let pipelines = fixture("t5").join("pipelines");
    for (encoder, tokenizer, own) in
        [("text_encoder", "tokenizer", "first"), ("text_encoder_2", "tokenizer_2", "second")]
    {
        for file in ["config.json", "model.safetensors"] {
            put(pipelines.join(encoder).join(file), &format!("{encoder}/{file}"));
        }
        for file in ["vocab.json", "merges.txt"] {
            let from = fixture("text").join("tokenizer_first").join(file);
            put(from, &format!("{tokenizer}/{file}"));
        }
        let from = fixture("text").join(format!("tokenizer_{own}/tokenizer_config.json"));
        put(from, &format!("{tokenizer}/tokenizer_config.json"));
    }
    if with_t5 {
        for file in ["config.json", "model.safetensors"] {
            put(pipelines.join("text_encoder_3").join(file), &format!("text_encoder_3/{file}"));
        }
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            put(fixture("t5").join("json").join(file), &format!("tokenizer_3/{file}"));
        }
    }
    let clip = json!(["transformers", "CLIPTextModelWithProjection"]);
    let index = json!({
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "text_encoder": clip,
        "text_encoder_2": clip,
        "text_encoder_3": if with_t5 { json!(["transformers", "T5EncoderModel"]) } else { json!([null, null]) },
    });
    write(folder.path(), "model_index.json", &index);
    let transformer = json!({"_class_name": "SD3Transformer2DModel", "joint_attention_dim": 40});
    write(folder.path(), "transformer/config.json", &transformer);
    folder
}

fn write(folder: &Path, file: &str, value: &Value) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

fn open(folder: &Path) -> ModelFiles {
    ModelFiles::open(ModelSource::Path(folder.to_owned())).unwrap()
}

fn conditions(files: &ModelFiles) -> TextConditioning {
    let text = files.text(&Device::Cpu, DType::F32).unwrap();
    assert_eq!((text.tokens(), text.widths()), (77 + 256, (40, Some(26))));
    text.encode(&["An old harbour at dusk", ""]).unwrap()
}

#[test]
fn t5_in_the_model_and_t5_beside_it_give_the_same_conditions() {
    let (whole, without) = (model(true), model(false));
    let own = conditions(&open(whole.path()));
    let none = conditions(&open(without.path()));
    // Without T5 its place holds zeros, and the rest is the same.
    let states = |one: &TextConditioning, at: usize| one.context.narrow(1, at, 77).unwrap();
    assert_eq!(
        bits(&states(&own, 0).contiguous().unwrap()),
        bits(&states(&none, 0).contiguous().unwrap())
    );
    let zeros = bits(&states(&none, 77).contiguous().unwrap());
    assert!(zeros.iter().all(|&bits| bits == 0));
    assert!(bits(&states(&own, 77).contiguous().unwrap()).iter().any(|&bits| bits != 0));
    // A whole model, a folder of the encoder alone, and a file with the vocabulary beside it or in the model.
    let encoder = whole.path().join("text_encoder_3");
    let beside = tempfile::tempdir().unwrap();
    let file = beside.path().join("t5xxl.safetensors");
    std::fs::copy(encoder.join("model.safetensors"), &file).unwrap();
    let lacking = open(without.path()).with_text_encoder(&file).unwrap();
    let error = lacking.text(&Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(error.contains("T5's vocabulary is missing"), "{error}");
    let from_model = conditions(&open(whole.path()).with_text_encoder(&file).unwrap());
    let vocabulary = fixture("t5").join("json/tokenizer.json");
    std::fs::copy(&vocabulary, beside.path().join("tokenizer.json")).unwrap();
    let alone = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(encoder.join(name), alone.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(encoder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["model_type"] = "t5".into();
    write(alone.path(), "config.json", &config);
    write(whole.path(), "text_encoder_3/config.json", &config);
    std::fs::copy(&vocabulary, alone.path().join("tokenizer.json")).unwrap();
    let mut all = vec![from_model];
    for path in [whole.path(), alone.path(), &file] {
        all.push(conditions(&open(without.path()).with_text_encoder(path).unwrap()));
    }
    for other in all {
        assert_eq!(bits(&other.context), bits(&own.context));
        assert_eq!(bits(other.pooled.as_ref().unwrap()), bits(own.pooled.as_ref().unwrap()));
    }
}

#[test]
fn a_model_in_the_files_of_llama_cpp_is_one_whose_weights_are_rounded() {
    let without = model(false);
    let gguf = fixture("t5").join("files/t5.gguf");
    let files = open(without.path()).with_text_encoder(&gguf).unwrap();
    assert!(files.notes().is_empty(), "{:?}", files.notes());
    let (rounded, own) = (conditions(&files), conditions(&open(model(true).path())));
    let difference = rounded.context.sub(&own.context).unwrap();
    let most = |x: &cupscale::backend::Activation| {
        x.tensor().unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    };
    let error = most(&difference) / most(&own.context);
    assert!(error > 0.0 && error < 5e-3, "{error:e}");
}

#[test]
fn conditions_are_those_of_the_parts() {
    let whole = model(true);
    let part = |encoder: &str, tokenizer: &str| {
        let read = |file: &str| std::fs::read(whole.path().join(tokenizer).join(file)).ok();
        let [vocab, merges, json, config] =
            ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"].map(read);
        let tokenizer = TextTokenizer::from_files(&TokenizerFiles {
            vocab_json: vocab.as_deref(),
            merges_txt: merges.as_deref(),
            tokenizer_json: json.as_deref(),
            tokenizer_config_json: config.as_deref(),
            ..TokenizerFiles::default()
        });
        let folder = whole.path().join(encoder);
        let config: Value =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let class = config["architectures"][0].as_str().unwrap();
        let weights =
            candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu);
        let params =
            cupscale::backend::Params::from_tensors(weights.unwrap(), DType::F32, &Device::Cpu);
        let encoder = TextEncoder::load(class, &config, &[], &params).unwrap();
        TextPart { tokenizer: tokenizer.unwrap(), encoder }
    };
    let parts = vec![
        part("text_encoder", "tokenizer"),
        part("text_encoder_2", "tokenizer_2"),
        part("text_encoder_3", "tokenizer_3"),
    ];
    let arrangement = TextArrangement::Joint { tokens: 256, width: 40 };
    let expected = TextConditioner::new(parts, arrangement).unwrap();
    let expected = expected.encode(&["An old harbour at dusk", ""]).unwrap();
    let ours = conditions(&open(whole.path()));
    assert_eq!(bits(&ours.context), bits(&expected.context));
}

#[test]
fn a_place_without_t5_and_a_model_that_takes_none_are_refused_by_name() {
    let without = model(false);
    let fail = |path: &Path| open(without.path()).with_text_encoder(path).unwrap_err().to_string();
    assert!(fail(Path::new("no-such-file")).contains("no such model folder or file"));
    let clip = fixture("t5").join("pipelines/text_encoder/model.safetensors");
    assert!(
        fail(&clip).contains("no T5 text encoder in it: a text encoder alone"),
        "{}",
        fail(&clip)
    );
    let error = fail(&fixture("t5").join("pipelines/text_encoder"));
    assert!(error.contains("`model_type` is none, not t5 or umt5"), "{error}");
    #[cfg(feature = "embedded-model")]
    {
        let embedded = ModelFiles::open(ModelSource::Embedded).unwrap();
        let gguf = fixture("t5").join("files/t5.gguf");
        let error = embedded.with_text_encoder(&gguf).unwrap_err().to_string();
        assert!(error.contains("reads texts with CLIP alone"), "{error}");
    }
    let gguf = ModelSource::Path(fixture("t5").join("files/t5.gguf"));
    let error = ModelFiles::open(gguf).unwrap_err().to_string();
    assert!(error.contains("a T5 text encoder alone, not a model"), "{error}");
}
