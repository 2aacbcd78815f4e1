//! Noise predictions of regions (docs/method.md §2 and §4): one device's part in the steps of a job.

use std::{
    cell::Cell,
    collections::VecDeque,
    ops::Range,
    panic::resume_unwind,
    thread::{Builder, ScopedJoinHandle},
};

use candle_core::{DType, Tensor};

use super::{condition::Conditions, context::Context, control::ControlSource};
use crate::{
    backend::Activation,
    canvas::{Latent, NoiseField, Region},
    model::denoiser::Prior,
    pipeline::{
        error::Error,
        progress::Stage,
        queue::{Deliver, Queue},
        retry::retry_smaller,
        runner::{Call, ControlInput, Prediction},
    },
    priors::attention::AttentionPrior,
    sampler::{Level, Step, add_noise},
};

/// Draw of the noise field for the low-resolution latent of the attention prior.
pub const DRAW_LOW_RESOLUTION: u32 = 1;

/// Inputs of one step, common to all regions.
#[derive(Clone, Copy)]
pub struct StepInputs<'a> {
    pub step: &'a Step,
    /// Its number among the steps that run.
    pub index: usize,
    pub z: &'a Latent,
    pub zl: &'a Latent,
    /// Latent of the picture at the model's native size, if the job has the attention prior.
    pub low_resolution: Option<&'a Latent>,
    pub noise: &'a NoiseField,
    /// The regions that run in the step, and for each the region whose caption it has.
    pub regions: &'a [Region],
    pub captions: &'a [usize],
}

/// A batch of regions on the device, ready for the denoiser.
struct RegionBatch {
    z: Tensor,
    zl: Option<Tensor>,
    controls: Vec<ControlInput>,
}

/// One device at work on the regions of a job.
pub struct Predictor<'a> {
    context: Context<'a>,
    /// The conditions, on this device.
    conditions: Conditions,
    /// Sources of the controls' pictures.
    controls: Vec<ControlSource<'a>>,
    /// Regions per denoiser call: the plan's batch, or less after the device ran out of memory.
    batch: Cell<usize>,
    /// Regions with non-finite predictions in the working precision, predicted again in f32.
    redone: Cell<usize>,
}

impl<'a> Predictor<'a> {
    /// Predictor of the context's first device.
    ///
    /// # Errors
    /// A device without memory for the conditions; a control's picture that cannot be resized.
    pub fn new(context: Context<'a>, conditions: &Conditions) -> Result<Self, Error> {
        let conditions = conditions.to_device(context.runner.device())?;
        let batch = Cell::new(context.spec.plan.memory.batch);
        let controls = ControlSource::all(&context)?;
        Ok(Self { context, conditions, controls, batch, redone: Cell::new(0) })
    }

    /// Regions that were predicted again in f32.
    pub fn redone(&self) -> usize {
        self.redone.get()
    }

