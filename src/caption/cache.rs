//! Captions of earlier jobs, so that another seed or strength does not ask a large model again: by what
//! was shown and asked, never by where it came from. [`Cached`] puts them before any [`VisionModel`].
//!
//! One small file for each caption, in one folder. A file is written whole or not at all; one that
//! cannot be read counts as missing, one that cannot be written is passed over: no job fails for the cache.
//! There are never many more than [`ENTRIES`] of them, and the ones that were not used for longest go
//! first. What this process has asked is remembered besides, so that it need not ask twice where no folder is.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};

use super::CaptionError;
use super::key::{CacheKey, GeneratedText, KeyPrefix};
use super::vision::{Question, VisionEvent, VisionModel};
use super::wording::Stop;

/// Files in the folder: those of some three hundred pictures, in some 64 MB of a disk.
pub const ENTRIES: usize = 16_384;

/// Captions that a process remembers itself.
const REMEMBERED: usize = 1 << 16;

/// Upper limit of a cached caption in bytes.
const LONGEST: u64 = 1 << 16;

/// A file that was used is marked so if that was not done within this time.
const MARKED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Content of a cache file.
#[derive(Serialize, Deserialize)]
struct CacheEntry {
    /// the file's own name: a file that was renamed, or mixed up by a disk, is none
    key: String,
    #[serde(flatten)]
    generated: GeneratedText,
}

/// The captions that are known.
#[derive(Debug, Default)]
pub struct CaptionCache {
    folder: Option<PathBuf>,
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    captions: HashMap<CacheKey, GeneratedText>,
    /// oldest first
    order: VecDeque<CacheKey>,
}

impl CaptionCache {
    /// Captions in `folder`, which need not exist; without one, those of this process alone.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, remembered: Mutex::default() }
    }

    /// The platform's place for such files, if it has one.
    #[must_use]
    pub fn default_folder() -> Option<PathBuf> {
        let strategy = etcetera::base_strategy::choose_native_strategy().ok()?;
        Some(strategy.cache_dir().join("cupscale").join("captions"))
    }

    /// The cached answer to this question; `None` on a miss.
    pub fn get(&self, key: &CacheKey) -> Option<GeneratedText> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(generated) = remembered.captions.get(key) {
            return Some(generated.clone());
        }
        let generated = read(&self.folder.as_ref()?.join(&key.0), key)?;
        remembered.add(key, &generated);
        Some(generated)
    }

    /// Stores the answer to this question.
    pub fn put(&self, key: &CacheKey, generated: &GeneratedText) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).add(key, generated);
        let Some(folder) = &self.folder else { return };
        let entry = CacheEntry { key: key.0.clone(), generated: generated.clone() };
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(serde_json::to_string(&entry)?.as_bytes())?;
            file.persist(folder.join(&key.0)).map_err(|error| error.error)?;
            Ok(())
        };
        // It is asked again next time.
        let _ = write();
    }

    /// Removes what has not been used for longest if there is too much.
    pub fn prune(&self) {
        if let Some(folder) = &self.folder {
            prune(folder, ENTRIES);
        }
    }
}

impl Remembered {
    fn add(&mut self, key: &CacheKey, generated: &GeneratedText) {
        if self.captions.insert(key.clone(), generated.clone()).is_some() {
            return;
        }
        self.order.push_back(key.clone());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.captions.remove(&oldest);
        }
    }
}

/// A vision model that is asked only what the cache does not know.
pub struct Cached<'a, M> {
    model: M,
    cache: &'a CaptionCache,
    stop: Stop<'a>,
}

impl<'a, M: VisionModel> Cached<'a, M> {
    /// `model` behind `cache`.
    #[must_use]
    pub fn new(model: M, cache: &'a CaptionCache, stop: Stop<'a>) -> Self {
        Self { model, cache, stop }
    }
}

