//! From the picture to latents: the resized input, tile by tile, through the VAE's encoder.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::{
    canvas::Latent,
    image::{Picture, Resizer},
    model::vae::{NormStatistics, Norms},
};

use super::statistics;
use crate::pipeline::{
    error::Error,
    model::Engine,
    plan::{
        Plan,
        tiles::{Span, mirrored},
    },
    progress::{Progress, Stage},
    retry::retry_halves,
    work::{folder::WorkFolder, journal::Record},
};

/// The resized picture, continued by reflection on every side: past its end it fills the canvas.
pub(crate) struct Canvased<'a> {
    resizer: Resizer<'a>,
    width: usize,
    height: usize,
}

impl<'a> Canvased<'a> {
    /// `picture` resized to `width × height` image pixels.
    pub fn new(picture: &'a Picture, width: usize, height: usize) -> Result<Self, Error> {
        Ok(Self { resizer: picture.resizer(width as u32, height as u32)?, width, height })
    }

    /// The window of columns `x` and rows `y`, `[y, x, 3]`, in the VAE's range −1..=1.
    pub fn window(&self, x: Range<isize>, y: Range<isize>) -> Vec<f32> {
        // Mirrored pixels lie elsewhere in the picture: widen the window until it holds them.
        let source = |range: &Range<isize>, length: usize| {
            let mirrored = range.clone().map(|at| mirrored(at, length));
            let (low, high) =
                mirrored.fold((length, 0), |(low, high), at| (low.min(at), high.max(at)));
            low..high + 1
        };
        let (source_x, source_y) = (source(&x, self.width), source(&y, self.height));
        let pixels = self.resizer.window(
            source_x.start as u32..source_x.end as u32,
            source_y.start as u32..source_y.end as u32,
        );
        let row = source_x.len() * 3;
        let mut out = Vec::with_capacity(x.len() * y.len() * 3);
        for y in y {
            let line = &pixels[(mirrored(y, self.height) - source_y.start) * row..][..row];
            for x in x.clone() {
                let at = (mirrored(x, self.width) - source_x.start) * 3;
                out.extend(line[at..at + 3].iter().map(|value| 2.0 * value - 1.0));
            }
        }
        out
    }
}

/// Encodes the resized picture onto the canvas of the plan's size: zL of METHOD §2.
pub(crate) fn canvas(
    engine: &Engine,
    picture: &Picture,
    plan: &Plan,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let size = plan.canvas;
    let source = Canvased::new(picture, size.width, size.height)?;
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
    let shared = statistics::measure(
        engine,
        plan,
        |x, y| pixels(engine, &source, x, y),
        |vae, samples, shared| vae.encode_with(samples, Norms::Measured(shared)),
    )?;
    for (index, (row, column)) in tiles.enumerate().skip(done) {
        if progress.interrupted() {
            return Err(Error::Interrupted(None));
        }
        retry_halves(row, column, &mut |row, column| {
            tile(engine, &source, shared.as_ref(), zl, row, column)
        })?;
        zl.flush_rows(row.core.clone()).map_err(|error| journal.failed(error))?;
        journal.append(Record::Encoded { tiles: index + 1 })?;
        progress.advance(1);
    }
    Ok(())
}

/// Encodes the whole picture at the model's native size, if the plan has a low-resolution pass.
pub(crate) fn low_resolution(
    engine: &Engine,
    picture: &Picture,
    plan: &Plan,
    work: &mut WorkFolder,
) -> Result<(), Error> {
    let (latent, journal) = (&mut work.files.low_resolution, &mut work.journal);
    let Some(latent) = latent.as_mut().filter(|_| !journal.done().low_resolution) else {
        return Ok(());
    };
    let (height, width) = (latent.height(), latent.width());
    let factor = engine.shape().factor;
    let source = Canvased::new(picture, width * factor, height * factor)?;
    // It has about the size of one region: one tile.
    let whole = |length: usize| Span { core: 0..length, length, padding: plan.vae_padding };
    let (row, column) = (whole(height), whole(width));
    retry_halves(&row, &column, &mut |row, column| {
        tile(engine, &source, None, latent, row, column)
    })?;
    latent.flush_rows(0..height).map_err(|error| journal.failed(error))?;
    journal.append(Record::LowResolution)
}

/// The pixels of columns `x` and rows `y`, in latent pixels, for the encoder: `[1, f·y, f·x, 3]`.
fn pixels(
    engine: &Engine,
    source: &Canvased<'_>,
    x: Range<isize>,
    y: Range<isize>,
) -> Result<Tensor, Error> {
    let f = engine.shape().factor as isize;
    let in_pixels = |range: Range<isize>| range.start * f..range.end * f;
    let (x, y) = (in_pixels(x), in_pixels(y));
    let window = source.window(x.clone(), y.clone());
    Ok(Tensor::from_vec(window, (1, y.len(), x.len(), 3), &engine.device)?)
}

/// Encodes the core of one tile into its place, with the statistics that it shares if there are such.
fn tile(
    engine: &Engine,
    source: &Canvased<'_>,
    shared: Option<&NormStatistics>,
    latent: &mut Latent,
    row: &Span,
    column: &Span,
) -> Result<(), Error> {
    let window = pixels(engine, source, column.padded(), row.padded())?;
    let core: Vec<f32> = engine
        .vae()?
        .encode_with(&window, shared.into())?
        .narrow(1, row.before(), row.core.len())?
        .narrow(2, column.before(), column.core.len())?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()?;
    if !core.iter().all(|value| value.is_finite()) {
        return Err(engine.non_finite(Stage::Encode));
    }
    let (width, channels) = (latent.width(), latent.channels());
    let length = column.core.len() * channels;
    for (line, y) in core.chunks_exact(length).zip(row.core.clone()) {
        let at = (y * width + column.core.start) * channels;
        latent.as_mut_slice()[at..at + length].copy_from_slice(line);
    }
    Ok(())
}
