//! What describing a picture takes of memory: the stage before all others, in which the captioner's model
//! may be the largest thing that a job ever loads.

use std::collections::BTreeMap;

use crate::{
    backend::ops::memory::Ledger,
    caption::wording::instruction,
    model::llava::{Batch, Prompt},
    weights::Footprint,
};

use super::{
    CaptionBatch, Defaults, LlavaSettings,
    caption_model::{CaptionModel, generate_options, whole_size},
    captions::rect,
    plan::memory::{Job, Needs, VOCABULARY_ENTRY_BYTES},
};

/// What a job asks of the captioner's model.
pub(super) struct Captions<'a> {
    job: &'a Job<'a>,
    model: &'a CaptionModel,
    settings: LlavaSettings,
    prompt: Prompt,
    /// of each width and height that is shown, how many there are: those go together
    sizes: BTreeMap<(usize, usize), usize>,
}

impl Job<'_> {
    /// What the job asks of a captioner's model, if it has one.
    pub fn captions(&self) -> Option<Captions<'_>> {
        let settings = self.settings.llava()?;
        let model = self.engine.captioner()?;
        let factor = self.engine.shape().factor;
        let rects = self.grid.regions().map(|region| rect(&region, &self.canvas, factor));
        let mut sizes = BTreeMap::new();
        for rect in rects {
            *sizes.entry((rect.width as usize, rect.height as usize)).or_insert(0) += 1;
        }
        // What cannot be turned into tokens will be said when it is asked.
        let mut prompt = model.blueprint.prompt(&instruction(&self.settings.prompt)).ok()?;
        if self.settings.prompt.is_empty() {
            let (width, height) = whole_size(self.input);
            sizes.entry((width as usize, height as usize)).or_insert(1);
            // Regions are asked about with what was said of the whole.
            let longest = generate_options(&settings).max_new_tokens;
            prompt.after.extend(vec![0; longest]);
        }
        Some(Captions { job: self, model, settings, prompt, sizes })
    }
}

impl Captions<'_> {
    /// The model's weights.
    pub fn footprint(&self) -> Footprint {
        self.model.footprint
    }

    /// How captions may be made, the most at once first: those that the user asked for alone, or all
    /// that a budget may leave; of each number the most that are read at once first.
    pub fn batches(&self) -> Vec<CaptionBatch> {
        let together = self.sizes.values().max().copied().unwrap_or(1);
        let most = self.settings.rows.unwrap_or(Defaults::CAPTION_BATCH).min(together);
        let least = if self.settings.rows.is_some() { most } else { 1 };
        let model = &self.model.blueprint;
        let at_once = |&size| model.prefill_rows(model.prompt_length(&self.prompt, size));
        let read = self.sizes.keys().map(at_once).max().unwrap_or(1);
        let of_rows = |rows: usize| {
            let read = (1..=read.min(rows)).rev();
            read.map(move |prefill_rows| CaptionBatch { rows, prefill_rows, stays: true })
        };
        (least..=most).rev().flat_map(of_rows).collect()
    }

    /// What the stage takes.
    pub fn needs(&self, batch: CaptionBatch, scratch: &mut usize) -> Needs {
        let mut needs = Needs {
            host: self.job.engine.text_sizes.vocabulary * VOCABULARY_ENTRY_BYTES,
            ..Needs::default()
        };
        for (&size, &count) in &self.sizes {
            let mut ledger = Ledger::new(&self.model.device, self.model.dtype);
            let rows = batch.rows.min(count);
            let batch = Batch {
                rows,
                prefill_rows: batch.prefill_rows,
                size,
                new_tokens: generate_options(&self.settings).max_new_tokens,
            };
            self.model.blueprint.play(&self.prompt, batch, &mut ledger);
            *scratch = (*scratch).max(ledger.scratch_bytes());
            let pixels = size.0 * size.1 * 3;
            // All pictures of a batch, and one of them as it is resized; while none is computed yet.
            let (shown, window) = (rows * pixels, 3 * pixels * size_of::<f32>());
            needs.device_working = needs.device_working.max(ledger.peak() + shown);
            needs.host_working = needs.host_working.max(shown + window);
        }
        needs
    }

    /// What is held of the model in host memory whether its weights are loaded or not.
    pub fn host_bytes(&self) -> usize {
        self.model.blueprint.vocabulary() * VOCABULARY_ENTRY_BYTES
    }
}
