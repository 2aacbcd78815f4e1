//! Text conditions of a job (docs/method.md §5): the captions of all regions, encoded for the denoiser.

use std::collections::HashMap;

use candle_core::Device;

use super::context::Context;
use crate::{
    model::{
        denoiser::{Conditioning, MicroConditioning},
        text::{Cut, Prompt},
    },
    pipeline::{error::Error, runner::Compute},
    units,
};

/// Conditions of the whole picture and of every region.
#[derive(Clone)]
pub struct Conditions {
    /// One row per distinct text; the negative prompt's is the last.
    all: Conditioning,
    /// Row of each region's text.
    rows: Vec<usize>,
    /// The row of the negative prompt, with guidance.
    negative: Option<usize>,
    /// Notes about texts that are cut to the encoders' limit.
    pub notes: Vec<String>,
}

/// Length of the cut-off text shown in a note, in characters.
const CUT_SHOWN: usize = 40;

/// The row of the global prompt.
const GLOBAL: usize = 0;

impl Conditions {
    /// Encodes the global prompt, of which `prompt` has the words, and every region's caption; equal texts are encoded once.
    ///
    /// The semantic prior's weight blends the two conditions of a region, from 0 (the prompt alone) to 1 (its
    /// caption alone).
    ///
    /// A job with guidance has a negative prompt. Empty, it is encoded like any text, or
    /// zeros where the model says so (`force_zeros_for_empty_prompt`; docs/method.md is silent, this is
    /// diffusers' `encode_prompt` of SDXL).
    ///
    /// All have as many chunks as the longest, and no more than the plan has counted.
    pub fn new(context: &Context<'_>, prompt: &str, captions: &[String]) -> Result<Self, Error> {
        let Context { runner, spec, .. } = *context;
        let rsp = spec.settings.rsp;
        let guidance = spec.plan.sampling.guidance;
        let negative = guidance.map(|_| &spec.prompts.negative);
        let global = spec.prompts.global(prompt);
        let mut texts = vec![global.clone()];
        let mut row_of = HashMap::from([(prompt, GLOBAL)]);
        let rows: Vec<usize> = captions
            .iter()
            .map(|caption| {
                if rsp == 0.0 {
                    return GLOBAL;
                }
                *row_of.entry(caption).or_insert_with(|| {
                    texts.push(global.of_caption(caption));
                    texts.len() - 1
                })
            })
            .collect();
        let mut chunks = 1;
        for text in texts.iter().chain(negative) {
            chunks = runner.chunks(text)?.max(chunks);
        }
        let chunks = chunks.min(spec.plan.text_chunks);
        let factor = spec.plan.geometry.shape.factor;
        let (height, width) = spec.plan.geometry.grid.region_size();
        // A region counts as a picture of its own.
        let size = (height * factor, width * factor);
        let micro = MicroConditioning { original: size, crop: (0, 0), target: size };
        let encoded = runner.encode_texts(&texts.iter().collect::<Vec<_>>(), chunks)?;
        // The prompt's row blends the prompt with itself and does not change.
        let mut all = runner.condition(&encoded, micro)?.blended(GLOBAL, rsp)?;
        let count = texts.len();
        if let Some(negative) = negative {
            let mut own = runner.encode_texts(&[negative], chunks)?;
            if negative.pieces().is_empty() && spec.zeros_for_empty_prompt {
                own = own.zeros_like()?;
            }
            all = Conditioning::cat(&[&all, &runner.condition(&own, micro)?])?;
        }
        if let Some(scale) = spec.plan.sampling.embedded_guidance {
            all = runner.with_guidance(&all, scale)?;
        }
        let notes = cut_notes(runner, (&texts[..], chunks), &rows, negative)?;
        Ok(Self { all, rows, negative: negative.map(|_| count), notes })
    }

    /// The same conditions for calls on `device`.
    pub fn to_device(&self, device: &Device) -> Result<Self, Error> {
        Ok(Self { all: self.all.to_device(device)?, ..self.clone() })
    }

