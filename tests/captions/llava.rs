//! The captioner on a small random LLaVA: what it says is gibberish, and how it goes about it is not.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use cupscale::caption::cache::CaptionCache;
use cupscale::caption::document::{Author, Document};
use cupscale::caption::llava::{LlavaModel, LlavaOptions};
use cupscale::caption::vision::VisionSession;
use cupscale::caption::{
    CaptionContext, CaptionError, CaptionSession, Captions, GridSpec, Pixels, Rect, RegionPlace,
    RegionSource,
};
use cupscale::model::llava::{GenerateOptions, Llava, LlavaPicture, Row, TokenSampling};
use cupscale::weights::LlavaFiles;

const NEW_TOKENS: usize = 12;
const GRID: GridSpec =
    GridSpec { rows: 2, cols: 5, region: 64, overlap: 0, width: 320, height: 128 };

fn model() -> Llava {
    let folder = crate::common::fixture("llava/llava15_llama");
    LlavaFiles::open(folder).unwrap().load(&Device::Cpu, DType::F32).unwrap()
}

fn options(rows: usize) -> LlavaOptions {
    let generate = GenerateOptions { max_new_tokens: NEW_TOKENS, ..GenerateOptions::default() };
    LlavaOptions { generate, rows }
}

/// The model, and how often it was asked for.
fn counted() -> (LlavaModel, Arc<AtomicUsize>) {
    let (model, asked) = (Arc::new(model()), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let load = move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::clone(&model))
    };
    let model = LlavaModel { fingerprint: "tiny".to_owned(), loads: vec![Arc::new(load)] };
    (model, asked)
}

fn with_cache(rows: usize, cache: &CaptionCache) -> (VisionSession<'_>, Arc<AtomicUsize>) {
    let (model, asked) = counted();
    let fits = Box::new(|text: &str| text.len() <= 24);
    (model.session(options(rows), cache, fits, Rc::new(|| false)), asked)
}

/// Ten regions: the second cannot be shown, the third is of another size.
struct Regions;

impl RegionSource for Regions {
    fn len(&self) -> usize {
        10
    }

    fn place(&self, index: usize) -> RegionPlace {
        let (row, col) = (index as u32 / 5, index as u32 % 5);
        RegionPlace { row, col, rect: Rect { x: col * 64, y: row * 64, width: 64, height: 64 } }
    }

    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        if index == 1 {
            return Err("it is torn".into());
        }
        Ok(Cow::Owned(paint(index, if index == 2 { 40 } else { 64 })))
    }
}

fn paint(seed: usize, side: usize) -> Pixels {
    let colour = |x: usize, y: usize| [x * (seed + 1), y * 3 + seed * 17, (x + y) * (seed % 3)];
    let rgb = (0..side * side)
        .flat_map(|at| colour(at % side, at / side).map(|value| (value % 256) as u8))
        .collect();
    Pixels::new(side, side, rgb).unwrap()
}

fn context(prompt: &str) -> CaptionContext<'_> {
    CaptionContext { prompt, grid: GRID }
}

#[test]
fn every_region_gets_what_the_model_says_of_it_alone_or_else_the_prompt() {
    let cache = CaptionCache::new(None);
    let (mut captioner, _) = with_cache(64, &cache);
    let mut reports = Vec::new();
    let captions = captioner
        .caption(&Regions, &context(" an old harbour "), &mut |done, total| {
            reports.push((done, total));
        })
        .unwrap();
    assert_eq!(captions.regions.len(), 10);
    assert_eq!(captions.regions[1].text, "an old harbour");
    assert_eq!(captions.regions[1].fallback.as_deref(), Some("it is torn"));
    assert!(reports.is_sorted() && reports.last() == Some(&(10, 10)), "{reports:?}");

    let instruction = captioner.instruction().unwrap().to_owned();
    assert!(instruction.contains("\"an old harbour\""), "{instruction}");
    let model = model();
    let prompt = model.prompt(&instruction).unwrap();
    let mut texts = Vec::new();
    for index in (0..10).filter(|&index| index != 1) {
        let pixels = Regions.pixels(index).unwrap();
        let picture = LlavaPicture::new(pixels.width(), pixels.height(), pixels.rgb()).unwrap();
        let rows = [Row { picture, number: index as u64 }];
        let tokens = model
            .generate(&prompt, &rows, &options(1).generate, &mut |_| ControlFlow::Continue(()))
            .unwrap()
            .remove(0);
        let said = model.decode(&tokens).unwrap();
        let is_gap = |sign: char| sign.is_whitespace() || sign.is_control() || sign == '\u{fffd}';
        let words: Vec<_> = said.split(is_gap).filter(|word| !word.is_empty()).collect();
        let said = words.join(" ");
        let caption = &captions.regions[index];
        match &caption.fallback {
            None => assert!(!caption.text.is_empty() && caption.text.len() <= 24),
            Some(reason) => assert!(reason == "the model said nothing", "{reason}"),
        }
        if caption.fallback.is_none() {
            assert!(said.contains(&caption.text), "region {index}: {said:?}, {:?}", caption.text);
            texts.push(caption.text.clone());
        }
    }
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 1, "{texts:?}");

    let author =
        Author { name: "llava", model: Some("tiny"), instruction: captioner.instruction() };
    let document = Document::new(&author, &context("an old harbour"), &captions).unwrap();
    let json = serde_json::to_value(&document).unwrap();
    assert_eq!((&json["captioner"], &json["model"]), (&"llava".into(), &"tiny".into()));
    assert_eq!(json["instruction"], instruction.as_str());
}

