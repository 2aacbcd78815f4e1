//! `--captioner llava`: a LLaVA model looks at every region and says what is there (METHOD.md §5). All
//! regions of a job go through the model together; see [`Llava::generate`].
//!
//! The model is told the global prompt as context and not to name what it does not see; what it says is
//! the region's whole text condition, cut at a clause where it would not fit the text encoders. It is
//! loaded for the first picture that the cache knows nothing of, and not at all if there is none.

mod ask;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::{CacheKey, CaptionCache, Said, Subject};
use super::wording::{Fits, Stop, cut_to_fit, instruction};
use super::{CaptionContext, CaptionError, Captioner, Captions, Pixels, Progress, RegionSource};
use crate::model::llava::{GenerateOptions, Llava, LlavaError, Picture, Row};
use ask::{Question, ask};

const NAME: &str = "llava";

/// The number of the row of a whole picture.
const WHOLE: u64 = u64::MAX;

/// Loads the model, or gives out the loaded one.
pub type Load = Arc<dyn Fn() -> Result<Arc<Llava>, CaptionError> + Send + Sync>;

/// A model that is loaded when it is needed.
#[derive(Clone)]
pub struct LlavaModel {
    /// what users call it, for the record
    pub name: String,
    /// changes with everything that its texts follow from beside pictures, prompt and options
    pub fingerprint: String,
    pub load: Load,
}

/// How regions are captioned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlavaOptions {
    /// How texts are generated.
    pub generate: GenerateOptions,
    /// Regions whose texts are decoded together; at least 1. Each takes
    /// [`Llava::cache_bytes_per_row`], and more are done in turn.
    pub rows: usize,
}

/// The most texts that are decoded together where nothing else is said: more gain nothing.
pub const DEFAULT_ROWS: usize = 64;

impl Default for LlavaOptions {
    fn default() -> Self {
        Self { generate: GenerateOptions::default(), rows: DEFAULT_ROWS }
    }
}

/// The captioner.
pub struct LlavaCaptioner<'a> {
    model: LlavaModel,
    /// what it was told last
    instruction: String,
    options: LlavaOptions,
    cache: &'a CaptionCache,
    fits: Fits<'a>,
    stop: Stop<'a>,
}

/// What became of a region: what the model said of it, or why there is nothing.
type Answer = Result<Said, String>;

impl<'a> LlavaCaptioner<'a> {
    /// A captioner that looks into `cache` first and keeps there what it is told.
    #[must_use]
    pub fn new(
        model: LlavaModel,
        options: LlavaOptions,
        cache: &'a CaptionCache,
        fits: Fits<'a>,
        stop: Stop<'a>,
    ) -> Self {
        Self { model, instruction: instruction(""), options, cache, fits, stop }
    }

    /// A caption of a whole picture, for jobs without a prompt.
    ///
    /// # Errors
    /// [`CaptionError::Interrupted`], or whatever keeps the model from working.
    pub fn describe(&mut self, pixels: &Pixels) -> Result<String, CaptionError> {
        self.instruction = instruction("");
        let key = self.key(&self.subject(), pixels, WHOLE);
        let answer = match self.cache.get(&key) {
            Some(said) => Ok(said),
            None => {
                let row = Row { picture: picture(pixels).map_err(engine)?, number: WHOLE };
                let answer = self.ask(vec![row], &mut |_| ())?.pop();
                let answer = answer.unwrap_or_else(|| Err("it was left out".to_owned()));
                if let Ok(said) = &answer {
                    self.cache.put(&key, said);
                    self.cache.prune();
                }
                answer
            }
        };
        let failed = |message| CaptionError::Engine { name: NAME.into(), message };
        self.caption_of(answer).map_err(failed)
    }

    /// What all questions of a job have in common.
    fn subject(&self) -> Subject {
        let mut subject = Subject::new(NAME);
        subject.add(&self.model.fingerprint);
        subject.add(&self.instruction);
        subject.add(&self.options.generate.max_new_tokens.to_string());
        if let Some(sampling) = self.options.generate.sampling {
            subject.add(&format!("{sampling:?}"));
        }
        subject
    }

