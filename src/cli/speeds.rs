//! Speeds of earlier jobs: how long each stage took by its work, for each model on each device, so that the next job can
//! be told how long it will take. One small file in the cache; without it nothing is lost but that.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use cupscale::{
    caption::cache::CaptionCache,
    pipeline::{Engine, Outline, Settings, Stage},
};
use serde::{Deserialize, Serialize};

use super::progress::{Expected, Timeline};

const VERSION: u32 = 1;
const NAME: &str = "speeds.json";
/// Bytes of the file that are read at most.
const LARGEST: u64 = 1 << 20;
/// Models on devices that are remembered; the one that has not run for longest goes first.
const ENTRIES: usize = 64;
/// What a job counts for when the next one is done.
const DECAY: f64 = 0.8;

/// What the speed of a job depends on.
#[derive(Clone, Debug)]
pub struct SpeedKey {
    /// Model, device, precision and threads.
    machine: String,
    captioner: String,
}

impl SpeedKey {
    /// That of jobs with this model and captioner.
    pub fn new(engine: &Engine, settings: &Settings) -> Self {
        let devices = engine.devices().len();
        let threads = rayon::current_num_threads();
        Self {
            machine: format!(
                "{} on {} × {devices}, {threads} threads",
                engine.name(),
                engine.computes_on()
            ),
            captioner: settings.captioner.name().to_owned(),
        }
    }
}

/// Decaying sums over jobs for a line through work and seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Fit {
    n: f64,
    work: f64,
    seconds: f64,
    work_work: f64,
    work_seconds: f64,
}

impl Fit {
    fn add(&mut self, work: f64, seconds: f64) {
        for (sum, new) in [
            (&mut self.n, 1.0),
            (&mut self.work, work),
            (&mut self.seconds, seconds),
            (&mut self.work_work, work * work),
            (&mut self.work_seconds, work * seconds),
        ] {
            *sum = *sum * DECAY + new;
        }
    }

    /// Seconds that so much work is expected to take: some that every job takes (weights that are loaded), and some for
    /// each piece.
    fn seconds(&self, work: f64) -> Option<f64> {
        let Self { n, work: w, seconds: s, work_work: ww, work_seconds: ws } = *self;
        let spread = n * ww - w * w;
        let slope = if spread > 1e-3 * n * ww { (n * ws - w * s) / spread } else { 0.0 };
        let start = (s - slope * w) / n;
        let expected =
            if slope > 0.0 && start >= 0.0 { start + slope * work } else { s / w * work };
        (n > 0.0 && expected.is_finite() && expected >= 0.0).then_some(expected)
    }
}

/// What is known of a model on a machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entry {
    jobs: u32,
    /// Seconds since 1970 of the last job.
    used: u64,
    preparation: Fit,
    #[serde(default)]
    enlarge: Fit,
    encode: Fit,
    denoise: Fit,
    decode: Fit,
    /// By the captioner's name.
    captions: BTreeMap<String, Fit>,
}