fn captions(captioner: &mut VisionSession<'_>, prompt: &str) -> Captions {
    captioner.caption(&Regions, &context(prompt), &mut |_, _| ()).unwrap()
}

#[test]
fn captions_do_not_depend_on_how_many_regions_go_together() {
    let run = |rows| captions(&mut with_cache(rows, &CaptionCache::new(None)).0, "a harbour");
    let together = run(64);
    for rows in [1, 3] {
        assert_eq!(run(rows), together, "{rows} together");
    }
}

#[test]
fn what_was_said_once_is_not_asked_again_and_any_other_question_is() {
    let folder = tempfile::tempdir().unwrap();
    let cache = || CaptionCache::new(Some(folder.path().to_owned()));
    let first = cache();
    let (mut captioner, asked) = with_cache(64, &first);
    let said = captions(&mut captioner, "a harbour");
    // Two sizes of regions.
    assert_eq!(asked.load(Ordering::Relaxed), 2);

    let again = cache();
    let (mut captioner, asked) = with_cache(3, &again);
    assert_eq!(captions(&mut captioner, "a harbour"), said);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    captions(&mut captioner, "a beach");
    assert_ne!(asked.load(Ordering::Relaxed), 0);

    // Cut to other encoders: what was said is kept whole.
    let (model, asked) = counted();
    let short = Box::new(|text: &str| text.len() <= 8);
    let stop = Rc::new(|| false);
    let mut captioner = model.session(options(64), &again, short, stop);
    assert_ne!(captions(&mut captioner, "a harbour"), said);
    assert_eq!(asked.load(Ordering::Relaxed), 0);

    for change in [
        GenerateOptions { max_new_tokens: 7, ..options(64).generate },
        GenerateOptions {
            sampling: Some(TokenSampling { temperature: 1.0, top_p: 0.9, seed: 1 }),
            ..options(64).generate
        },
    ] {
        let (model, asked) = counted();
        let fits = Box::new(|text: &str| text.len() <= 24);
        let options = LlavaOptions { generate: change, rows: 64 };
        let stop = Rc::new(|| false);
        let mut captioner = model.session(options, &again, fits, stop);
        captions(&mut captioner, "a harbour");
        assert_eq!(asked.load(Ordering::Relaxed), 2, "{change:?}");
    }
    let (model, asked) = counted();
    let other = LlavaModel { fingerprint: "another".to_owned(), ..model };
    let fits = Box::new(|text: &str| text.len() <= 24);
    let stop = Rc::new(|| false);
    let mut captioner = other.session(options(64), &again, fits, stop);
    captions(&mut captioner, "a harbour");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_whole_picture_is_described_once_and_without_any_context() {
    let cache = CaptionCache::new(None);
    let (mut captioner, asked) = with_cache(64, &cache);
    // What the model says of a picture may be nothing; of one of these it says something.
    let (seed, said) =
        (0..10).find_map(|seed| Some((seed, captioner.describe(&paint(seed, 90)).ok()??))).unwrap();
    assert!(!said.is_empty() && said.len() <= 24, "{said:?}");
    assert!(!captioner.instruction().unwrap().contains("larger picture"));
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(captioner.describe(&paint(seed, 90)).unwrap(), Some(said));
    assert_eq!(asked.load(Ordering::Relaxed), before);
}

#[test]
fn a_stop_is_heeded_at_once_whatever_the_model_is_doing() {
    let slow = || {
        std::thread::sleep(Duration::from_secs(20));
        Ok(Arc::new(model()))
    };
    let model = LlavaModel { fingerprint: "slow".to_owned(), loads: vec![Arc::new(slow)] };
    let started = Instant::now();
    let waits = Cell::new(0);
    // Once for each region, and then while the model is being loaded.
    let stop = || {
        waits.set(waits.get() + 1);
        waits.get() > 14
    };
    let cache = CaptionCache::new(None);
    let mut captioner = model.session(options(64), &cache, Box::new(|_| true), Rc::new(stop));
    let error = captioner.caption(&Regions, &context(""), &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, CaptionError::Interrupted), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(waits.get(), 15);
}

#[test]
fn a_job_of_which_no_region_can_be_captioned_is_an_error_that_says_why() {
    // Longer than all positions of the model.
    let prompt = "a very long prompt ".repeat(60);
    let cache = CaptionCache::new(None);
    let (mut captioner, _) = with_cache(64, &cache);
    let error = captioner.caption(&Regions, &context(&prompt), &mut |_, _| ()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("captioner llava") && !message.contains('\n'), "{message}");
}
