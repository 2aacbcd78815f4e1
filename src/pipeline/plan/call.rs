//! One call of the denoiser on shapes, with the controls that work beside it, and what their pictures take on the host.

use super::{geometry::Geometry, needs::Draft};
use crate::{
    backend::Trace,
    model::{
        denoiser::{ControlPicture, ControlSignal, MicroConditioning, Prior},
        text::TextConditioning,
    },
    pipeline::{
        control::{ControlUse, PIXEL_BYTES},
        error::Error,
        model::Blueprints,
        runner::Compute as _,
    },
};

impl Draft<'_> {
    /// The controls that work in some step of the job.
    fn working_controls(&self) -> impl Iterator<Item = &ControlUse> {
        let steps = self.sampling.steps.len();
        let works = move |of: &&ControlUse| (0..steps).any(|index| of.works_in(index, steps));
        self.settings.controls.iter().filter(works)
    }

    /// Bytes on the host of the controls' pictures of so many regions, twice because the next batch is made while one is
    /// computed, and of making one.
    pub(super) fn control_bytes(&self, regions: usize) -> usize {
        let Geometry { grid, shape, .. } = self.geometry;
        let (height, width) = grid.region_size();
        let size = (height * shape.factor, width * shape.factor);
        let side = shape.region * shape.factor;
        let pictures = 2 * regions * size.0 * size.1 * PIXEL_BYTES;
        let each = |of: &ControlUse| pictures + of.making_bytes(size, side);
        self.working_controls().map(each).sum()
    }

    /// One call of the denoiser on shapes.
    pub(super) fn call(
        &self,
        (batch, height, width): (usize, usize, usize),
        prior: Prior<'_>,
        trace: &Trace,
    ) -> Result<(), Error> {
        let Blueprints { denoiser, controls, text, .. } = &*self.model.blueprints;
        let (shape, dtype) = (self.geometry.shape, self.runner.dtype());
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        let sample = trace.activation((batch, height, width, channels), dtype);
        // Before the call: host values and their parts.
        trace.pass(4 * sample.bytes());
        let (context, pooled) = text.widths();
        let tokens = text.tokens_of(self.text_chunks);
        let texts = TextConditioning {
            context: trace.activation((batch, tokens, context), dtype),
            pooled: pooled.map(|width| trace.activation((batch, width), dtype)),
            lengths: text.has_lengths().then(|| vec![tokens; batch]),
        };
        let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
        let conditioning = denoiser.condition(&texts, nothing)?;
        let pair = if self.sampling.guidance.is_some() { 2 } else { 1 };
        let pixels = (batch / pair, height * shape.factor, width * shape.factor, 3);
        let pictures: Vec<_> =
            self.working_controls().map(|of| (of, trace.activation(pixels, dtype))).collect();
        let mut added: Option<ControlSignal> = None;
        for (of, pixels) in &pictures {
            let picture = ControlPicture { pixels, kind: of.kind };
            let Some(control) = controls.get(of.control) else { continue };
            let own = control.forward(&sample, 0.0, &conditioning, &picture, of.scale)?;
            added = Some(match added {
                Some(others) => others.plus(own)?,
                None => own,
            });
        }
        match added {
            None => denoiser.forward(&sample, 0.0, &conditioning, prior)?,
            Some(added) => {
                denoiser.forward_controlled(&sample, 0.0, &conditioning, prior, added)?
            }
        };
        Ok(())
    }
}
