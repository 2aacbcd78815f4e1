//! Encoding: from the picture to latents, tile by tile, through the VAE's encoder.

use std::{ops::Range, path::Path};

use candle_core::{DType, Tensor};
use tracing::info_span;

use super::{
    canvased::Canvased,
    context::Context,
    layerwise::Run,
    statistics::SharedState,
    tiles::{TilePart, TilePlace, are_shared, places, share_tiles},
};
use crate::{
    canvas::Latent,
    model::vae::{GlobalState, Globals},
    pipeline::{
        error::Error,
        plan::{tiles::Span, vae_tiling::VaeTiling},
        progress::{Progress, Stage},
        retry::retry_halves,
        work::{folder::WorkFolder, journal::Record},
    },
};

/// Encodes the resized picture onto the canvas of the plan's size: zL of docs/method.md §2.
///
/// # Errors
/// Errors of the picture, the autoencoder and the work folder; non-finite values; an interruption.
pub fn canvas(
    context: &Context<'_>,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let _span = info_span!("encode").entered();
    let plan = &context.spec.plan;
    let size = plan.geometry.canvas;
    let source = Canvased::new(context.source(), size.width, size.height)?;
    let WorkFolder { path, files, journal, .. } = work;
    let zl = &mut files.zl;
    let tiles = places(plan);
    let done = journal.done().tiles;
    progress.begin(Stage::Encode, tiles.len());
    progress.resumed(done);
    let left = &tiles[done..];
    if left.is_empty() {
        return Ok(());
    }
    let size = (size.latent_height, size.latent_width);
    let mut whole = WholeCanvas::new(context, path, size, left.len());
    let mut keep = |index: usize, zl: &Latent| {
        let (row, _) = left[index];
        zl.flush_rows(row.core.clone()).map_err(|error| journal.failed(error))?;
        journal.append(Record::Encoded { tiles: done + index + 1 })
    };
    if !are_shared(plan) {
        for (index, (row, column)) in left.iter().enumerate() {
            if progress.interrupted() {
                return Err(Error::Interrupted(None));
            }
            retry_halves(row, column, &mut |row, column| {
                tile(context, &source, &mut whole, zl, progress, (row, column))
            })?;
            keep(index, zl)?;
            if !whole.is_encoded {
                progress.advance(1);
            }
        }
        return Ok(());
    }
    let state = match plan.vae_tiling {
        VaeTiling::Sampled => Some(whole.state(context, &source)?),
        VaeTiling::Independent | VaeTiling::Layerwise { .. } => None,
    };
    share_tiles(
        context,
        left,
        state,
        progress,
        |context, globals, tile| encoded(context, &source, globals, tile),
        |index, parts, progress| {
            for TilePart { row, column, values } in parts {
                place(context, zl, (&row.core, &column.core), &values)?;
            }
            keep(index, zl)?;
            progress.advance(1);
            Ok(())
        },
    )
}

/// Encodes the whole picture at the model's native size, if the plan has a low-resolution pass.
///
/// # Errors
/// See [`canvas`].
pub fn low_resolution(
    context: &Context<'_>,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let _span = info_span!("encode_low_resolution").entered();
    let WorkFolder { path, files, journal, .. } = work;
    let latent = &mut files.low_resolution;
    let Some(latent) = latent.as_mut().filter(|_| !journal.done().low_resolution) else {
        return Ok(());
    };
    let (height, width) = (latent.height(), latent.width());
    let geometry = &context.spec.plan.geometry;
    let factor = geometry.shape.factor;
    let source = Canvased::new(context.picture, width * factor, height * factor)?;
    // The progress counts no tile of it.
    let mut whole = WholeCanvas::new(context, path, (height, width), 0);
    // About the size of one region, hence a single tile.
    let span = |length: usize| Span { core: 0..length, length, padding: geometry.vae_padding };
    let (row, column) = (span(height), span(width));
    retry_halves(&row, &column, &mut |row, column| {
        tile(context, &source, &mut whole, latent, progress, (row, column))
    })?;
    latent.flush_rows(0..height).map_err(|error| journal.failed(error))?;
    journal.append(Record::LowResolution)
}