    /// Draws follow from a row's number too; without chance a place in the picture plays no part.
    fn key(&self, subject: &Subject, pixels: &Pixels, number: u64) -> CacheKey {
        subject.key(pixels, self.options.generate.sampling.map(|_| number))
    }

    /// What the model says of each row, all of which have one size.
    fn ask(
        &self,
        rows: Vec<Row<'static>>,
        on_ended: &mut dyn FnMut(usize),
    ) -> Result<Vec<Answer>, CaptionError> {
        let question = Question {
            load: self.model.load.clone(),
            instruction: self.instruction.clone(),
            rows,
            options: self.options.generate,
        };
        ask(question, &self.stop, on_ended)
    }

    /// What of an answer becomes the caption.
    fn caption_of(&self, answer: Answer) -> Result<String, String> {
        let said = answer?;
        let caption = cut_to_fit(&said.text, said.has_ended, &self.fits);
        if caption.is_empty() { Err("the model said nothing".to_owned()) } else { Ok(caption) }
    }
}

impl Captioner for LlavaCaptioner<'_> {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some(&self.model.name)
    }

    fn instruction(&self) -> Option<&str> {
        Some(&self.instruction)
    }

    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: Progress<'_>,
    ) -> Result<Captions, CaptionError> {
        self.instruction = instruction(context.prompt);
        let subject = self.subject();
        let total = regions.len();
        let mut answers: Vec<Option<Answer>> = vec![None; total];
        let mut done = 0;
        let mut unknown: BTreeMap<(usize, usize), Vec<(usize, CacheKey)>> = BTreeMap::new();
        for (index, answer) in answers.iter_mut().enumerate() {
            if (self.stop)() {
                return Err(CaptionError::Interrupted);
            }
            *answer = match regions.pixels(index) {
                Ok(pixels) => {
                    let key = self.key(&subject, &pixels, index as u64);
                    let known = self.cache.get(&key);
                    if known.is_none() {
                        let size = (pixels.width(), pixels.height());
                        unknown.entry(size).or_default().push((index, key));
                    }
                    known.map(Ok)
                }
                Err(error) => Some(Err(error.to_string())),
            };
            if answer.is_some() {
                done += 1;
                progress(done, total);
            }
        }
        // Pixels are made once more rather than kept: most jobs have many regions, or find all here.
        for part in unknown.values().flat_map(|group| group.chunks(self.options.rows.max(1))) {
            let mut rows = Vec::with_capacity(part.len());
            let mut shown = Vec::with_capacity(part.len());
            for (index, key) in part {
                match regions.pixels(*index) {
                    Ok(pixels) => {
                        let picture = picture(&pixels).map_err(engine)?;
                        rows.push(Row { picture, number: *index as u64 });
                        shown.push((*index, key));
                    }
                    Err(error) => answers[*index] = Some(Err(error.to_string())),
                }
            }
            let said = self.ask(rows, &mut |ended| progress(done + ended, total))?;
            for ((index, key), answer) in shown.into_iter().zip(said) {
                if let Ok(said) = &answer {
                    self.cache.put(key, said);
                }
                answers[index] = Some(answer);
            }
            done += part.len();
            progress(done, total);
        }
        if !unknown.is_empty() {
            self.cache.prune();
        }
        let results = answers.into_iter().map(|answer| {
            self.caption_of(answer.unwrap_or_else(|| Err("it was left out".to_owned())))
        });
        Captions::from_results(results, regions, context)
            .map_err(|message| CaptionError::Engine { name: NAME.into(), message })
    }
}

fn picture(pixels: &Pixels) -> Result<Picture<'static>, LlavaError> {
    Picture::new(pixels.width(), pixels.height(), pixels.rgb().to_vec())
}

fn engine(error: LlavaError) -> CaptionError {
    CaptionError::Engine { name: NAME.into(), message: one_line(&error) }
}

/// candle appends a backtrace where the environment asks for one.
fn one_line(error: &LlavaError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
