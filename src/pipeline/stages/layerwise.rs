//! An autoencoder whose norms and attention see the whole canvas, on a canvas of more than one tile: layer by layer, each
//! in blocks of a tile's size, with the maps between them in the work folder (docs/method.md §6).
//!
//! Several devices share the blocks of every layer: each makes the pass with its own weights, takes blocks that none of
//! the others has, and waits for them at the end of the layer. The maps are common to all.

use std::{
    cell::Cell,
    panic::resume_unwind,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, Builder},
    time::Duration,
};

use candle_core::{DType, Tensor};
use tracing::Span as TracingSpan;

use super::{
    context::Context,
    shared_maps::{SharedMaps, StopOnDrop},
};
use crate::{
    backend::Activation,
    model::vae::{FeatureMaps, LayerPart, LayerwiseSize, MapId, Window},
    pipeline::{
        error::Error, plan::tiles::Span, progress::Progress, retry::retry_smaller, runner::Compute,
    },
};

/// Gives a window of what is encoded or decoded, on a context's device.
type Input<'a> = dyn Fn(&Context<'_>, &Window) -> Result<Tensor, Error> + Sync + 'a;
/// Takes a window of the result.
type Output<'a> = dyn FnMut(&Window, &[f32]) -> Result<(), Error> + Send + 'a;
/// The encoder or the decoder of a device.
type Pass<'a> =
    dyn Fn(&dyn Compute, LayerwiseSize, &mut dyn FeatureMaps) -> Result<(), Error> + Sync + 'a;

/// Interval at which an interruption is polled while several devices compute.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// One run through the encoder or the decoder.
pub struct Run<'a> {
    pub context: &'a Context<'a>,
    /// Folder of the maps.
    pub folder: &'a Path,
    /// Height and width of the canvas in latent pixels.
    pub latents: (usize, usize),
    /// The tile whose core is the size of a block.
    pub tile: (&'a Span, &'a Span),
    /// Tiles that the progress counts for the run.
    pub tiles: usize,
}

impl Run<'_> {
    /// Runs `pass` with the windows of `input`, and hands those of its output to `output`. Where a device has no
    /// memory for a block, blocks get smaller.
    ///
    /// # Errors
    /// Errors of `input`, `output` and `pass`; a full disk; an interruption; a device without memory for any block.
    pub fn run(
        self,
        progress: &mut dyn Progress,
        input: &Input<'_>,
        output: &mut Output<'_>,
        pass: &Pass<'_>,
    ) -> Result<(), Error> {
        let (row, column) = self.tile;
        let block = Cell::new(row.core.len().max(column.core.len()));
        let mut told = Told { tiles: self.tiles, told: 0 };
        retry_smaller(&block, |block| {
            let size = LayerwiseSize { latents: self.latents, block };
            let contexts: Vec<Context<'_>> = self.context.on_each().collect();
            let shared = SharedMaps::new(self.folder, contexts.len(), &mut *output);
            let attempt = Attempt { shared: &shared, input, pass, size };
            match contexts.as_slice() {
                [context] => attempt.on(context, Watch::Here(&mut *progress, &mut told)),
                several => on_several(several, &attempt, &mut *progress, &mut told),
            }
        })
    }
}

/// One pass, in blocks of one size.
struct Attempt<'a, 'b> {
    shared: &'a SharedMaps<'b>,
    input: &'a Input<'a>,
    pass: &'a Pass<'a>,
    size: LayerwiseSize,
}

impl Attempt<'_, '_> {
    /// Makes the pass, or a device's share of it, on the context's first device.
    fn on(&self, context: &Context<'_>, watch: Watch<'_>) -> Result<(), Error> {
        let &Self { shared, input, pass, size } = self;
        let mut maps = Maps { context, shared, input, watch, failed: None };
        let result = pass(context.runner, size, &mut maps);
        maps.failed.take().map_or(result, Err)
    }
}