impl Entry {
    fn of_stage(&self, stage: Stage, captioner: &str) -> Option<&Fit> {
        match stage {
            Stage::Caption => self.captions.get(captioner),
            Stage::Enlarge => Some(&self.enlarge),
            Stage::Encode => Some(&self.encode),
            Stage::Denoise => Some(&self.denoise),
            Stage::Decode => Some(&self.decode),
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    version: u32,
    entries: BTreeMap<String, Entry>,
}

/// What earlier jobs say of the next one.
#[derive(Clone, Copy, Debug)]
pub struct Earlier {
    /// How many there were.
    pub jobs: u32,
    /// Seconds of each stage.
    pub stages: Expected,
    /// Seconds before the first stage.
    pub preparation: f64,
}

/// The file, where the platform has a cache.
fn path() -> Option<PathBuf> {
    Some(CaptionCache::default_folder()?.parent()?.join(NAME))
}

/// What earlier jobs of this kind say of one with this outline; `None` if there were none.
pub fn expect(key: &SpeedKey, outline: &Outline) -> Option<Earlier> {
    expect_from(&read(&path()?), key, outline)
}

fn expect_from(known: &Remembered, key: &SpeedKey, outline: &Outline) -> Option<Earlier> {
    let entry = known.entries.get(&key.machine)?;
    let seconds = |(stage, work): (Stage, f64)| match stage {
        // What earlier jobs had none of is nothing to wait for in one that has none either.
        Stage::Enlarge if work == 0.0 => Some(0.0),
        stage => entry.of_stage(stage, &key.captioner)?.seconds(work),
    };
    let preparation = entry.preparation.seconds(1.0).unwrap_or(0.0);
    Some(Earlier { jobs: entry.jobs, stages: outline.work.map(seconds), preparation })
}

/// Remembers a job that has ended well. No job fails because of it.
pub fn remember(key: &SpeedKey, timeline: &Timeline) {
    let Some(path) = path() else { return };
    let mut known = read(&path);
    add(&mut known, key, timeline);
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(serde_json::to_string(&known)?.as_bytes())?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    let _ = write();
}

fn add(known: &mut Remembered, key: &SpeedKey, timeline: &Timeline) {
    known.version = VERSION;
    let entry = known.entries.entry(key.machine.clone()).or_default();
    for (stage, work, seconds) in timeline.measured() {
        let fit = match stage {
            Stage::Caption => entry.captions.entry(key.captioner.clone()).or_default(),
            Stage::Enlarge => &mut entry.enlarge,
            Stage::Encode => &mut entry.encode,
            Stage::Denoise => &mut entry.denoise,
            Stage::Decode => &mut entry.decode,
        };
        fit.add(work, seconds);
    }
    if let Some(seconds) = timeline.preparation() {
        entry.preparation.add(1.0, seconds);
    }
    entry.jobs = entry.jobs.saturating_add(1);
    entry.used = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    while known.entries.len() > ENTRIES
        && let Some(oldest) =
            known.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
    {
        known.entries.remove(&oldest);
    }
}

/// What the file says; nothing if it is not there, damaged, or of another version.
fn read(path: &Path) -> Remembered {
    let text = || {
        let mut text = String::new();
        File::open(path).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
        serde_json::from_str::<Remembered>(&text).ok()
    };
    text().filter(|known| known.version == VERSION).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(jobs: &[(f64, f64)]) -> Fit {
        let mut fit = Fit::default();
        jobs.iter().for_each(|&(work, seconds)| fit.add(work, seconds));
        fit
    }

    #[test]
    fn jobs_of_several_sizes_tell_what_each_takes_besides_its_work() {
        // 2 s to load the weights, and 1 s for each 100.
        let line = fit(&[(100.0, 3.0), (1000.0, 12.0), (500.0, 7.0)]);
        assert!((line.seconds(2000.0).unwrap() - 22.0).abs() < 1e-6);
        // Of one size, or by accident the other way round: in proportion.
        assert!((fit(&[(100.0, 3.0), (100.0, 3.0)]).seconds(200.0).unwrap() - 6.0).abs() < 1e-6);
        let strange = fit(&[(100.0, 9.0), (1000.0, 3.0)]).seconds(500.0).unwrap();
        assert!(strange > 0.0 && strange.is_finite(), "{strange}");
        assert_eq!(Fit::default().seconds(5.0), None);
    }

    #[test]
    fn the_last_jobs_count_most() {
        let faster = fit(&[(100.0, 10.0), (100.0, 10.0), (100.0, 5.0), (100.0, 5.0), (100.0, 5.0)]);
        let seconds = faster.seconds(100.0).unwrap();
        assert!(seconds < 7.0, "{seconds}");
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_version_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert!(read(&path).entries.is_empty());
        let entry = r#"{"jobs":3,"used":1,"preparation":{"n":1,"work":1,"seconds":1,"work_work":1,"work_seconds":1},
            "encode":{"n":0,"work":0,"seconds":0,"work_work":0,"work_seconds":0},
            "denoise":{"n":0,"work":0,"seconds":0,"work_work":0,"work_seconds":0},
            "decode":{"n":0,"work":0,"seconds":0,"work_work":0,"work_seconds":0},"captions":{}}"#;
        for (version, entries) in [(1, 1), (2, 0)] {
            fs::write(&path, format!(r#"{{"version":{version},"entries":{{"a":{entry}}}}}"#))
                .unwrap();
            assert_eq!(read(&path).entries.len(), entries);
        }
        fs::write(&path, b"{\"version\":1").unwrap();
        assert!(read(&path).entries.is_empty());
    }
}
