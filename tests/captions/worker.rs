//! The captioner whose engine is a process of its own, against processes that do what an engine should not:
//! die, hang, talk nonsense. The process is this test program once more, see [`scripted_worker`].

use std::borrow::Cow;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::rc::Rc;
use std::time::{Duration, Instant};

use cupscale::caption::cache::{Cached, CaptionCache};
use cupscale::caption::vision::VisionSession;
use cupscale::caption::wording::Stop;
use cupscale::caption::worker::protocol::{LoadOptions, Reply, Request, read_request, write_reply};
use cupscale::caption::worker::{Timeouts, WorkerModel, WorkerOptions};
use cupscale::caption::{
    CaptionContext, CaptionError, CaptionSession, Captions, GridSpec, Pixels, Rect, RegionPlace,
    RegionSource,
};

use crate::common::only;

/// Names the script that a worker follows.
const SCRIPT: &str = "CUPSCALE_TEST_SCRIPT";
/// Names the file that a worker tells what it was asked.
const DIARY: &str = "CUPSCALE_TEST_DIARY";

const REGIONS: usize = 6;

/// No test but the worker of all others, which start this program with only this "test" in it. A script is
/// what it does, and behind a colon the region at which it does it.
#[test]
fn scripted_worker() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    let (script, place) = script.split_once(':').unwrap_or((&script, ""));
    let mut diary =
        fs::OpenOptions::new().append(true).open(std::env::var(DIARY).unwrap()).unwrap();
    let mut input = std::io::stdin().lock();
    let mut waiting = Vec::new();
    while let Some((request, pixels)) = read_request(&mut input).unwrap() {
        let mut output = std::io::stdout();
        let say = |reply| write_reply(&mut std::io::stdout(), &reply).unwrap();
        match request {
            Request::Load(load) => {
                let together = load.try_together;
                writeln!(diary, "load {} {together}", std::process::id()).unwrap();
                match script {
                    "refuse" => say(Reply::Refused("no such model".into())),
                    "die-loading" => die("its model is corrupt"),
                    "die-trying" if together => {
                        say(Reply::TryingTogether);
                        die("rank 2");
                    }
                    "refuse-trying" if together => {
                        say(Reply::TryingTogether);
                        say(Reply::Refused("rank 2".into()));
                    }
                    _ => {
                        let together = together && script.starts_with("together");
                        let note = script.contains("note").then(|| "as told".to_owned());
                        say(Reply::Ready { together, note });
                    }
                }
            }
            Request::Describe { id, instruction, width, height } => {
                assert_eq!(pixels.len(), width * height * 3);
                writeln!(diary, "{id} {instruction}").unwrap();
                let is_here = place == id.to_string();
                let text = |id: u64| format!("a wall of {id} and {}", pixels[0]);
                let text = Reply::Text { id, text: text(id), ended: true };
                match script {
                    "die-always" => die("its memory is full"),
                    "die" | "together-die" if is_here => die("its memory is full"),
                    "hang" if is_here => std::thread::sleep(Duration::from_secs(60)),
                    "garble" if is_here => output.write_all(b"\n@cupscale {\"text\":5}\n").unwrap(),
                    "stray" if is_here => say(Reply::Failed { id: 77, reason: "?".into() }),
                    "fail" if is_here => say(Reply::Failed { id, reason: "it is torn".into() }),
                    "print" => {
                        output.write_all(b"warming up... 50 %").unwrap();
                        say(text);
                    }
                    "together" => {
                        // No answer before all regions are here; then the last one first.
                        waiting.push(text);
                        if waiting.len() == REGIONS {
                            waiting.drain(..).rev().for_each(say);
                        }
                    }
                    _ => say(text),
                }
            }
        }
    }
}

fn die(reason: &str) -> ! {
    eprintln!("engine: a warning\nengine: {reason}\n");
    exit(7)
}

/// Regions of different brightness: region `i` has the value 10·i everywhere.
struct Regions(usize);