    /// Conditions of a batch of regions with the captions of these; with guidance, preceded by the negative prompt once per
    /// region.
    pub fn of_captions(&self, captions: &[usize]) -> Result<Conditioning, Error> {
        self.rows(captions.iter().map(|&index| self.rows[index]).collect())
    }

    /// Conditions of the whole picture; with guidance, preceded by the negative prompt.
    pub fn global(&self) -> Result<Conditioning, Error> {
        self.rows(vec![GLOBAL])
    }

    fn rows(&self, positive: Vec<usize>) -> Result<Conditioning, Error> {
        let negative = self.negative.iter().flat_map(|&row| positive.iter().map(move |_| row));
        let rows: Vec<u32> =
            negative.chain(positive.iter().copied()).map(|row| row as u32).collect();
        Ok(self.all.select(&rows)?)
    }
}

/// One note for each prompt beyond the encoders' token limit, and one for all such captions together.
fn cut_notes(
    runner: &dyn Compute,
    (texts, chunks): (&[Prompt], usize),
    rows: &[usize],
    negative: Option<&Prompt>,
) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    let prompts = [("prompt", texts.first()), ("negative prompt", negative)];
    for (which, prompt) in prompts {
        let Some(prompt) = prompt else { continue };
        if let Some(Cut { tokens, is_all, limit, at }) = runner.cut(prompt, chunks)? {
            let words = prompt.words();
            let rest = words.get(at..).unwrap_or_default().trim_start();
            let mut start: String = rest.chars().take(CUT_SHOWN).collect();
            if start.len() < rest.len() {
                start.push('…');
            }
            let more = if is_all { "" } else { "more than " };
            notes.push(format!(
                "the {which} has {more}{tokens} tokens and the model takes {limit}: cut before \"{start}\""
            ));
        }
    }
    let cuts = texts.iter().map(|caption| runner.cut(caption, chunks));
    let cuts: Vec<_> = cuts.collect::<Result<_, _>>()?;
    let of_regions = || rows.iter().filter(|&&row| row != GLOBAL).filter_map(|&row| cuts[row]);
    if let Some(Cut { limit, .. }) = of_regions().next() {
        let count = of_regions().count();
        let captions = units::count(count, "caption");
        let are = if count == 1 { "is" } else { "are" };
        notes.push(format!("{captions} {are} cut to the {limit} tokens that the model takes"));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Fake, context, job, picture},
        *,
    };
    use crate::pipeline::settings::Settings;

    fn captions() -> Vec<String> {
        ["a wall", "a door", "a wall"].map(str::to_owned).to_vec()
    }

    #[test]
    fn equal_texts_are_encoded_once_and_guidance_puts_the_negative_prompt_first() {
        let (runner, picture) = (Fake::idle(), picture());
        let settings = Settings { guidance: Some(5.0), ..Settings::default() };
        let spec = job(settings);
        let context = context(&runner, &picture, &spec);
        let conditions = Conditions::new(&context, "a house", &captions()).unwrap();
        let encoded = runner.encoded.lock().unwrap();
        assert_eq!(encoded[..], ["a house", "a wall", "a door", ""]);
        assert_eq!(conditions.rows, [1, 2, 1]);
        assert_eq!(conditions.negative, Some(3));
        assert_eq!(conditions.of_captions(&[0, 1, 2]).unwrap().rows(), 6);
        assert_eq!(conditions.global().unwrap().rows(), 2);
    }

    #[test]
    fn captions_that_do_not_count_are_not_encoded_and_long_texts_are_noted() {
        let (runner, picture) = (Fake::idle(), picture());
        let spec = job(Settings { rsp: 0.0, ..Settings::default() });
        let context = context(&runner, &picture, &spec);
        let prompt = "a house with a door and a wall";
        let conditions = Conditions::new(&context, prompt, &captions()).unwrap();
        assert_eq!(conditions.rows, [GLOBAL; 3]);
        assert_eq!(runner.encoded.lock().unwrap()[..], [prompt]);
        assert_eq!(conditions.notes.len(), 1);
        assert!(
            conditions.notes[0].contains("cut before \"and a wall\""),
            "{:?}",
            conditions.notes
        );
    }
}