/// The pixels of columns `x` and rows `y`, in latent pixels, for the encoder: `[1, f·y, f·x, 3]`.
fn pixels(
    context: &Context<'_>,
    source: &Canvased<'_>,
    x: Range<usize>,
    y: Range<usize>,
) -> Result<Tensor, Error> {
    let f = context.spec.plan.geometry.shape.factor;
    let in_pixels = |range: Range<usize>| range.start * f..range.end * f;
    source_pixels(context, source, &in_pixels(x), &in_pixels(y))
}

/// The pixels of columns `x` and rows `y`, `[1, y, x, 3]`.
fn source_pixels(
    context: &Context<'_>,
    source: &Canvased<'_>,
    x: &Range<usize>,
    y: &Range<usize>,
) -> Result<Tensor, Error> {
    let window = source.window(x.clone(), y.clone());
    Ok(Tensor::from_vec(window, (1, y.len(), x.len(), 3), context.runner.device())?)
}

/// What the tiles of a canvas take from the whole of it, computed when the first of them needs it.
struct WholeCanvas<'a> {
    /// Folder of the maps.
    folder: &'a Path,
    /// Tiles that the progress counts for a pass layer by layer.
    tiles: usize,
    /// All tiles have come from such a pass.
    is_encoded: bool,
    shared: SharedState<'a>,
}

impl<'a> WholeCanvas<'a> {
    /// That of a canvas of this height and width in latent pixels.
    fn new(context: &'a Context<'a>, folder: &'a Path, size: (usize, usize), tiles: usize) -> Self {
        Self { folder, tiles, is_encoded: false, shared: SharedState::new(context, size) }
    }

    /// The global state of its tiles.
    fn state(
        &mut self,
        context: &Context<'_>,
        source: &Canvased<'_>,
    ) -> Result<&GlobalState, Error> {
        self.shared.state(
            |sample| pixels(context, source, sample.x.clone(), sample.y.clone()),
            |samples, globals| context.runner.encode(samples, globals),
        )
    }

    /// Encodes the whole canvas, unless it is; `tile` is the first tile that is asked for.
    fn encode(
        &mut self,
        context: &Context<'_>,
        source: &Canvased<'_>,
        latent: &mut Latent,
        progress: &mut dyn Progress,
        tile: TilePlace<'_>,
    ) -> Result<(), Error> {
        if self.is_encoded {
            return Ok(());
        }
        let latents = (latent.height(), latent.width());
        Run { context, folder: self.folder, latents, tile, tiles: self.tiles }.run(
            progress,
            &|context, window| source_pixels(context, source, &window.columns, &window.rows),
            &mut |window, values| place(context, latent, (&window.rows, &window.columns), values),
            &|runner, size, maps| runner.encode_layerwise(size, maps),
        )?;
        self.is_encoded = true;
        Ok(())
    }
}

/// Encodes the core of one tile into its place.
fn tile(
    context: &Context<'_>,
    source: &Canvased<'_>,
    whole: &mut WholeCanvas<'_>,
    latent: &mut Latent,
    progress: &mut dyn Progress,
    (row, column): TilePlace<'_>,
) -> Result<(), Error> {
    let globals = match context.spec.plan.vae_tiling.of_tile((row, column)) {
        VaeTiling::Independent => Globals::Own,
        VaeTiling::Layerwise { .. } => {
            return whole.encode(context, source, latent, progress, (row, column));
        }
        VaeTiling::Sampled => Globals::Shared(whole.state(context, source)?),
    };
    let core = encoded(context, source, globals, (row, column))?;
    place(context, latent, (&row.core, &column.core), &core)
}