impl RegionSource for Regions {
    fn len(&self) -> usize {
        self.0
    }

    fn place(&self, index: usize) -> RegionPlace {
        let x = 8 * index as u32;
        RegionPlace { row: 0, col: index as u32, rect: Rect { x, y: 0, width: 8, height: 8 } }
    }

    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        // More than a pipe holds.
        let side = 300 + index;
        Ok(Cow::Owned(Pixels::new(side, side, vec![10 * index as u8; side * side * 3])?))
    }
}

struct Scene {
    folder: tempfile::TempDir,
    captioner: VisionSession<'static>,
}

/// A session with a worker, its cache before it.
fn session(options: WorkerOptions<'static>, cache: CaptionCache) -> VisionSession<'static> {
    let (stop, cache) = (options.stop.clone(), Box::leak(Box::new(cache)));
    let model = Cached::new(WorkerModel::new(options), cache, stop);
    VisionSession::new("scripted", Box::new(model), Box::new(|_| true))
}

impl Scene {
    fn new(script: &str) -> Self {
        Self::with(script, Duration::from_secs(60), || false)
    }

    fn with(script: &str, timeout: Duration, stop: impl Fn() -> bool + 'static) -> Self {
        Self::knowing(CaptionCache::new(None), "tiny", script, timeout, stop)
    }

    fn knowing(
        cache: CaptionCache,
        fingerprint: &str,
        script: &str,
        timeout: Duration,
        stop: impl Fn() -> bool + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let diary = folder.path().join("diary");
        fs::write(&diary, "").unwrap();
        let script = script.to_owned();
        let stop: Stop<'static> = Rc::new(stop);
        let options = WorkerOptions {
            engine: "scripted",
            start: Box::new(move || worker(&script, &diary)),
            load: LoadOptions {
                folder: "models/tiny".into(),
                quantize: None,
                cpu: true,
                max_new_tokens: 8,
                try_together: true,
            },
            fingerprint: fingerprint.into(),
            timeouts: Timeouts { load: Duration::from_secs(60), caption: timeout },
            stop: stop.clone(),
        };
        Self { folder, captioner: session(options, cache) }
    }

    fn caption(&mut self) -> Result<Captions, CaptionError> {
        let grid = GridSpec { rows: 1, cols: 6, region: 8, overlap: 0, width: 48, height: 8 };
        let context = CaptionContext { prompt: "a harbour", grid };
        let mut reports = Vec::new();
        let result = self.captioner.caption(&Regions(REGIONS), &context, &mut |done, total| {
            reports.push(done);
            assert_eq!(total, REGIONS);
        });
        assert!(reports.is_sorted());
        assert!(result.is_err() || reports.last() == Some(&REGIONS), "{reports:?}");
        result
    }

    /// What the workers were asked, line by line.
    fn diary(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("diary")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Of each worker that was started, whether two pictures were to be tried together.
    fn starts(&self) -> Vec<bool> {
        self.diary()
            .iter()
            .filter(|line| line.starts_with("load"))
            .map(|line| line.ends_with("true"))
            .collect()
    }
}

fn worker(script: &str, diary: &Path) -> Command {
    let mut command = only(module_path!(), "scripted_worker");
    command.env(SCRIPT, script).env(DIARY, diary);
    command
}

/// Every region has its own caption, but for those in `fallen`, which have the prompt for that reason.
fn assert_captions(captions: &Captions, fallen: &[(usize, &str)]) {
    assert_eq!(captions.regions.len(), REGIONS);
    for (index, caption) in captions.regions.iter().enumerate() {
        assert_eq!(caption.place.col as usize, index);
        match fallen.iter().find(|(fallen, _)| *fallen == index) {
            None => {
                assert_eq!(caption.fallback, None, "region {index}");
                assert_eq!(caption.text, format!("a wall of {index} and {}", 10 * index));
            }
            Some((_, reason)) => {
                assert_eq!(caption.text, "a harbour");
                let given = caption.fallback.as_deref().unwrap();
                assert!(given.contains(reason) && !given.contains('\n'), "{given}");
            }
        }
    }
}

#[test]
fn every_region_gets_what_the_worker_says_of_it() {
    let mut scene = Scene::new("honest");
    let captions = scene.caption().unwrap();
    assert_captions(&captions, &[]);
    assert_eq!(captions.notes, [""; 0]);
    assert_eq!(scene.starts(), [true]);
    assert!(scene.diary()[1].starts_with("0 Describe in detail"), "{:?}", scene.diary());
    assert!(scene.diary()[1].contains("\"a harbour\""));
}

#[test]
fn regions_go_together_where_the_worker_says_so_and_come_back_in_any_order() {
    assert_captions(&Scene::new("together").caption().unwrap(), &[]);
}

#[test]
fn what_the_worker_notes_is_noted_once() {
    assert_eq!(Scene::new("note").caption().unwrap().notes, ["as told"]);
}

#[test]
fn what_a_library_prints_on_standard_output_does_no_harm() {
    assert_captions(&Scene::new("print").caption().unwrap(), &[]);
}

#[test]
fn a_death_costs_one_caption_and_its_reason_is_told() {
    let mut scene = Scene::new("die:3");
    assert_captions(&scene.caption().unwrap(), &[(3, "its memory is full")]);
    // The second worker need not find out again what the first has found out.
    assert_eq!(scene.starts(), [true, false]);
}

#[test]
fn a_death_among_several_regions_costs_only_the_one_that_dies_alone() {
    let mut scene = Scene::new("together-die:3");
    let captions = scene.caption().unwrap();
    assert_captions(&captions, &[(3, "its memory is full")]);
    assert_eq!(captions.notes.len(), 1, "{:?}", captions.notes);
    assert!(captions.notes[0].contains("one after the other"), "{:?}", captions.notes);
    assert_eq!(scene.starts(), [true, false, false]);
}

#[test]
fn a_worker_that_hangs_or_talks_nonsense_is_replaced() {
    for (script, reason) in
        [("hang:2", "no answer for"), ("garble:2", "nonsense"), ("stray:2", "region 77")]
    {
        let mut scene = Scene::with(script, Duration::from_secs(2), || false);
        assert_captions(&scene.caption().unwrap(), &[(2, reason)]);
        assert_eq!(scene.starts().len(), 2, "{script}");
    }
}

#[test]
fn a_region_that_fails_in_good_order_costs_no_worker() {
    let mut scene = Scene::new("fail:0");
    assert_captions(&scene.caption().unwrap(), &[(0, "it is torn")]);
    assert_eq!(scene.starts().len(), 1);
}

#[test]
fn a_worker_that_fails_with_two_pictures_at_once_gets_them_one_after_the_other() {
    for script in ["die-trying", "refuse-trying"] {
        let mut scene = Scene::new(script);
        let captions = scene.caption().unwrap();
        assert_captions(&captions, &[]);
        assert_eq!(captions.notes.len(), 1, "{:?}", captions.notes);
        assert!(captions.notes[0].contains("one after the other"), "{:?}", captions.notes);
        assert!(captions.notes[0].contains("rank 2"), "{:?}", captions.notes);
        assert_eq!(scene.starts(), [true, false], "{script}");
    }
}

#[test]
fn workers_that_only_die_are_given_up_with_one_line() {
    let mut scene = Scene::new("die-always");
    let error = scene.caption().unwrap_err().to_string();
    assert!(error.starts_with("captioner scripted: ") && !error.contains('\n'), "{error}");
    assert!(error.contains("its memory is full"), "{error}");
    assert_eq!(scene.starts().len(), 3);
}

#[test]
fn a_model_that_cannot_be_loaded_is_one_line_and_no_second_try() {
    for (script, reason) in [("refuse", "no such model"), ("die-loading", "its model is corrupt")] {
        let mut scene = Scene::new(script);
        let error = scene.caption().unwrap_err().to_string();
        assert!(error.starts_with("captioner scripted: ") && !error.contains('\n'), "{error}");
        assert!(error.contains(reason), "{error}");
        assert_eq!(scene.starts().len(), 1, "{script}");
    }
}

#[test]
fn a_program_that_is_not_there_is_one_line() {
    let mut scene = Scene::new("honest");
    let options = WorkerOptions {
        engine: "scripted",
        start: Box::new(|| Command::new(PathBuf::from("no/such/program"))),
        load: LoadOptions {
            folder: String::new(),
            quantize: None,
            cpu: true,
            max_new_tokens: 8,
            try_together: true,
        },
        fingerprint: "tiny".into(),
        timeouts: Timeouts::default(),
        stop: Rc::new(|| false),
    };
    scene.captioner = session(options, CaptionCache::new(None));
    let error = scene.caption().unwrap_err().to_string();
    assert!(error.contains("the worker does not start") && !error.contains('\n'), "{error}");
}

#[test]
fn what_the_same_model_said_before_is_not_asked_again() {
    let kept = tempfile::tempdir().unwrap();
    let knowing = |fingerprint: &str, script: &str| {
        let cache = CaptionCache::new(Some(kept.path().to_owned()));
        Scene::knowing(cache, fingerprint, script, Duration::from_secs(60), || false)
    };
    // One region is not known afterwards.
    let mut scene = knowing("tiny", "fail:3");
    assert_captions(&scene.caption().unwrap(), &[(3, "it is torn")]);
    let mut scene = knowing("tiny", "honest");
    assert_captions(&scene.caption().unwrap(), &[]);
    let asked = scene.diary().into_iter().filter(|line| !line.starts_with("load"));
    assert_eq!(asked.count(), 1);
    let mut scene = knowing("tiny", "refuse");
    assert_captions(&scene.caption().unwrap(), &[]);
    assert!(scene.starts().is_empty());
    assert!(knowing("another", "refuse").caption().is_err());
}

#[test]
fn a_whole_picture_is_described_and_its_worker_goes_on_with_the_regions() {
    let mut scene = Scene::new("honest");
    let pixels = Pixels::new(2, 1, vec![90; 6]).unwrap();
    let text = scene.captioner.describe(&pixels).unwrap();
    assert_eq!(text, Some(format!("a wall of {} and 90", u64::MAX)));
    assert_captions(&scene.caption().unwrap(), &[]);
    assert_eq!(scene.starts().len(), 1);
    assert!(!scene.diary()[1].contains("larger picture"), "{:?}", scene.diary());
}

#[cfg(unix)]
mod processes {
    use super::*;

    fn is_alive(scene: &Scene) -> bool {
        let diary = scene.diary();
        let pid = diary[0].split(' ').nth(1).unwrap();
        Command::new("kill").args(["-0", pid]).output().unwrap().status.success()
    }

    #[test]
    fn the_worker_has_ended_when_the_captions_are_there() {
        let mut scene = Scene::new("honest");
        let pixels = Pixels::new(2, 1, vec![90; 6]).unwrap();
        scene.captioner.describe(&pixels).unwrap();
        assert!(is_alive(&scene));
        scene.caption().unwrap();
        assert!(!is_alive(&scene));
    }

    #[test]
    fn a_stop_ends_the_worker_within_a_second_whatever_it_does() {
        let begin = Instant::now();
        let asked = std::cell::Cell::new(None);
        let stop = move || {
            let is_over = begin.elapsed() > Duration::from_secs(2);
            if is_over && asked.get().is_none() {
                asked.set(Some(Instant::now()));
            }
            is_over
        };
        let mut scene = Scene::with("hang:0", Duration::from_secs(60), stop);
        let error = scene.caption().unwrap_err();
        assert!(matches!(error, CaptionError::Interrupted), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        assert!(!is_alive(&scene));
    }
}