impl<M: VisionModel> VisionModel for Cached<'_, M> {
    fn key_prefix(&self, instruction: &str) -> KeyPrefix {
        self.model.key_prefix(instruction)
    }

    fn draws_by_number(&self) -> bool {
        self.model.draws_by_number()
    }

    /// A picture that cannot be shown is answered with the reason, and the model is not asked about it.
    fn ask(
        &mut self,
        question: &Question<'_>,
        wanted: &[usize],
        on_event: &mut dyn FnMut(VisionEvent),
    ) -> Result<(), CaptionError> {
        let prefix = self.model.key_prefix(question.instruction);
        let by_number = self.model.draws_by_number();
        let mut unknown = Vec::new();
        let mut keys = HashMap::new();
        let mut known = 0;
        for &index in wanted {
            if (self.stop)() {
                return Err(CaptionError::Interrupted);
            }
            let answer = match question.pictures.pixels(index) {
                Ok(pixels) => {
                    let number = by_number.then(|| question.pictures.number(index));
                    let key = prefix.key(&pixels, number);
                    let Some(generated) = self.cache.get(&key) else {
                        unknown.push(index);
                        keys.insert(index, key);
                        continue;
                    };
                    Ok(generated)
                }
                Err(error) => Err(error.to_string()),
            };
            known += 1;
            on_event(VisionEvent::Answer(index, answer));
            on_event(VisionEvent::Done(known));
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let cache = self.cache;
        let asked = self.model.ask(question, &unknown, &mut |told| {
            if let VisionEvent::Answer(index, Ok(generated)) = &told
                && let Some(key) = keys.get(index)
            {
                cache.put(key, generated);
            }
            on_event(match told {
                VisionEvent::Done(count) => VisionEvent::Done(known + count),
                answer => answer,
            });
        });
        cache.prune();
        asked
    }

    fn take_notes(&mut self) -> Vec<String> {
        self.model.take_notes()
    }

    fn end(&mut self) {
        self.model.end();
    }
}

fn read(path: &Path, key: &CacheKey) -> Option<GeneratedText> {
    let file = File::open(path).ok()?;
    let mut text = Vec::new();
    (&file).take(LONGEST).read_to_end(&mut text).ok()?;
    let entry: CacheEntry = serde_json::from_slice(&text).ok()?;
    if entry.key != key.0 {
        return None;
    }
    let now = SystemTime::now();
    let marked = file.metadata().and_then(|found| found.modified());
    if marked.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > MARKED_FOR)) {
        let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(now));
    }
    Some(entry.generated)
}

/// Leaves `entries` files at most, with some room for the next ones where any have to go.
fn prune(folder: &Path, entries: usize) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = files
        .filter_map(|file| {
            let found = file.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((found.modified().ok()?, file.path()))
        })
        .collect();
    if files.len() <= entries {
        return;
    }
    files.sort_unstable();
    for (_, path) in &files[..files.len() - entries * 7 / 8] {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caption::Pixels;

    fn pixels(value: u8) -> Pixels {
        Pixels::new(2, 1, vec![value; 6]).unwrap()
    }

    fn generated(text: &str) -> GeneratedText {
        GeneratedText { text: text.to_owned(), has_ended: true }
    }

    fn key(value: u8) -> CacheKey {
        KeyPrefix::new("test").key(&pixels(value), None)
    }

    #[test]
    fn a_caption_outlives_its_process_and_belongs_to_its_question_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep").join("captions");
        let again = || CaptionCache::new(Some(place.clone()));
        again().put(&key(1), &generated("a wall"));
        assert_eq!(again().get(&key(1)), Some(generated("a wall")));
        let mut other = KeyPrefix::new("test");
        other.add("another question");
        for key in [
            key(2),
            other.key(&pixels(1), None),
            KeyPrefix::new("test").key(&pixels(1), Some(0)),
            KeyPrefix::new("test").key(&Pixels::new(1, 2, vec![1; 6]).unwrap(), None),
        ] {
            assert_eq!(again().get(&key), None);
        }
    }

    #[test]
    fn a_file_that_is_not_whole_or_not_its_own_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let again = || CaptionCache::new(Some(folder.path().to_owned()));
        again().put(&key(1), &generated("a wall"));
        let path = folder.path().join(&key(1).0);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(again().get(&key(1)), None, "cut at {cut}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(again().get(&key(1)).is_some());
        fs::copy(&path, folder.path().join(&key(2).0)).unwrap();
        assert_eq!(again().get(&key(2)), None);
    }

    #[test]
    fn where_nothing_can_be_written_a_process_still_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for place in [None, Some(file.join("captions"))] {
            let cache = CaptionCache::new(place);
            cache.put(&key(1), &generated("a wall"));
            cache.prune();
            assert_eq!(cache.get(&key(1)), Some(generated("a wall")));
        }
    }

    #[test]
    fn the_captions_that_were_not_used_for_longest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let again = || CaptionCache::new(Some(folder.path().to_owned()));
        let day = Duration::from_secs(24 * 3600);
        for value in 0..16 {
            again().put(&key(value), &generated("a wall"));
            let file = File::options().write(true).open(folder.path().join(&key(value).0)).unwrap();
            file.set_modified(SystemTime::now() - day * u32::from(32 - value)).unwrap();
        }
        prune(folder.path(), 16);
        // The oldest is used again.
        assert!(again().get(&key(0)).is_some());
        prune(folder.path(), 8);
        let left: Vec<u8> = (0..16).filter(|&value| again().get(&key(value)).is_some()).collect();
        assert_eq!(left, [0, 10, 11, 12, 13, 14, 15]);
    }
}
