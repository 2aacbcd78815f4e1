//! Memory needs and work of the first enlargement: its steps run on shapes alone, tile by tile as its stage runs them.

use candle_core::DType;

use super::{
    first::{FirstDraft, FirstPass, FirstPlan, LAST_ROWS},
    needs::{Draft, Needs},
    pass::PassMemory,
    tiles::{Span, spans},
};
use crate::{
    backend::{Activation, Trace},
    image::MEMORY_BYTES,
    model::enlarger::{Enlarger, Shortcut},
    pipeline::{
        error::Error,
        finish::{BAND, PIXEL_BYTES},
        protect,
        runner::Compute as _,
    },
};

impl Draft<'_> {
    /// Needs of writing the resized input alone.
    pub fn resize(&self) -> Needs {
        let band = BAND * self.geometry.canvas.width * PIXEL_BYTES;
        Needs { host_working: 4 * band, ..Needs::default() }
    }

    /// Bytes in memory of what the first enlarger makes.
    pub fn enlarged_bytes(&self) -> usize {
        let canvas = self.geometry.canvas;
        let of_first = |_: &FirstDraft| in_memory((canvas.width as u32, canvas.height as u32));
        self.first.map_or(0, of_first)
    }

    /// Needs of the first enlargement in tiles of this side.
    ///
    /// # Errors
    /// Errors of the blueprint.
    pub fn enlarge(&self, tile: usize) -> Result<Needs, Error> {
        let mut needs = Needs::default();
        let enlarging = self.enlarging(tile)?;
        // Rows gather while the network is at work.
        needs.host = enlarging.host;
        needs.add(&PassMemory { host: 0, ..enlarging });
        Ok(needs)
    }

    /// Memory and products of the first enlargement in tiles of this side.
    ///
    /// # Errors
    /// Errors of the blueprint.
    pub(super) fn enlarging(&self, tile: usize) -> Result<PassMemory, Error> {
        let mut whole = PassMemory::default();
        let Some(FirstDraft { plan, network, .. }) = self.first else { return Ok(whole) };
        for (index, pass) in plan.passes.iter().enumerate() {
            let mut memory = self.first_pass(network, plan.places(pass), tile)?;
            memory.host = first_host(plan, index, pass);
            whole = PassMemory {
                peak: whole.peak.max(memory.peak),
                scratch: whole.scratch.max(memory.scratch),
                host: whole.host.max(memory.host),
                products: whole.products + memory.products,
                recorded: 0,
            };
        }
        Ok(whole)
    }

    /// A pass of the first enlarger over maps of a height and a width, as its stage runs it
    /// (`pipeline/stages/enlarge.rs`).
    fn first_pass(
        &self,
        network: &Enlarger,
        (height, width): (usize, usize),
        tile: usize,
    ) -> Result<PassMemory, Error> {
        let config = network.config();
        let is_whole = height.max(width) <= tile;
        let map_bytes =
            |(height, width): (usize, usize)| height * width * config.features() * size_of::<f32>();
        let mut sum = PassMemory::default();
        let mut run = |core: (usize, usize), context, held: usize, step: &FirstStep<'_>| {
            let (rows, columns) = (spans(height, core.0, context), spans(width, core.1, context));
            let most = |spans: &[Span], length: usize| {
                let core = spans.iter().map(|span| span.core.len()).max().unwrap_or(1);
                (core + 2 * context).min(length)
            };
            let size = (most(&rows, height), most(&columns, width));
            let trace = Trace::new(self.runner.device());
            let _held = trace.hold(held);
            // What a step is given, on its way to the device.
            let given = trace.hold(map_bytes(size));
            let y = step(&trace, size)?;
            drop(given);
            // On its way to its place.
            trace.pass(2 * y.bytes());
            drop(y);
            let padded =
                |spans: &[Span]| -> usize { spans.iter().map(|span| span.padded().len()).sum() };
            let tiles = (padded(&rows) * padded(&columns)) as f64 / (size.0 * size.1) as f64;
            sum.peak = sum.peak.max(trace.peak());
            sum.scratch = sum.scratch.max(trace.scratch_bytes());
            sum.products += trace.products() * tiles;
            Ok::<_, Error>(())
        };
        let map = map_bytes((height, width));
        // Maps that are on the device: the one that a step is given is counted as its own.
        let held = |step: usize| match (is_whole, network.shortcut()) {
            (true, Shortcut::FirstStep) if step > 1 => map,
            _ => 0,
        };
        let unit = config.unit();
        let picture = |trace: &Trace, (height, width): (usize, usize)| {
            trace.activation((1, height * unit, width * unit, 3), DType::F32)
        };
        let maps = |trace: &Trace, (height, width): (usize, usize)| {
            trace.activation((1, height, width, config.features()), DType::F32)
        };
        for step in 0..network.steps() {
            run((tile, tile), network.context(step), held(step), &|trace, size| {
                let x = if step == 0 { picture(trace, size) } else { maps(trace, size) };
                Ok(network.step(step, &x)?)
            })?;
        }
        let steps = network.steps();
        let whole_maps = if is_whole { map } else { 0 };
        let held = held(steps) + whole_maps;
        run((LAST_ROWS, tile), network.context(steps), held, &|trace, size| {
            let shortcut = match network.shortcut() {
                Shortcut::FirstStep => maps(trace, size),
                Shortcut::Picture => picture(trace, size),
            };
            Ok(network.last(&maps(trace, size), &shortcut)?)
        })?;
        Ok(sum)
    }
}

/// A step of the first enlarger on maps of a size.
type FirstStep<'a> = dyn Fn(&Trace, (usize, usize)) -> Result<Activation, Error> + 'a;

/// Bytes in memory of a picture of this width and height; those of a large one are in a file.
fn in_memory((width, height): (u32, u32)) -> usize {
    let bytes = width as usize * height as usize * PIXEL_BYTES;
    if bytes as u64 <= MEMORY_BYTES { bytes } else { 0 }
}

/// Host memory of a pass of the first enlarger: the rows that are made at once and what they are resized from and to, and
/// the pictures between passes.
fn first_host(plan: &FirstPlan, index: usize, pass: &FirstPass) -> usize {
    let ((made_width, made_height), (width, height)) = (plan.made(pass), pass.to);
    let lines = LAST_ROWS * plan.network.outputs();
    let band = lines.min(made_height as usize) * made_width as usize * PIXEL_BYTES;
    let stretch = f64::from(made_height) / f64::from(height);
    let kept = lines + (6.0 * stretch.max(1.0)).ceil() as usize;
    let made = (lines as f64 / stretch).ceil() as usize;
    let resized = match (made_width, made_height) == pass.to {
        true => 0,
        false => (kept + made) * width as usize * PIXEL_BYTES,
    };
    // What is brought back to the input.
    let around = (made.max(1) + 2 * protect::RADIUS).min(height as usize);
    let compared = around * width as usize * PIXEL_BYTES * protect::PLANES;
    let given = if index > 0 { in_memory(pass.from) } else { 0 };
    let next = if index + 1 < plan.passes.len() { in_memory(pass.to) } else { 0 };
    band + resized + compared + given + next
}