    /// Predicts regions of one step, batch by batch, until the queue has none.
    ///
    /// A device that computes by itself is given the next batch before the last one's results are waited for, so that it has
    /// work while they are committed.
    ///
    /// # Errors
    /// Errors of the denoiser; non-finite values.
    pub fn serve(
        &self,
        inputs: StepInputs<'_>,
        queue: &Queue,
        deliver: Deliver<'_, Vec<f32>>,
    ) -> Result<(), Error> {
        let Self { context, controls, batch, .. } = self;
        let dtype = context.runner.dtype();
        let mut priors: Option<Vec<AttentionPrior>> = None;
        let mut computing: Option<(Range<usize>, Prediction)> = None;
        std::thread::scope(|scope| {
            // Regions that are taken and not begun: the next batch, and what is left of one that was too large.
            let mut taken: VecDeque<Range<usize>> = VecDeque::new();
            let mut ahead: Option<(Range<usize>, ScopedJoinHandle<'_, _>)> = None;
            loop {
                let piece = taken.pop_front().or_else(|| match &computing {
                    None => queue.take(batch.get()),
                    // Others may wait for what is being computed here: that is no time to wait for them.
                    Some(_) => queue.take_ahead(batch.get()),
                });
                let Some(piece) = piece else {
                    match (computing.take(), &priors) {
                        (Some(last), Some(priors)) => self.finish(last, inputs, priors, deliver)?,
                        _ => return Ok(()),
                    }
                    continue;
                };
                let priors = match &mut priors {
                    Some(priors) => priors,
                    none => none.insert(self.attention_prior(inputs)?),
                };
                let next = retry_smaller(batch, |count| {
                    let part = |piece: &Range<usize>| {
                        piece.start..piece.end.min(piece.start.saturating_add(count))
                    };
                    let range = part(&piece);
                    let input = match ahead.take() {
                        Some((gathered, thread)) if gathered == range => {
                            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
                        }
                        // The first batch, or a smaller one after the device ran out of memory.
                        _ => gather(context, controls, inputs, range.clone(), dtype),
                    };
                    if taken.is_empty() {
                        taken.extend(queue.take_ahead(count));
                    }
                    let rest = range.end..piece.end;
                    let next = if rest.is_empty() { taken.front() } else { Some(&rest) };
                    // Prefetch: the next batch is gathered and copied to the device while this one is computed.
                    if let Some(next) = next.map(part) {
                        let of_thread = next.clone();
                        let gather = move || gather(context, controls, inputs, of_thread, dtype);
                        // Without a thread for it, it is gathered when its turn comes.
                        let thread = Builder::new().spawn_scoped(scope, gather);
                        ahead = thread.ok().map(|thread| (next, thread));
                    }
                    Ok((range.clone(), self.predict_batch(input?, inputs, priors, range)?))
                });
                // What was computed before counts, whatever became of the next.
                if let Some(last) = computing.take() {
                    self.finish(last, inputs, priors, deliver)?;
                }
                let (range, prediction) = next?;
                if range.end < piece.end {
                    taken.push_front(range.end..piece.end);
                }
                if prediction.is_here() {
                    self.finish((range, prediction), inputs, priors, deliver)?;
                } else {
                    computing = Some((range, prediction));
                }
            }
        })
    }

    /// Delivers the predictions of a batch of regions, concatenated; those that overflowed are redone.
    fn finish(
        &self,
        (range, prediction): (Range<usize>, Prediction),
        inputs: StepInputs<'_>,
        priors: &[AttentionPrior],
        deliver: Deliver<'_, Vec<f32>>,
    ) -> Result<(), Error> {
        let mut eps = prediction.values()?;
        let size = eps.len() / range.len();
        for (region, eps) in range.clone().zip(eps.chunks_exact_mut(size)) {
            if !is_finite(eps) {
                // Of one region there is nothing smaller: without memory for it the job ends.
                let redo = |_| self.redo(inputs, priors, region);
                eps.copy_from_slice(&retry_smaller(&Cell::new(1), redo)?);
            }
        }
        deliver(range, eps)
    }

    /// Predictions of a batch of regions, concatenated.
    fn predict_batch(
        &self,
        RegionBatch { z, zl, controls }: RegionBatch,
        inputs: StepInputs<'_>,
        priors: &[AttentionPrior],
        range: Range<usize>,
    ) -> Result<Prediction, Error> {
        let Context { runner, spec, .. } = self.context;
        let (batch, captions) = (&inputs.regions[range.clone()], &inputs.captions[range]);
        let layers = self.prior_layers(batch, priors, z.dtype())?;
        let guidance = spec.plan.sampling.guidance;
        runner.predict(
            &Call { z, zl, timestep: inputs.step.t, guidance, controls },
            &self.conditions.of_captions(captions)?,
            match &layers {
                Some(layers) => Prior::Blend { layers, weight: spec.settings.rap },
                None => Prior::None,
            },
        )
    }

    /// Predicts a region again in f32 after non-finite values in the working precision; alone, so that the
    /// result does not depend on the batch.
    fn redo(
        &self,
        inputs: StepInputs<'_>,
        priors: &[AttentionPrior],
        region: usize,
    ) -> Result<Vec<f32>, Error> {
        let runner = self.context.runner;
        let refuse = || Err(runner.non_finite(Stage::Denoise));
        if runner.dtype() == DType::F32 {
            return refuse();
        }
        self.redone.set(self.redone.get() + 1);
        let region = region..region + 1;
        let controls = &self.controls;
        let gathered = gather(&self.context, controls, inputs, region.clone(), DType::F32)?;
        let eps = self.predict_batch(gathered, inputs, priors, region)?.values()?;
        if is_finite(&eps) { Ok(eps) } else { refuse() }
    }

    /// Priors of a batch of regions: one tensor per cross-attention layer, in the precision of the call; with
    /// guidance, those of the negative prompt come before those of the prompt.
    fn prior_layers(
        &self,
        batch: &[Region],
        priors: &[AttentionPrior],
        dtype: DType,
    ) -> Result<Option<Vec<Activation>>, Error> {
        if priors.is_empty() {
            return Ok(None);
        }
        let plan = &self.context.spec.plan;
        let sizes = &plan.prior_sizes;
        let rects: Vec<_> = batch.iter().map(|region| plan.geometry.share_of(region)).collect();
        let halves = (priors.iter())
            .map(|prior| prior.for_regions(&rects, sizes))
            .collect::<Result<Vec<_>, _>>()?;
        let layers = (0..sizes.len()).map(|layer| {
            Activation::cat(&halves.iter().map(|half| &half[layer]).collect::<Vec<_>>(), 0)?
                .to_dtype(dtype)
        });
        Ok(Some(layers.collect::<candle_core::Result<_>>()?))
    }

    /// Low-resolution pass of one timestep (docs/method.md §4): the outputs of all cross-attention layers for
    /// the whole picture under the global prompt; none if the prior is disabled, one without guidance, two with it.
    ///
    /// Of several devices each makes the pass for itself when it takes its first batch: one pass copied to all would let
    /// the others wait for it, and then for some hundred megabytes through the host.
    ///
    /// Guidance makes the pass a pair like every call, with two priors: one under the negative prompt, one
    /// under the global prompt. Each is blended into its own half of a region's pair. The paper does not
    /// cover guidance; we keep the halves apart because a prior blended into both would cancel out of the
    /// difference that guidance amplifies.
    fn attention_prior(&self, inputs: StepInputs<'_>) -> Result<Vec<AttentionPrior>, Error> {
        let Some(low_resolution) = inputs.low_resolution else { return Ok(Vec::new()) };
        let Context { runner, spec, .. } = self.context;
        let guidance = spec.plan.sampling.guidance;
        let shape = (1, low_resolution.height(), low_resolution.width(), low_resolution.channels());
        let mut z = Latent::in_memory(shape.1, shape.2, shape.3)?;
        diffuse(inputs.noise, low_resolution, &mut z, inputs.step.level, DRAW_LOW_RESOLUTION)?;
        let record = |dtype: DType| -> Result<Vec<Activation>, Error> {
            let mut layers = Vec::new();
            let input =
                |latent: &Latent| input_of(&self.context, latent.as_slice().to_vec(), shape, dtype);
            let sees = spec.plan.geometry.shape.sees_low_resolution;
            let zl = sees.then(|| input(low_resolution)).transpose()?;
            let f = spec.plan.geometry.shape.factor;
            let pixels = (1, f * shape.1, f * shape.2, 3);
            let controls = working(&self.controls, &self.context, inputs).map(|source| {
                let pixels = input_of(&self.context, source.whole(), pixels, dtype)?;
                Ok(control_input(source, pixels))
            });
            let controls = controls.collect::<Result<_, Error>>()?;
            runner.predict(
                &Call { z: input(&z)?, zl, timestep: inputs.step.t, guidance, controls },
                &self.conditions.global()?,
                Prior::Record(&mut layers),
            )?;
            Ok(layers)
        };
        let mut layers = record(runner.dtype())?;
        if runner.dtype() != DType::F32 && !are_finite(&layers)? {
            layers = record(DType::F32)?;
        }
        let half = |index: usize| -> candle_core::Result<AttentionPrior> {
            let of_layer = |layer: &Activation| layer.narrow(0, index, 1);
            AttentionPrior::new(layers.iter().map(of_layer).collect::<Result<_, _>>()?)
        };
        let halves = if guidance.is_some() { 2 } else { 1 };
        Ok((0..halves).map(half).collect::<Result<_, _>>()?)
    }
}

/// Noises `zl` into `z` up to a level: `z = signal·zL + spread·n` (docs/method.md §2, step 2).
///
/// # Errors
/// Latents of different sizes.
pub fn diffuse(
    noise: &NoiseField,
    zl: &Latent,
    z: &mut Latent,
    level: Level,
    draw: u32,
) -> Result<(), Error> {
    let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
    noise.fill(draw, 0..height, 0..width, channels, z.as_mut_slice())?;
    Ok(add_noise(level, zl.as_slice(), z.as_mut_slice())?)
}

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

fn are_finite(layers: &[Activation]) -> candle_core::Result<bool> {
    for layer in layers {
        // A single non-finite value makes the sum non-finite.
        if !layer.tensor()?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The controls that work in this step.
fn working<'s, 'a>(
    controls: &'s [ControlSource<'a>],
    context: &Context<'_>,
    inputs: StepInputs<'_>,
) -> impl Iterator<Item = &'s ControlSource<'a>> {
    let (index, steps) = (inputs.index, context.spec.plan.sampling.steps.len());
    controls.iter().filter(move |source| source.of.works_in(index, steps))
}

fn control_input(source: &ControlSource<'_>, pixels: Tensor) -> ControlInput {
    let of = source.of;
    ControlInput { control: of.control, scale: of.scale, kind: of.kind, pixels }
}

/// Gathers a batch of regions and copies it to the device.
fn gather(
    context: &Context<'_>,
    controls: &[ControlSource<'_>],
    inputs: StepInputs<'_>,
    range: Range<usize>,
    dtype: DType,
) -> Result<RegionBatch, Error> {
    let batch = &inputs.regions[range];
    let of = |latent: &Latent| -> Result<Tensor, Error> {
        let Region { height, width, .. } = batch[0];
        let size = height * width * latent.channels();
        let mut values = vec![0.0; size * batch.len()];
        for (region, values) in batch.iter().zip(values.chunks_exact_mut(size)) {
            latent.gather(region, values)?;
        }
        input_of(context, values, (batch.len(), height, width, latent.channels()), dtype)
    };
    let f = context.spec.plan.geometry.shape.factor;
    let Region { height, width, .. } = batch[0];
    let pixels = (batch.len(), f * height, f * width, 3);
    let controls = working(controls, context, inputs).map(|source| {
        let mut values = Vec::with_capacity(pixels.0 * pixels.1 * pixels.2 * pixels.3);
        batch.iter().for_each(|region| source.region(region, &mut values));
        Ok(control_input(source, input_of(context, values, pixels, dtype)?))
    });
    let controls = controls.collect::<Result<_, Error>>()?;
    let sees = context.spec.plan.geometry.shape.sees_low_resolution;
    Ok(RegionBatch { z: of(inputs.z)?, zl: sees.then(|| of(inputs.zl)).transpose()?, controls })
}

/// Input tensor of a call from host values.
fn input_of(
    context: &Context<'_>,
    values: Vec<f32>,
    shape: (usize, usize, usize, usize),
    dtype: DType,
) -> Result<Tensor, Error> {
    Ok(Tensor::from_vec(values, shape, context.runner.device())?.to_dtype(dtype)?)
}
