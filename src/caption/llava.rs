//! `--captioner llava`: a LLaVA model looks at every region and says what is there (METHOD.md §5). All
//! regions of a job go through the model together; see [`Llava::generate`].
//!
//! The model is told the global prompt as context and not to name what it does not see; what it says is
//! the region's whole text condition, cut at a clause where it would not fit the text encoders.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::wording::{Fits, Stop, cut_to_fit, instruction};
use super::{
    Caption, CaptionContext, CaptionError, Captioner, Captions, Pixels, Progress, RegionSource,
};
use crate::model::llava::{GenerateOptions, Llava, LlavaError, Picture, Row, Step};

const NAME: &str = "llava";

/// How regions are captioned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlavaOptions {
    /// How texts are generated.
    pub generate: GenerateOptions,
    /// Regions whose texts are decoded together; at least 1. Each takes
    /// [`Llava::cache_bytes_per_row`], and more are done in turn.
    pub rows: usize,
}

impl Default for LlavaOptions {
    fn default() -> Self {
        Self { generate: GenerateOptions::default(), rows: 64 }
    }
}

/// The captioner.
pub struct LlavaCaptioner<'a> {
    model: Llava,
    /// what users call the model
    name: String,
    /// what it was told last
    instruction: String,
    options: LlavaOptions,
    fits: Fits<'a>,
    stop: Stop<'a>,
}

impl<'a> LlavaCaptioner<'a> {
    /// `name` is what users call the model, for the record.
    #[must_use]
    pub fn new(
        model: Llava,
        name: String,
        options: LlavaOptions,
        fits: Fits<'a>,
        stop: Stop<'a>,
    ) -> Self {
        Self { model, name, instruction: instruction(""), options, fits, stop }
    }

    /// A caption of a whole picture, for jobs without a prompt.
    ///
    /// # Errors
    /// [`CaptionError::Interrupted`], or whatever keeps the model from working.
    pub fn describe(&mut self, pixels: &Pixels) -> Result<String, CaptionError> {
        self.instruction = instruction("");
        let picture = picture(pixels).map_err(engine)?;
        let texts = self.texts(vec![Row { picture, number: u64::MAX }], &mut |_| ());
        match texts?.pop() {
            Some(Ok(text)) => Ok(text),
            Some(Err(reason)) => Err(CaptionError::Engine { name: NAME.into(), message: reason }),
            None => Ok(String::new()),
        }
    }

    /// A text for each row, all of which have one size, or why there is none. `progress` is told how
    /// many are done.
    fn texts(
        &self,
        rows: Vec<Row<'_>>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Result<String, String>>, CaptionError> {
        let options = &self.options.generate;
        let mut on_step = |step| {
            if let Step::Decoded { ended, .. } = step {
                progress(ended);
            }
            if (self.stop)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let prompt = self.model.prompt(&self.instruction).map_err(engine)?;
        match self.model.generate(&prompt, &rows, options, &mut on_step) {
            Ok(texts) => Ok(texts.into_iter().map(|tokens| self.caption_of(&tokens)).collect()),
            Err(LlavaError::Interrupted) => Err(CaptionError::Interrupted),
            // The device may be out of memory: fewer at once may do.
            Err(LlavaError::Tensor(_)) if rows.len() > 1 => {
                let mut first = rows;
                let second = first.split_off(first.len() / 2);
                let count = first.len();
                let mut texts = self.texts(first, progress)?;
                texts.extend(self.texts(second, &mut |done| progress(count + done))?);
                Ok(texts)
            }
            Err(error) => {
                let reason = one_line(&error);
                Ok(rows.iter().map(|_| Err(reason.clone())).collect())
            }
        }
    }

    fn caption_of(&self, tokens: &[u32]) -> Result<String, String> {
        let text = self.model.decode(tokens).map_err(|error| one_line(&error))?;
        let has_ended = tokens.len() < self.options.generate.max_new_tokens;
        let caption = cut_to_fit(&text, has_ended, &self.fits);
        if caption.is_empty() { Err("the model said nothing".to_owned()) } else { Ok(caption) }
    }
}

impl Captioner for LlavaCaptioner<'_> {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some(&self.name)
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
        let total = regions.len();
        let mut captions: Vec<Option<Result<String, String>>> = vec![None; total];
        let mut done = 0;
        let indices: Vec<usize> = (0..total).collect();
        for part in indices.chunks(self.options.rows.max(1)) {
            let mut by_size: BTreeMap<(usize, usize), Vec<(usize, Pixels)>> = BTreeMap::new();
            for &index in part {
                match regions.pixels(index) {
                    Ok(pixels) => by_size
                        .entry((pixels.width(), pixels.height()))
                        .or_default()
                        .push((index, pixels.into_owned())),
                    Err(error) => {
                        captions[index] = Some(Err(error.to_string()));
                        done += 1;
                    }
                }
            }
            for group in by_size.into_values() {
                let rows = group
                    .iter()
                    .map(|(index, pixels)| {
                        Ok(Row { picture: picture(pixels)?, number: *index as u64 })
                    })
                    .collect::<Result<Vec<_>, LlavaError>>()
                    .map_err(engine)?;
                let texts = self.texts(rows, &mut |ended| progress(done + ended, total))?;
                for ((index, _), text) in group.iter().zip(texts) {
                    captions[*index] = Some(text);
                }
                done += group.len();
                progress(done, total);
            }
        }
        let mut made = Vec::with_capacity(total);
        let mut reason = None;
        for (index, caption) in captions.into_iter().enumerate() {
            let place = regions.place(index);
            made.push(match caption.unwrap_or_else(|| Err("it was left out".to_owned())) {
                Ok(text) => Caption::new(place, text),
                Err(error) => {
                    reason.get_or_insert_with(|| error.clone());
                    Caption::fallback(place, context, error)
                }
            });
        }
        match reason {
            Some(message) if made.iter().all(|caption| caption.fallback.is_some()) => {
                Err(CaptionError::Engine { name: NAME.into(), message })
            }
            _ => Ok(made.into()),
        }
    }
}

fn picture(pixels: &Pixels) -> Result<Picture<'_>, LlavaError> {
    Picture::new(pixels.width(), pixels.height(), pixels.rgb())
}

fn engine(error: LlavaError) -> CaptionError {
    CaptionError::Engine { name: NAME.into(), message: one_line(&error) }
}

/// candle appends a backtrace where the environment asks for one.
fn one_line(error: &LlavaError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
