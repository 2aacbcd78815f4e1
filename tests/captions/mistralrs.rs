//! The captioning process with mistral.rs in it, against transformers (fixtures by
//! tests/make_fixtures/make_mistralrs_fixtures.py and make_llava_fixtures.py), and models that it must not touch.

use std::borrow::Cow;
use std::fs;
use std::io::{BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{Device, safetensors};
use cupscale::caption::cache::CaptionCache;
use cupscale::caption::mistralrs::{confine, folder_name};
use cupscale::caption::worker::protocol::{
    LoadOptions, Reply, Request, encode_request, read_reply,
};
use cupscale::caption::worker::{Timeouts, WorkerModel, WorkerOptions};
use cupscale::caption::{
    CaptionContext, CaptionSession, GridSpec, Pixels, Rect, RegionPlace, RegionSource,
};
use serde_json::Value;

use crate::common::fixture;

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixture("mistralrs/expected.json")).unwrap()).unwrap()
}

fn pictures() -> Vec<Pixels> {
    let tensors = safetensors::load(fixture("mistralrs/pictures.safetensors"), &Device::Cpu);
    let pictures = &tensors.unwrap()["pictures"];
    let (count, height, width, _) = pictures.dims4().unwrap();
    (0..count)
        .map(|index| {
            let rgb = pictures.get(index).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
            Pixels::new(width, height, rgb).unwrap()
        })
        .collect()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cupscale-fast"));
    command.arg("caption-worker");
    confine(&mut command, Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    command
}

fn load(folder: &Path) -> LoadOptions {
    LoadOptions {
        folder: folder_name(folder).unwrap(),
        quantize: None,
        cpu: true,
        max_new_tokens: 12,
        try_together: true,
    }
}

/// A worker without the program around it.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start() -> Self {
        let mut child = command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn ask(&mut self, request: &Request, pixels: &[u8]) -> Reply {
        self.input.write_all(&encode_request(request, pixels)).unwrap();
        self.input.flush().unwrap();
        read_reply(&mut self.output).unwrap().expect("the worker has ended")
    }

    /// The first reply but that two pictures are tried.
    fn load(&mut self, load: LoadOptions) -> Reply {
        match self.ask(&Request::Load(load), &[]) {
            Reply::TryingTogether => read_reply(&mut self.output).unwrap().unwrap(),
            reply => reply,
        }
    }

    fn describe(&mut self, pixels: &Pixels, instruction: &str) -> (String, bool) {
        let (width, height) = (pixels.width(), pixels.height());
        let request = Request::Describe { id: 5, instruction: instruction.into(), width, height };
        match self.ask(&request, pixels.rgb()) {
            Reply::Text { id: 5, text, ended } => (text, ended),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(mut self, load: LoadOptions) -> String {
        match self.load(load) {
            Reply::Refused(reason) => {
                assert!(!reason.contains('\n'), "{reason}");
                reason
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy of the model with `file` changed.
fn changed(file: &str, content: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("mistralrs/idefics3")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    fs::write(folder.path().join(file), content).unwrap();
    folder
}

#[test]
fn greedy_texts_equal_transformers() {
    assert_greedy_texts(&fixture("mistralrs/idefics3"));
}

#[test]
fn a_model_that_would_cut_pictures_to_tiles_sees_them_whole() {
    let file = "preprocessor_config.json";
    let path = fixture("mistralrs/idefics3").join(file);
    let mut preprocessor: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    preprocessor["do_image_splitting"] = true.into();
    preprocessor["size"]["longest_edge"] = 56.into();
    let folder = changed(file, &preprocessor.to_string());
    let mut worker = Worker::start();
    let ready = worker.load(load(folder.path()));
    assert!(matches!(ready, Reply::Ready { .. }), "{ready:?}");
    assert!(!worker.describe(&pictures()[0], "What is there?").0.is_empty());
}

/// A model's texts of the fixtures' pictures are those of transformers, to which it shows them whole.
fn assert_greedy_texts(folder: &Path) {
    let expected = expected();
    let mut worker = Worker::start();
    let ready = worker.load(load(folder));
    assert!(matches!(ready, Reply::Ready { .. }), "{ready:?}");
    let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    let ended: Vec<bool> = serde_json::from_value(expected["ended"].clone()).unwrap();
    let pictures = pictures();
    assert!(texts.len() >= 4 && texts.len() == pictures.len());
    for ((pixels, text), ended) in pictures.iter().zip(texts).zip(ended) {
        let said = worker.describe(pixels, expected["instruction"].as_str().unwrap());
        assert_eq!(said, (text, ended));
    }
}

struct Regions(Vec<Pixels>);

impl RegionSource for Regions {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn place(&self, index: usize) -> RegionPlace {
        let x = 28 * index as u32;
        RegionPlace { row: 0, col: index as u32, rect: Rect { x, y: 0, width: 28, height: 28 } }
    }

    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Cow::Borrowed(&self.0[index]))
    }
}

fn captioner(load: LoadOptions) -> WorkerCaptioner<'static> {
    WorkerCaptioner::new(WorkerOptions {
        engine: "mistralrs",
        start: Box::new(command),
        load,
        fingerprint: String::new(),
        timeouts: Timeouts::default(),
        stop: Rc::new(|| false),
    })
}

#[test]
fn regions_get_the_same_captions_whether_they_may_go_together_or_not() {
    let grid = GridSpec { rows: 1, cols: 6, region: 28, overlap: 0, width: 168, height: 28 };
    let context = CaptionContext { prompt: "a harbour", grid };
    let regions = Regions(pictures());
    let caption = |try_together| {
        let load = LoadOptions { try_together, ..load(&fixture("mistralrs/idefics3")) };
        captioner(load).caption(&regions, &context, &mut |_, _| ()).unwrap()
    };
    let (tried, alone) = (caption(true), caption(false));
    assert_eq!(tried.regions, alone.regions);
    assert_eq!(alone.notes, [""; 0]);
    let texts: std::collections::BTreeSet<_> = alone.regions.iter().map(|it| &it.text).collect();
    assert!(texts.len() > 1 && alone.regions.iter().all(|it| it.fallback.is_none()), "{alone:?}");
    // If they do not go together, one line says so.
    assert!(tried.notes.len() <= 1, "{:?}", tried.notes);
    assert!(tried.notes.iter().all(|note| note.contains("one after the other")), "{tried:?}");
}

#[test]
fn weights_are_quantized_while_loading_or_refused_by_name() {
    let folder = fixture("mistralrs/idefics3");
    let quantized = |name: &str| LoadOptions { quantize: Some(name.into()), ..load(&folder) };
    let mut worker = Worker::start();
    let ready = worker.load(quantized("q8_0"));
    assert!(matches!(ready, Reply::Ready { .. }), "{ready:?}");
    assert!(!worker.describe(&pictures()[0], "What is there?").0.is_empty());
    let reason = Worker::start().refusal(quantized("f16"));
    assert!(reason.contains("'f16'") && reason.contains("q8_0"), "{reason}");
}

#[test]
fn what_is_no_folder_or_no_model_is_refused_before_mistral_rs_sees_it() {
    let begin = Instant::now();
    let nowhere = Path::new("no-one/no-model");
    let reason = Worker::start().refusal(load(nowhere));
    assert!(reason.contains("no-one/no-model: no folder"), "{reason}");
    let file = fixture("mistralrs/expected.json");
    assert!(Worker::start().refusal(load(&file)).contains("no folder"));
    let reason = Worker::start().refusal(load(&fixture("mistralrs")));
    assert!(reason.contains("no config.json in it"), "{reason}");
    for file in ["config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"]
    {
        let folder = changed(file, "{\"half\": ");
        let reason = Worker::start().refusal(load(folder.path()));
        assert!(reason.contains(file) && reason.contains("line 1"), "{reason}");
    }
    let folder = changed("config.json", "{\"architectures\": []}");
    let reason = Worker::start().refusal(load(folder.path()));
    assert!(reason.contains("'architectures'"), "{reason}");
    // Nothing of this has waited for a network.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_model_that_mistral_rs_does_not_know_or_cannot_read_is_one_line_for_the_user() {
    let config = r#"{"architectures": ["CloudForConditionalGeneration"]}"#;
    for folder in [changed("config.json", config), changed("model.safetensors", "\x08")] {
        let grid = GridSpec { rows: 1, cols: 6, region: 28, overlap: 0, width: 168, height: 28 };
        let context = CaptionContext { prompt: "", grid };
        let regions = Regions(pictures());
        let mut captioner = captioner(load(folder.path()));
        let error = captioner.caption(&regions, &context, &mut |_, _| ()).unwrap_err().to_string();
        assert!(error.starts_with("captioner mistralrs: ") && !error.contains('\n'), "{error}");
    }
}

/// The fixture of LLaVA-1.5 as such models are published: with the names of transformers 4.
fn published_llava() -> tempfile::TempDir {
    let (from, to) = (fixture("llava/llava15_llama"), tempfile::tempdir().unwrap());
    for file in ["generation_config.json", "preprocessor_config.json", "tokenizer.json"] {
        fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    let mut config: Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config["architectures"] = serde_json::json!(["LlavaForConditionalGeneration"]);
    fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    let template = "USER: {{ 'the picture at the end' }} ASSISTANT:";
    fs::write(to.path().join("chat_template.jinja"), template).unwrap();
    for file in ["chat_template.json", "processor_config.json"] {
        let content = serde_json::json!({ "chat_template": template });
        fs::write(to.path().join(file), content.to_string()).unwrap();
    }
    let tensors = safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let name = name
            .replace("model.language_model.", "language_model.model.")
            .replace("lm_head", "language_model.lm_head")
            .replace("model.vision_tower.", "vision_tower.vision_model.")
            .replace("model.multi_modal_projector", "multi_modal_projector");
        (name, tensor)
    });
    let renamed: std::collections::HashMap<_, _> = renamed.collect();
    safetensors::save(&renamed, to.path().join("model.safetensors")).unwrap();
    to
}

/// What tokens of the LLaVA fixtures say, where bytes that are no text stand for themselves: mistral.rs gives out
/// text as it comes, and knows no sequence of bytes that is wrong as a whole.
fn said(tokens: &[u32], tokenizer: &Value) -> String {
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let texts: std::collections::HashMap<u64, &str> =
        vocabulary.iter().map(|(text, id)| (id.as_u64().unwrap(), text.as_str())).collect();
    let mut bytes = Vec::new();
    for &token in tokens {
        // <image> and <pad> are special, and so is the end.
        let Some(text) = texts.get(&u64::from(token)).filter(|_| token > 2) else { continue };
        match text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>')) {
            Some(byte) => bytes.push(u8::from_str_radix(byte, 16).unwrap()),
            None => bytes.extend(text.replace('▁', " ").bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[test]
fn greedy_texts_of_llava_1_5_equal_transformers() {
    let expected: Value =
        serde_json::from_slice(&fs::read(fixture("llava/expected.json")).unwrap()).unwrap();
    let tokenizer = fs::read(fixture("llava/llava15_llama/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let of = &expected["models"]["llava15_llama"];
    let crops: Vec<[usize; 4]> = serde_json::from_value(expected["crops"].clone()).unwrap();
    let tokens: Vec<Vec<u32>> = serde_json::from_value(of["tokens"].clone()).unwrap();
    let whole = safetensors::load(fixture("llava/picture.safetensors"), &Device::Cpu).unwrap();
    let whole = &whole["picture"];

    let folder = published_llava();
    let max_new_tokens = expected["new_tokens"].as_u64().unwrap() as usize;
    let mut worker = Worker::start();
    let ready = worker.load(LoadOptions { max_new_tokens, ..load(folder.path()) });
    assert!(matches!(ready, Reply::Ready { .. }), "{ready:?}");
    let mut texts = std::collections::BTreeSet::new();
    assert!(tokens.len() == crops.len() && crops.len() > 50);
    for ([x, y, width, height], tokens) in crops.into_iter().zip(tokens) {
        let part = whole.narrow(0, y, height).unwrap().narrow(1, x, width).unwrap();
        let rgb = part.contiguous().unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let pixels = Pixels::new(width, height, rgb).unwrap();
        let (text, ended) = worker.describe(&pixels, expected["instruction"].as_str().unwrap());
        assert_eq!(text.trim(), said(&tokens, &tokenizer), "{x} {y} {width} {height}");
        assert_eq!(ended, tokens.last() == Some(&2));
        texts.insert(text);
    }
    assert!(texts.len() > 25, "{}", texts.len());
}

#[test]
fn a_llava_that_cannot_be_helped_is_refused_with_the_reason_and_what_to_do() {
    let next = "{\"architectures\": [\"LlavaNextForConditionalGeneration\"]}";
    let folder = changed("config.json", next);
    let reason = Worker::start().refusal(load(folder.path()));
    assert!(reason.starts_with("LlavaNextForConditionalGeneration: "), "{reason}");
    assert!(reason.contains("--caption-engine builtin"), "{reason}");

    let folder = published_llava();
    let path = folder.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    for (field, from, to) in [
        ("vision_feature_layer", "-2", "1"),
        ("vision_feature_select_strategy", "\"default\"", "\"full\""),
    ] {
        let with = |value| format!("\"{field}\":{value}");
        assert!(config.contains(&with(from)), "{config}");
        fs::write(&path, config.replace(&with(from), &with(to))).unwrap();
        let refusal = Worker::start().refusal(load(folder.path()));
        assert!(refusal.contains(field), "{refusal}");
        assert!(refusal.contains("--caption-engine builtin"), "{refusal}");
    }
}

#[test]
fn the_end_of_its_input_ends_the_worker() {
    let mut child = command().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
