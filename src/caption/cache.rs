//! Cache of captions, so that another seed or strength does not run a large model again. The key is a hash of the
//! pixels and the question, never a file name. [`Cached`] puts the cache in front of any [`VisionModel`].
//!
//! One small file for each caption, in one folder. A file is written whole or not at all; one that
//! cannot be read counts as missing, one that cannot be written is skipped: no job fails because of the cache.
//! The folder holds about [`ENTRIES`] files at most; the least recently used are removed first. Captions of this
//! process are also kept in memory, so that nothing is asked twice even without a folder.

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
use super::text::LONGEST;
use super::vision::{Question, VisionEvent, VisionModel};
use super::wording::Stop;

/// Limit of files in the folder: about three hundred pictures, about 64 MB on disk.
pub const ENTRIES: usize = 16_384;

/// Limit of captions kept in memory.
const REMEMBERED: usize = 1 << 16;

/// Bytes of a cache file that are read at most: more than the longest text takes with its escapes.
const LARGEST: u64 = 8 * LONGEST as u64;

/// Minimum interval between updates of a file's time of last use.
const MARKED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Content of a cache file.
#[derive(Serialize, Deserialize)]
struct CacheEntry {
    /// the file's own name, to detect files that were renamed or corrupted
    key: String,
    #[serde(flatten)]
    generated: GeneratedText,
}

/// Cache of captions: a folder, and the captions of this process in memory.
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
    /// A cache in `folder`, which need not exist; without a folder, in memory only.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, remembered: Mutex::default() }
    }

    /// The platform's cache folder, if it has one.
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

    /// Stores the answer to this question, unless it is longer than any caption.
    pub fn put(&self, key: &CacheKey, generated: &GeneratedText) {
        if generated.text.len() > LONGEST {
            return;
        }
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

    /// Removes the least recently used files beyond the limit.
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

/// A vision model behind a cache: only cache misses reach the model.
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

    /// A picture whose pixels cannot be read is answered with the error, without the model.
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
    (&file).take(LARGEST).read_to_end(&mut text).ok()?;
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

/// Reduces the folder to `entries` files at most; if any have to go, a few more go to make room.
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
    fn an_answer_longer_than_any_caption_is_not_kept() {
        let cache = CaptionCache::new(None);
        cache.put(&key(1), &generated(&"wall ".repeat(1 << 20)));
        assert_eq!(cache.get(&key(1)), None);
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
