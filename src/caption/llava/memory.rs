//! The memory that describing a picture takes: the stage before all others, in which the captioner's model may be
//! the largest thing that a job ever loads.

use std::collections::BTreeMap;

use super::{DEFAULT_ROWS, LlavaCaptioner};
use crate::backend::Trace;
use crate::caption::wording::{CaptionLength, instruction};
use crate::caption::{CaptionBatch, CaptionError, CaptionMemory, CaptionNeeds, CaptionRequest};
use crate::model::llava::{Prompt, TraceBatch};
use crate::weights::Footprint;

/// A LLaVA model and the pictures of one job.
pub(super) struct LlavaMemory<'a> {
    captioner: &'a LlavaCaptioner,
    prompt: Prompt,
    /// pictures of each width and height that is shown: those go together
    sizes: BTreeMap<(usize, usize), usize>,
    length: CaptionLength,
}

impl<'a> LlavaMemory<'a> {
    /// `None` for a prompt that cannot be turned into tokens: asking will say so.
    pub(super) fn new(captioner: &'a LlavaCaptioner, request: &CaptionRequest<'_>) -> Option<Self> {
        let length = request.length;
        let mut prompt = captioner.blueprint.prompt(&instruction(request.prompt, length)).ok()?;
        let mut sizes = request.regions.clone();
        if let Some(whole) = request.whole {
            sizes.entry(whole).or_insert(1);
            // The question about a region then holds the caption of the whole.
            prompt.after.extend(vec![0; length.most()]);
        }
        Some(Self { captioner, prompt, sizes, length })
    }
}

impl CaptionMemory for LlavaMemory<'_> {
    fn footprint(&self) -> Footprint {
        self.captioner.footprint
    }

    fn vocabulary(&self) -> usize {
        self.captioner.blueprint.vocabulary()
    }

    /// Several devices have the regions in equal parts. Ordered by decode batch, largest first; within one decode batch by prefill batch, largest first.
    fn batches(&self) -> Vec<CaptionBatch> {
        let asked = self.captioner.settings.rows;
        let together = self.sizes.values().max().copied().unwrap_or(1);
        let together = together.div_ceil(self.captioner.devices());
        let most = asked.unwrap_or(DEFAULT_ROWS).min(together);
        let least = if asked.is_some() { most } else { 1 };
        let model = &self.captioner.blueprint;
        let at_once = |&size| model.prefill_rows(model.prompt_length(&self.prompt, size));
        let read = self.sizes.keys().map(at_once).max().unwrap_or(1);
        let of_rows = |rows: usize| {
            let read = (1..=read.min(rows)).rev();
            read.map(move |prefill_rows| CaptionBatch { rows, prefill_rows, stays: true })
        };
        (least..=most).rev().flat_map(of_rows).collect()
    }

    fn needs(&self, batch: CaptionBatch) -> Result<CaptionNeeds, CaptionError> {
        let mut needs = CaptionNeeds::default();
        for (&size, &count) in &self.sizes {
            let trace = Trace::new(&self.captioner.device);
            let rows = batch.rows.min(count);
            let batch = TraceBatch {
                rows,
                prefill_rows: batch.prefill_rows,
                size,
                new_tokens: self.length.most(),
            };
            self.captioner
                .blueprint
                .trace(&self.prompt, batch, &trace)
                .map_err(super::error::engine)?;
            needs.scratch = needs.scratch.max(trace.scratch_bytes());
            let pixels = size.0 * size.1 * 3;
            // All pictures of a batch, and one of them as it is resized.
            let (shown, window) = (rows * pixels, 3 * pixels * size_of::<f32>());
            needs.device_working = needs.device_working.max(trace.peak() + shown);
            needs.host_working = needs.host_working.max(shown + window);
        }
        Ok(needs)
    }
}
