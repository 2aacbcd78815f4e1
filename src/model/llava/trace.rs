//! The memory of a generation beside the weights: [`Llava::generate`]'s own steps, driven within a
//! memory trace. Every kind of step is taken once, the largest of its kind, with everything alive that
//! is alive then.

use candle_core::DType;

use super::cache::KvCache;
use super::{Llava, LlavaError, Prompt};
use crate::backend::{Activation, Placement, Trace};

/// The sizes that a generation's memory follows from.
#[derive(Clone, Copy, Debug)]
pub struct TraceBatch {
    /// texts that are written together
    pub rows: usize,
    /// prompts that are computed together
    pub prefill_rows: usize,
    /// width and height of the pictures
    pub size: (usize, usize),
    /// the longest text
    pub new_tokens: usize,
}

impl Llava {
    /// Entries of its vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.vocabulary()
    }

    /// Traces [`generate`](Self::generate) with `prompt`; nothing is held at the end.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn trace(
        &self,
        prompt: &Prompt,
        batch: TraceBatch,
        trace: &Trace,
    ) -> Result<(), LlavaError> {
        let TraceBatch { rows, size, new_tokens, .. } = batch;
        let (rows, new_tokens) = (rows.max(1), new_tokens.max(1));
        let at_once = batch.prefill_rows.clamp(1, rows);
        let length = self.prompt_length(prompt, size);
        let mut cache = self.decoder.cache(rows, length + new_tokens, Some(trace))?;
        self.share(&prompt.before, &cache, Some(trace))?;

        // The last slice, with the states of all others; it is as large as any.
        let state =
            {
                let mut states = Vec::new();
                if rows > at_once {
                    states.push(trace.activation(
                        (rows - at_once, self.decoder.config().hidden_size),
                        self.dtype,
                    ));
                }
                let tiles = self.traced_tiles(size, at_once, trace)?;
                let features = self.features(tiles, at_once, size, Some(trace))?;
                let part = cache.slice(0, at_once)?;
                states.push(self.prefill(prompt, features, &part)?);
                Activation::cat(&states, 0)?
            };

        // Scores twice: the tensor, and the host's.
        let scores = self.decoder.logits(&state)?;
        let _read = (trace.placement() == Placement::Cpu).then(|| trace.hold(scores.bytes()));
        drop(scores);
        let last = length + new_tokens - 1;
        let step = |rows: usize, cache: &KvCache| -> Result<(), LlavaError> {
            let tokens = self.decoder.embed(&vec![0; rows], Some(trace))?;
            self.decoder.step(&tokens, cache, last)?;
            Ok(())
        };
        step(rows, &cache)?;
        // The most rows that the rest is moved for.
        let kept: Vec<u32> = (0..rows as u32 * 3 / 4).collect();
        if !kept.is_empty() {
            cache = cache.compacted(&kept)?;
            step(kept.len(), &cache)?;
        }
        Ok(())
    }

    /// The tiles of so many pictures, as they lie in host memory.
    fn traced_tiles(
        &self,
        size: (usize, usize),
        pictures: usize,
        trace: &Trace,
    ) -> Result<Activation, LlavaError> {
        // A GPU's memory has none of them.
        let host = match trace.placement() {
            Placement::Cpu => trace.clone(),
            Placement::Cuda | Placement::Metal => Trace::new(Placement::Cpu),
        };
        let shape = self.preprocessor.tile_shape(size);
        let tiles: Vec<_> = (0..pictures).map(|_| host.activation(shape, DType::F32)).collect();
        Ok(Activation::cat(&tiles, 0)?)
    }
}
