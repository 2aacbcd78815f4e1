//! Interface of vision models, and the session that turns their answers into captions. The model may run in this
//! process or in another; [`Cached`](super::cache::Cached) is a cache for any.

use std::borrow::Cow;

use super::key::{GeneratedText, KeyPrefix};
use super::wording::{CaptionLength, Fits, cut_to_fit, instruction};
use super::{
    CaptionContext, CaptionError, CaptionSession, Captions, Pixels, RegionProgress, RegionSource,
};

/// Caption of a picture, or the reason for which there is none.
pub type Answer = Result<GeneratedText, String>;

/// A model that looks at pictures and answers in words.
pub trait VisionModel {
    /// Hash of everything that determines an answer besides the picture.
    fn key_prefix(&self, instruction: &str) -> KeyPrefix;

    /// `true` if answers also depend on the picture's number, the stream of its random sampling.
    fn draws_by_number(&self) -> bool {
        false
    }

    /// Asks the question about every picture in `wanted` (indices); each gets one answer.
    ///
    /// # Errors
    /// [`CaptionError::Interrupted`], or whatever keeps the model from working at all. Answers until then count.
    fn ask(
        &mut self,
        question: &Question<'_>,
        wanted: &[usize],
        on_event: &mut dyn FnMut(VisionEvent),
    ) -> Result<(), CaptionError>;

    /// Takes the notes for the user, one line each.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Frees the resources held for one picture's questions.
    fn end(&mut self) {}
}

/// A question about many pictures.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The words of the question.
    pub instruction: &'a str,
    /// The pictures that it may be asked about.
    pub pictures: &'a dyn Pictures,
}

/// Pictures whose pixels are made on demand.
pub trait Pictures {
    /// The pixels of a picture.
    ///
    /// # Errors
    /// Whatever keeps this one from being shown.
    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>>;

    /// Number of the picture's random stream.
    fn number(&self, index: usize) -> u64;
}

/// Progress or answer of a vision model.
#[derive(Debug)]
pub enum VisionEvent {
    /// Number of requested pictures that are done, including those about to be answered.
    Done(usize),
    /// The answer about the picture of this index.
    Answer(usize, Answer),
}

/// The regions of a job.
struct Regions<'a>(&'a dyn RegionSource);

impl Pictures for Regions<'_> {
    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        self.0.pixels(index)
    }

    fn number(&self, index: usize) -> u64 {
        index as u64
    }
}

/// One whole picture.
struct Whole<'a>(&'a Pixels);

impl Pictures for Whole<'_> {
    fn pixels(
        &self,
        _: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Cow::Borrowed(self.0))
    }

    /// The number of no region.
    fn number(&self, _: usize) -> u64 {
        u64::MAX
    }
}

/// A vision model at work on one picture: makes the question, and cuts answers to the length of the text encoders
/// (docs/method.md §5).
pub struct VisionSession<'a> {
    name: &'a str,
    model: Box<dyn VisionModel + 'a>,
    fits: Fits<'a>,
    length: CaptionLength,
    /// the last question
    instruction: String,
}

impl<'a> VisionSession<'a> {
    /// A session of the captioner called `name`. Nothing is loaded or started yet.
    #[must_use]
    pub fn new(name: &'a str, model: Box<dyn VisionModel + 'a>, fits: Fits<'a>) -> Self {
        let length = CaptionLength::default();
        Self { name, model, fits, length, instruction: instruction("", length) }
    }

    /// The same session with captions of this length.
    #[must_use]
    pub fn with_length(self, length: CaptionLength) -> Self {
        Self { length, instruction: instruction("", length), ..self }
    }

    fn failed(&self, message: String) -> CaptionError {
        CaptionError::Engine { name: self.name.into(), message }
    }

    fn caption_of(&self, answer: Option<Answer>) -> Result<String, String> {
        let generated = answer.unwrap_or_else(|| Err("it was left out".to_owned()))?;
        let caption = cut_to_fit(&generated.text, generated.has_ended, &self.fits);
        if caption.is_empty() { Err("the model said nothing".to_owned()) } else { Ok(caption) }
    }
}

impl CaptionSession for VisionSession<'_> {
    fn instruction(&self) -> Option<&str> {
        Some(&self.instruction)
    }

    fn describe(&mut self, whole: &Pixels) -> Result<Option<String>, CaptionError> {
        self.instruction = instruction("", self.length);
        let question = Question { instruction: &self.instruction, pictures: &Whole(whole) };
        let mut answer = None;
        self.model.ask(&question, &[0], &mut |event| {
            if let VisionEvent::Answer(_, generated) = event {
                answer = Some(generated);
            }
        })?;
        self.caption_of(answer).map(Some).map_err(|message| self.failed(message))
    }

    /// Afterwards the model holds nothing for this picture any more.
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: RegionProgress<'_>,
    ) -> Result<Captions, CaptionError> {
        self.instruction = instruction(context.prompt, self.length);
        let question = Question { instruction: &self.instruction, pictures: &Regions(regions) };
        let total = regions.len();
        let mut answers: Vec<Option<Answer>> = vec![None; total];
        let wanted: Vec<usize> = (0..total).collect();
        let asked = self.model.ask(&question, &wanted, &mut |event| match event {
            VisionEvent::Done(count) => progress(count, total),
            VisionEvent::Answer(index, answer) => answers[index] = Some(answer),
        });
        self.model.end();
        let notes = self.model.take_notes();
        asked?;
        let results = answers.into_iter().map(|answer| self.caption_of(answer));
        let captions = Captions::from_results(results, regions, context)
            .map_err(|message| self.failed(message))?;
        Ok(Captions { notes, ..captions })
    }
}
