//! Encoding: from the picture to latents, tile by tile, through the VAE's encoder.

use std::ops::Range;

use candle_core::{DType, Tensor};
use tracing::info_span;

use super::{canvased::Canvased, context::Context, statistics::SharedState};
use crate::{
    canvas::Latent,
    pipeline::{
        error::Error,
        plan::tiles::Span,
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
    let source = Canvased::new(context.picture, size.width, size.height)?;
    let (zl, journal) = (&mut work.files.zl, &mut work.journal);
    let tiles = plan
        .tile_rows
        .iter()
        .flat_map(|row| plan.tile_columns.iter().map(move |column| (row, column)));
    let done = journal.done().tiles;
    progress.begin(Stage::Encode, plan.tile_rows.len() * plan.tile_columns.len());
    progress.advance(done);
    if done == plan.tile_rows.len() * plan.tile_columns.len() {
        return Ok(());
    }
    let mut shared = SharedState::new(context, (size.latent_height, size.latent_width));
    for (index, (row, column)) in tiles.enumerate().skip(done) {
        if progress.interrupted() {
            return Err(Error::Interrupted(None));
        }
        retry_halves(row, column, &mut |row, column| {
            tile(context, &source, &mut shared, zl, (row, column))
        })?;
        zl.flush_rows(row.core.clone()).map_err(|error| journal.failed(error))?;
        journal.append(Record::Encoded { tiles: index + 1 })?;
        progress.advance(1);
    }
    Ok(())
}

/// Encodes the whole picture at the model's native size, if the plan has a low-resolution pass.
///
/// # Errors
/// See [`canvas`].
pub fn low_resolution(context: &Context<'_>, work: &mut WorkFolder) -> Result<(), Error> {
    let _span = info_span!("encode_low_resolution").entered();
    let (latent, journal) = (&mut work.files.low_resolution, &mut work.journal);
    let Some(latent) = latent.as_mut().filter(|_| !journal.done().low_resolution) else {
        return Ok(());
    };
    let (height, width) = (latent.height(), latent.width());
    let geometry = &context.spec.plan.geometry;
    let factor = geometry.shape.factor;
    let source = Canvased::new(context.picture, width * factor, height * factor)?;
    let mut shared = SharedState::new(context, (height, width));
    // About the size of one region, hence a single tile.
    let whole = |length: usize| Span { core: 0..length, length, padding: geometry.vae_padding };
    let (row, column) = (whole(height), whole(width));
    retry_halves(&row, &column, &mut |row, column| {
        tile(context, &source, &mut shared, latent, (row, column))
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
    let (x, y) = (in_pixels(x), in_pixels(y));
    let window = source.window(x.clone(), y.clone());
    Ok(Tensor::from_vec(window, (1, y.len(), x.len(), 3), context.runner.device())?)
}

/// Encodes the core of one tile into its place.
fn tile(
    context: &Context<'_>,
    source: &Canvased<'_>,
    shared: &mut SharedState<'_>,
    latent: &mut Latent,
    (row, column): (&Span, &Span),
) -> Result<(), Error> {
    let globals = shared.of_tile(
        (row, column),
        |sample| pixels(context, source, sample.x.clone(), sample.y.clone()),
        |samples, globals| context.runner.encode(samples, globals),
    )?;
    let window = pixels(context, source, column.padded(), row.padded())?;
    let core: Vec<f32> = context
        .runner
        .encode(&window, globals)?
        .narrow(1, row.before(), row.core.len())?
        .narrow(2, column.before(), column.core.len())?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()?;
    if !core.iter().all(|value| value.is_finite()) {
        return Err(context.runner.non_finite(Stage::Encode));
    }
    let (width, channels) = (latent.width(), latent.channels());
    let length = column.core.len() * channels;
    for (line, y) in core.chunks_exact(length).zip(row.core.clone()) {
        let at = (y * width + column.core.start) * channels;
        latent.as_mut_slice()[at..at + length].copy_from_slice(line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{
            Bench, CHANNELS, FACTOR, Fake, Watcher, context, exhausted, job, picture,
        },
        *,
    };
    use crate::pipeline::settings::Settings;

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

    /// The largest difference between zL and the whole picture in one pass, whose sides no factor divides.
    fn difference_from_the_model(tiles: Option<usize>) -> f32 {
        let (runner, bench) = (Fake::with_vae(), Bench::new());
        let mut spec = job(Settings::default());
        spec.plan.geometry.vae_padding = runner.vae.as_ref().unwrap().context();
        spec.plan.geometry.has_global_state = true;
        let size = spec.plan.geometry.canvas;
        let tile = tiles.unwrap_or(1000);
        spec.plan.tile_rows = spec.plan.geometry.tiles(size.latent_height, tile);
        spec.plan.tile_columns = spec.plan.geometry.tiles(size.latent_width, tile);
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
    fn a_canvas_in_one_tile_is_the_models_own_and_tiles_come_close() {
        assert_eq!(difference_from_the_model(None), 0.0);
        // The samples are the whole canvas.
        let tiled = difference_from_the_model(Some(16));
        assert!(tiled < 1e-4, "{tiled}");
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