/// The core of one tile, `[rows, columns, C]`.
fn encoded(
    context: &Context<'_>,
    source: &Canvased<'_>,
    globals: Globals<'_>,
    (row, column): TilePlace<'_>,
) -> Result<Vec<f32>, Error> {
    let window = pixels(context, source, column.padded(), row.padded())?;
    let core = context
        .runner
        .encode(&window, globals)?
        .narrow(1, row.before(), row.core.len())?
        .narrow(2, column.before(), column.core.len())?;
    Ok(core.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Puts the values of these rows and columns into their place.
fn place(
    context: &Context<'_>,
    latent: &mut Latent,
    (rows, columns): (&Range<usize>, &Range<usize>),
    values: &[f32],
) -> Result<(), Error> {
    if !values.iter().all(|value| value.is_finite()) {
        return Err(context.runner.non_finite(Stage::Encode));
    }
    let (width, channels) = (latent.width(), latent.channels());
    let length = columns.len() * channels;
    for (line, y) in values.chunks_exact(length).zip(rows.clone()) {
        let at = (y * width + columns.start) * channels;
        latent.as_mut_slice()[at..at + length].copy_from_slice(line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::{
        super::testing::{
            Bench, CHANNELS, FACTOR, Fake, Watcher, context, context_of, exhausted, job, picture,
        },
        *,
    };
    use crate::pipeline::{job::JobSpec, plan::Plan, runner::Compute, settings::Settings};

    /// The canvas that the fake autoencoder makes of all pixels at once.
    fn expected(context: &Context<'_>) -> Vec<f32> {
        let size = context.spec.plan.geometry.canvas;
        let source = Canvased::new(context.picture, size.width, size.height).unwrap();
        let (height, width) = (size.latent_height, size.latent_width);
        let (h, w) = (height * FACTOR, width * FACTOR);
        let pixels = source.window(0..w, 0..h);
        let mut canvas = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let at = (y * FACTOR * width * FACTOR + x * FACTOR) * 3;
                canvas.extend([0, 1, 2, 0].map(|channel| pixels[at + channel]));
            }
        }
        canvas
    }

    #[test]
    fn tiles_are_put_together_to_the_whole_and_a_stopped_stage_goes_on_where_it_was() {
        let (runner, picture, bench) = (Fake::idle(), picture(), Bench::new());
        let spec = job(Settings::default());
        let context = context(&runner, &picture, &spec);
        let mut watcher = Watcher { stop_at: Some(2), ..Watcher::default() };
        let error = canvas(&context, &mut bench.open(&spec), &mut watcher).unwrap_err();
        assert!(matches!(error, Error::Interrupted(None)));
        let mut work = bench.open(&spec);
        assert_eq!(work.journal.done().tiles, 2);
        let mut watcher = Watcher::default();
        canvas(&context, &mut work, &mut watcher).unwrap();
        assert_eq!((watcher.done, watcher.total), (6, 6));
        assert_eq!(*runner.passes.lock().unwrap(), 6);
        assert_eq!(work.files.zl.channels(), CHANNELS);
        assert_eq!(work.files.zl.as_slice(), expected(&context));
    }

    /// How several tiles may come to agree.
    const AGREEING: [VaeTiling; 2] = [VaeTiling::Layerwise { map_bytes: 0 }, VaeTiling::Sampled];

    /// A job for the small autoencoder with norms, whose tiles agree in this way, in tiles of so many pixels.
    fn job_with_norms(vae: &Fake, vae_tiling: VaeTiling, tile: usize) -> JobSpec {
        let mut spec = job(Settings::default());
        let Plan { geometry, tile_rows, tile_columns, .. } = &mut spec.plan;
        geometry.vae_padding = vae.vae.as_ref().unwrap().context();
        *tile_rows = geometry.tiles(geometry.canvas.latent_height, tile);
        *tile_columns = geometry.tiles(geometry.canvas.latent_width, tile);
        spec.plan.vae_tiling = vae_tiling;
        spec
    }

    /// The largest difference between zL and the whole picture in one pass, whose sides no factor divides.
    fn difference_from_the_model(vae_tiling: VaeTiling, tile: usize) -> f32 {
        let (runner, bench) = (Fake::with_vae(), Bench::new());
        let spec = job_with_norms(&runner, vae_tiling, tile);
        let size = spec.plan.geometry.canvas;
        let picture = picture();
        let context = context(&runner, &picture, &spec);
        let mut work = bench.open(&spec);
        canvas(&context, &mut work, &mut Watcher::default()).unwrap();
        let source = Canvased::new(&picture, size.width, size.height).unwrap();
        let (height, width) = (size.latent_height * FACTOR, size.latent_width * FACTOR);
        let pixels = source.window(0..width, 0..height);
        let pixels = Tensor::from_vec(pixels, (1, height, width, 3), &candle_core::Device::Cpu);
        let vae = runner.vae.as_ref().unwrap();
        let whole = vae.encode(&pixels.unwrap().into()).unwrap().into_tensor().unwrap();
        let whole: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
        let pairs = whole.iter().zip(work.files.zl.as_slice());
        pairs.map(|(whole, ours)| (whole - ours).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_canvas_in_one_tile_is_the_models_own_and_tiles_that_agree_equal_it() {
        for tiling in AGREEING {
            assert_eq!(difference_from_the_model(tiling, 1000), 0.0, "{tiling:?}");
            // The samples of so small a canvas are all of it.
            let tiled = difference_from_the_model(tiling, 16);
            assert!(tiled < 1e-5, "{tiling:?}: {tiled}");
        }
    }

    #[test]
    fn devices_that_share_the_tiles_encode_what_one_does() {
        let picture = picture();
        for tiling in [VaeTiling::Independent, AGREEING[0], AGREEING[1]] {
            let encoded = |devices: usize| {
                let (runners, bench) = ([0, 1, 2].map(|_| Fake::with_vae()), Bench::new());
                let spec = job_with_norms(&runners[0], tiling, 16);
                let others: [&dyn Compute; 2] = [&runners[1], &runners[2]];
                let context = context_of(&runners[0], &others[..devices - 1], &picture, &spec);
                let mut work = bench.open(&spec);
                let mut watcher = Watcher::default();
                canvas(&context, &mut work, &mut watcher).unwrap();
                assert_eq!((watcher.done, work.journal.done().tiles), (12, 12));
                work.files.zl.as_slice().to_vec()
            };
            let expected = encoded(1);
            for devices in [2, 3] {
                assert_eq!(encoded(devices), expected, "{tiling:?}, {devices} devices");
            }
        }
    }

    #[test]
    fn on_a_device_that_is_full_blocks_of_layers_get_smaller() {
        let (mut runner, picture, bench) = (Fake::with_vae(), picture(), Bench::new());
        let spec = job_with_norms(&runner, AGREEING[0], 20);
        let mut encoded = Vec::new();
        // Largest sides of a block: of a tile of 10 in one try, and in three.
        for (room, tries) in [(10, 1), (4, 3)] {
            runner.room = room;
            *runner.passes.lock().unwrap() = 0;
            let mut work = bench.open(&spec);
            let mut watcher = Watcher::default();
            canvas(&context(&runner, &picture, &spec), &mut work, &mut watcher).unwrap();
            assert_eq!((watcher.done, watcher.total), (6, 6));
            assert_eq!(*runner.passes.lock().unwrap(), tries);
            encoded.push(work.files.zl.as_slice().to_vec());
            work.remove();
        }
        let pairs = encoded[0].iter().zip(&encoded[1]);
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
        // Beside one that is not full: both begin again.
        let roomy = Fake::with_vae();
        let others: [&dyn Compute; 1] = [&runner];
        let mut work = bench.open(&spec);
        let context = context_of(&roomy, &others, &picture, &spec);
        canvas(&context, &mut work, &mut Watcher::default()).unwrap();
        assert_eq!(*roomy.passes.lock().unwrap(), 3);
        assert_eq!(work.files.zl.as_slice(), encoded[1]);
    }

    #[test]
    fn a_device_that_breaks_off_between_layers_keeps_no_other_waiting() {
        let (runner, picture, bench) = (Fake::with_vae(), picture(), Bench::new());
        let spec = job_with_norms(&runner, AGREEING[0], 16);
        // It has no autoencoder, and panics for it.
        let broken = Fake::idle();
        let others: [&dyn Compute; 2] = [&broken, &runner];
        let context = context_of(&runner, &others, &picture, &spec);
        let mut work = bench.open(&spec);
        let encode = || canvas(&context, &mut work, &mut Watcher::default());
        assert!(catch_unwind(AssertUnwindSafe(encode)).is_err());
        // Told to stop, all of them do.
        let others: [&dyn Compute; 1] = [&runner];
        let context = context_of(&runner, &others, &picture, &spec);
        let mut watcher = Watcher { stop_at: Some(1), ..Watcher::default() };
        let error = canvas(&context, &mut work, &mut watcher).unwrap_err();
        assert!(matches!(error, Error::Interrupted(None)), "{error}");
        assert_eq!(work.journal.done().tiles, 0);
    }

    #[test]
    fn a_device_that_is_full_is_given_halves_of_tiles_and_numbers_that_are_none_are_refused() {
        let (mut runner, picture, bench) = (Fake::idle(), picture(), Bench::new());
        runner.room = 0;
        let spec = job(Settings::default());
        let mut work = bench.open(&spec);
        let result = canvas(&context(&runner, &picture, &spec), &mut work, &mut Watcher::default());
        assert!(matches!(result, Err(Error::OutOfMemory)), "{:?}", exhausted());
        assert!(*runner.passes.lock().unwrap() > 3);
    }
}