/// Makes `attempt` on the device of every context, each on a thread, and watches them from this one.
fn on_several(
    contexts: &[Context<'_>],
    attempt: &Attempt<'_, '_>,
    progress: &mut dyn Progress,
    told: &mut Told,
) -> Result<(), Error> {
    let shared = attempt.shared;
    let (sender, messages) = mpsc::channel();
    let span = TracingSpan::current();
    thread::scope(|scope| {
        let (mut threads, mut failed) = (Vec::new(), None);
        for context in contexts {
            let (sender, span) = (sender.clone(), span.clone());
            let run = move || {
                let (_stop, _span) = (StopOnDrop(shared), span.entered());
                if let Err(error) = attempt.on(context, Watch::Elsewhere(&sender)) {
                    let _ = sender.send(Message::Failed(error));
                }
            };
            match Builder::new().name("runner".to_owned()).spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    shared.stop();
                    failed = Some(Error::Thread { source });
                    break;
                }
            }
        }
        drop(sender);
        loop {
            if failed.is_none() && progress.interrupted() {
                shared.stop();
                failed = Some(Error::Interrupted(None));
            }
            match messages.recv_timeout(POLL_INTERVAL) {
                Ok(Message::Layers { done, of }) => told.layers(progress, done, of),
                // The first counts: the others fail because of it.
                Ok(Message::Failed(error)) => {
                    failed.get_or_insert(error);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        failed.map_or(Ok(()), Err)
    })
}

/// What a device's thread sends.
enum Message {
    /// Layers that are done, and all.
    Layers {
        done: usize,
        of: usize,
    },
    Failed(Error),
}

/// Tiles that the progress has been told of, of those that it counts.
struct Told {
    tiles: usize,
    told: usize,
}

impl Told {
    fn layers(&mut self, progress: &mut dyn Progress, done: usize, of: usize) {
        let tiles = self.tiles * done / of.max(1);
        if tiles > self.told {
            progress.advance(tiles - self.told);
            self.told = tiles;
        }
    }
}

/// Who watches a pass.
enum Watch<'a> {
    /// The pass, which is the only one, and on the progress's thread.
    Here(&'a mut dyn Progress, &'a mut Told),
    /// Another thread.
    Elsewhere(&'a Sender<Message>),
}

/// The maps as one device's pass sees them.
struct Maps<'a, 'b, 'c> {
    context: &'a Context<'a>,
    shared: &'a SharedMaps<'b>,
    input: &'a Input<'a>,
    watch: Watch<'c>,
    /// What ended the pass, if it was not the backend.
    failed: Option<Error>,
}

impl Maps<'_, '_, '_> {
    /// Keeps an error that is none of the backend's, which ends the pass by one that is.
    fn kept<T>(&mut self, result: Result<T, Error>) -> candle_core::Result<T> {
        result.map_err(|error| match error {
            Error::Tensor(error) => error,
            error => {
                let told = candle_core::Error::Msg(error.to_string());
                self.failed = Some(error);
                told
            }
        })
    }
}

impl FeatureMaps for Maps<'_, '_, '_> {
    fn input(&mut self, window: &Window) -> candle_core::Result<Activation> {
        let input = (self.input)(self.context, window);
        self.kept(input).map(Activation::from)
    }

    fn output(&mut self, window: &Window, values: &Activation) -> candle_core::Result<()> {
        let taken = self.shared.output(window, &host_values(values)?);
        self.kept(taken)
    }

    fn create(
        &mut self,
        (_, width, channels): (usize, usize, usize),
    ) -> candle_core::Result<MapId> {
        let created = self.shared.create((width, channels));
        self.kept(created)
    }

    fn read(&mut self, map: MapId, window: &Window) -> candle_core::Result<Activation> {
        let read = self.shared.read(map, window);
        let (values, channels) = self.kept(read)?;
        let shape = (1, window.rows.len(), window.columns.len(), channels);
        Tensor::from_vec(values, shape, self.context.runner.device()).map(Activation::from)
    }

    fn write(
        &mut self,
        map: MapId,
        window: &Window,
        values: &Activation,
    ) -> candle_core::Result<()> {
        if let Watch::Here(progress, _) = &self.watch
            && progress.interrupted()
        {
            return self.kept(Err(Error::Interrupted(None)));
        }
        let written = self.shared.write(map, window, &host_values(values)?);
        self.kept(written)
    }

    fn remove(&mut self, map: MapId) {
        self.shared.remove(map);
    }

    fn advance(&mut self, done: usize, of: usize) {
        match &mut self.watch {
            Watch::Here(progress, told) => told.layers(&mut **progress, done, of),
            // Every device says so, and the first counts.
            Watch::Elsewhere(sender) => drop(sender.send(Message::Layers { done, of })),
        }
    }

    fn takes(&mut self, block: usize) -> bool {
        self.shared.takes(block)
    }

    fn end_layer(&mut self, part: LayerPart) -> candle_core::Result<LayerPart> {
        self.shared.end_layer(part)
    }
}

fn host_values(values: &Activation) -> candle_core::Result<Vec<f32>> {
    values.tensor()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
