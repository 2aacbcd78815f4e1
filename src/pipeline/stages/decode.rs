//! Decoding: the VAE's decoder runs tile by tile, one band of tiles at a time, and each band goes to the
//! [writer](super::write). The whole output is never in memory.

use std::{ops::Range, path::Path};

use candle_core::{DType, Tensor};
use tracing::info_span;

use super::{
    canvased::Canvased,
    context::Context,
    layerwise::Run,
    preview::PreviewCanvas,
    statistics::SharedState,
    tiles::{TilePart, TilePlace, are_shared, places, share_tiles},
    whole_colours::WholeColours,
    write::RowWriter,
};
use crate::{
    canvas::Latent,
    model::vae::{GlobalState, Globals},
    pipeline::{
        error::Error,
        finish::Finish,
        plan::{tiles::Span, vae_tiling::VaeTiling},
        progress::{Progress, Stage},
        retry::retry_halves,
        work::{files::Files, folder::WorkFolder, maps::MapFile},
    },
};

/// Decodes the denoised canvas, fixes its colours, crops it to the output's exact size, and gives its rows to the writer.
///
/// # Errors
/// Errors of the picture, the autoencoder, the writer and the work folder; non-finite values; an interruption.
pub fn canvas(
    context: &Context<'_>,
    writer: &mut RowWriter<'_>,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let _span = info_span!("decode").entered();
    let plan = &context.spec.plan;
    let size = plan.geometry.canvas;
    let f = plan.geometry.shape.factor;
    let alpha = context.picture.alpha_resizer(size.width as u32, size.height as u32)?;
    let finish = Finish::new(&context.spec.settings, &plan.geometry);
    let source = match finish.tile_sees_input() {
        true => Some(Canvased::of_output(context, finish)?),
        false => None,
    };
    let WorkFolder { path, files, journal, .. } = work;
    let Files { zl, z, rows, .. } = files;
    let steps = plan.sampling.steps.len();
    let z = &z[steps % 2];
    let mut preview = None;
    if progress.wants_preview() {
        preview.insert(PreviewCanvas::new(context, zl)?).put_latent(z.as_slice().iter().copied());
    }
    let done = journal.done().rows;
    let pixel_rows = |row: &Span| (row.core.start * f, (row.core.end * f).min(size.height));
    let all = places(plan);
    let left = |&(row, _): &TilePlace<'_>| {
        let (top, bottom) = pixel_rows(row);
        let wanted = if finish.needs_whole() { done < size.height } else { done < bottom };
        wanted && top < bottom
    };
    let tiles: Vec<TilePlace<'_>> = all.iter().copied().filter(left).collect();
    progress.begin(Stage::Decode, all.len());
    // Already decoded, or padding alone.
    progress.resumed(all.len() - tiles.len());
    let mut whole_colours = WholeColours::new(context, path)?;
    // Finished rows go to the writer.
    let mut emit =
        |range: Range<usize>, band: Vec<f32>, progress: &mut dyn Progress| -> Result<(), Error> {
            let top = range.start;
            let alpha = alpha.as_ref().map(|alpha| alpha.rows(top as u32..range.end as u32));
            writer.put(range, &band, alpha.as_deref(), (rows.as_mut(), journal))?;
            if let Some(preview) = preview.as_mut().filter(|_| progress.wants_preview()) {
                preview.put_pixels(top, &band, size.width);
                preview.show(progress, Stage::Decode, (steps, steps));
            }
            Ok(())
        };
    let mut band = Vec::new();
    // Puts a tile into its band, which goes to the writer when it is complete.
    let mut keep = |(row, column): TilePlace<'_>,
                    parts: Vec<TilePart>,
                    progress: &mut dyn Progress|
     -> Result<(), Error> {
        let (top, bottom) = pixel_rows(row);
        if column.core.start == 0 {
            band = vec![0.0f32; (bottom - top) * size.width * 3];
        }
        for TilePart { row, column, values } in parts {
            let (left, right) = (column.core.start * f, (column.core.end * f).min(size.width));
            if values.is_empty() || left >= right {
                continue;
            }
            let lines = values.chunks_exact(column.core.len() * f * 3);
            let band = &mut band[(row.core.start * f - top) * size.width * 3..];
            for (line, out) in lines.zip(band.chunks_exact_mut(size.width * 3)) {
                for (value, out) in line.iter().zip(&mut out[left * 3..right * 3]) {
                    *out = if finish.needs_whole() { *value } else { unit(*value) };
                }
            }
        }
        if column.core.end < column.length {
            return Ok(());
        }
        let band = std::mem::take(&mut band);
        let Some(whole) = &mut whole_colours else { return emit(top..bottom, band, progress) };
        whole.put(top, &band)?;
        if bottom < size.height {
            return Ok(());
        }
        // Rows of an earlier process have gone to the writer already.
        whole.finish(done, |range, band| emit(range, band, progress))
    };
    // A tile of padding alone has no values.
    let is_shown = |(row, column): TilePlace<'_>| {
        row.core.start * f < size.height && column.core.start * f < size.width
    };
    // Nothing of a tile that a mask keeps is the model's.
    let kept = |(row, column): TilePlace<'_>| -> Option<Vec<f32>> {
        let mask = plan.mask.as_ref().filter(|_| !finish.needs_whole())?;
        let is_kept = mask.keeps(row.core.clone(), column.core.clone());
        let pixels = |span: &Span| span.core.start * f..span.core.end * f;
        source.as_ref().filter(|_| is_kept).map(|it| it.window(pixels(column), pixels(row)))
    };
    let shared = SharedState::new(context, (size.latent_height, size.latent_width));
    let mut whole = WholeCanvas { folder: path, tiles: tiles.len(), pixels: None, shared };
    if !are_shared(plan) {
        for &(row, column) in &tiles {
            if progress.interrupted() {
                return Err(Error::Interrupted(None));
            }
            let mut parts = Vec::new();
            if let Some(values) = kept((row, column)) {
                parts.push(TilePart { row: row.clone(), column: column.clone(), values });
                keep((row, column), parts, progress)?;
                if whole.pixels.is_none() {
                    whole.tiles -= 1;
                    progress.advance(1);
                }
                continue;
            }
            retry_halves(row, column, &mut |row, column| {
                if is_shown((row, column)) {
                    let tile = TileFrame::new(context, (row, column));
                    let pixels = whole.pixels(context, z, progress, &tile)?;
                    let values = tile.finished(pixels, source.as_ref());
                    parts.push(TilePart { row: row.clone(), column: column.clone(), values });
                }
                Ok(())
            })?;
            keep((row, column), parts, progress)?;
            if whole.pixels.is_none() {
                progress.advance(1);
            }
        }
        return Ok(());
    }
    let state = match plan.vae_tiling {
        VaeTiling::Sampled if !tiles.is_empty() => Some(whole.state(context, z)?),
        _ => None,
    };
    share_tiles(
        context,
        &tiles,
        state,
        progress,
        |context, globals, place| {
            if !is_shown(place) {
                return Ok(Vec::new());
            }
            if let Some(values) = kept(place) {
                return Ok(values);
            }
            let tile = TileFrame::new(context, place);
            let pixels = tile.decoded(context, z, globals)?;
            Ok(tile.finished(pixels, source.as_ref()))
        },
        |index, parts, progress| {
            keep(tiles[index], parts, progress)?;
            progress.advance(1);
            Ok(())
        },
    )
}

/// What the tiles of the canvas take from the whole of it, computed when the first of them needs it.
struct WholeCanvas<'a> {
    /// Folder of the maps.
    folder: &'a Path,
    /// Tiles that the progress counts for a pass layer by layer.
    tiles: usize,
    /// The decoded pixels, from such a pass.
    pixels: Option<MapFile>,
    shared: SharedState<'a>,
}

impl WholeCanvas<'_> {
    /// The global state of its tiles.
    fn state(&mut self, context: &Context<'_>, z: &Latent) -> Result<&GlobalState, Error> {
        self.shared.state(
            |sample| latents(context, z, sample.x.clone(), sample.y.clone()),
            |samples, globals| context.runner.decode(samples, globals),
        )
    }

    /// The decoded pixels of a tile and its rim.
    fn pixels(
        &mut self,
        context: &Context<'_>,
        z: &Latent,
        progress: &mut dyn Progress,
        tile: &TileFrame<'_>,
    ) -> Result<Vec<f32>, Error> {
        match context.spec.plan.vae_tiling.of_tile(tile.place) {
            VaeTiling::Independent => tile.decoded(context, z, Globals::Own),
            VaeTiling::Layerwise { .. } => {
                let pixels = self.window(context, z, progress, tile)?;
                checked(context, pixels)
            }
            VaeTiling::Sampled => {
                let state = self.state(context, z)?;
                tile.decoded(context, z, Globals::Shared(state))
            }
        }
    }

    /// The pixels of a tile and its rim from a pass layer by layer; `tile` is the first tile that is asked for.
    fn window(
        &mut self,
        context: &Context<'_>,
        z: &Latent,
        progress: &mut dyn Progress,
        tile: &TileFrame<'_>,
    ) -> Result<Vec<f32>, Error> {
        let &mut Self { folder, tiles, .. } = self;
        let pixels = match &mut self.pixels {
            Some(pixels) => pixels,
            empty => {
                let latents = (z.height(), z.width());
                let factor = tile.factor;
                let mut pixels = MapFile::create(folder, (z.width() * factor, 3))?;
                Run { context, folder, latents, tile: tile.place, tiles }.run(
                    progress,
                    &|context, window| {
                        self::latents(context, z, window.columns.clone(), window.rows.clone())
                    },
                    &mut |window, values| {
                        let written =
                            pixels.write(window.rows.start, window.columns.clone(), values);
                        written.map_err(|error| Error::in_file(folder, error))
                    },
                    &|runner, size, maps| runner.decode_layerwise(size, maps),
                )?;
                empty.insert(pixels)
            }
        };
        let read = pixels.read(tile.rows(), tile.columns());
        read.map_err(|error| Error::in_file(folder, error))
    }
}

/// The value of the output for one of the model's, −1…1.
pub(super) fn unit(value: f32) -> f32 {
    (value * 0.5 + 0.5).clamp(0.0, 1.0)
}

/// A tile, and the rim around its core that finishing needs to see.
struct TileFrame<'a> {
    finish: Finish,
    place: TilePlace<'a>,
    wide_row: Span,
    wide_column: Span,
    /// Rows and columns of the picture, in image pixels; the canvas may go on behind them.
    shown: (usize, usize),
    /// Image pixels per latent pixel.
    factor: usize,
}

impl<'a> TileFrame<'a> {
    /// The tile at `place`.
    fn new(context: &Context<'_>, place: TilePlace<'a>) -> Self {
        let factor = context.spec.plan.geometry.shape.factor;
        let finish = Finish::new(&context.spec.settings, &context.spec.plan.geometry);
        // Latent pixels around the core that the filter needs to see as they are. Where the picture ends, so does it.
        let rim = finish.tile_rim().div_ceil(factor);
        let (row, column) = place;
        let (wide_row, wide_column) = (row.with_rim(rim), column.with_rim(rim));
        let canvas = context.spec.plan.geometry.canvas;
        let shown = (canvas.height, canvas.width);
        Self { finish, place, wide_row, wide_column, shown, factor }
    }

    /// Rows of the core and the rim, in image pixels.
    fn rows(&self) -> Range<usize> {
        self.wide_row.core.start * self.factor..self.wide_row.core.end * self.factor
    }

    /// Columns of the core and the rim, in image pixels.
    fn columns(&self) -> Range<usize> {
        self.wide_column.core.start * self.factor..self.wide_column.core.end * self.factor
    }

    /// Of [`rows`](Self::rows) and [`columns`](Self::columns) those that the picture has.
    fn shown(&self) -> (Range<usize>, Range<usize>) {
        let (height, width) = self.shown;
        let (rows, columns) = (self.rows(), self.columns());
        (rows.start..rows.end.min(height), columns.start..columns.end.min(width))
    }

    /// The core and the rim, decoded by themselves, `[rows, columns, 3]`.
    fn decoded(
        &self,
        context: &Context<'_>,
        z: &Latent,
        globals: Globals<'_>,
    ) -> Result<Vec<f32>, Error> {
        let Self { wide_row, wide_column, factor, .. } = self;
        let latents = latents(context, z, wide_column.padded(), wide_row.padded())?;
        let pixels = context
            .runner
            .decode(&latents, globals)?
            .narrow(1, wide_row.before() * factor, self.rows().len())?
            .narrow(2, wide_column.before() * factor, self.columns().len())?;
        checked(context, pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// The core, `[rows, columns, 3]` in −1..=1, finished as far as a tile can be.
    fn finished(&self, mut pixels: Vec<f32>, source: Option<&Canvased<'_>>) -> Vec<f32> {
        let Some(source) = source else { return pixels };
        let Self { finish, place: (row, column), wide_row, wide_column, factor: f, .. } = self;
        let width = self.columns().len();
        let (rows, columns) = self.shown();
        let at = (rows.start, columns.start);
        let beside = source.beside_tile(*finish, columns.clone(), rows.clone());
        if (rows.len(), columns.len()) == (self.rows().len(), width) {
            finish.tile(&mut pixels, &beside, at, width);
        } else {
            // What the canvas has beyond the picture is nobody's colour.
            let line = 3 * columns.len();
            let lines = pixels.chunks_exact(3 * width).take(rows.len());
            let mut inside: Vec<f32> = lines.flat_map(|pixels| &pixels[..line]).copied().collect();
            finish.tile(&mut inside, &beside, at, columns.len());
            for (pixels, inside) in
                pixels.chunks_exact_mut(3 * width).zip(inside.chunks_exact(line))
            {
                pixels[..line].copy_from_slice(inside);
            }
        }
        let (above, beside) = (
            (row.core.start - wide_row.core.start) * f,
            (column.core.start - wide_column.core.start) * f * 3,
        );
        pixels
            .chunks_exact(width * 3)
            .skip(above)
            .take(row.core.len() * f)
            .flat_map(|line| &line[beside..][..column.core.len() * f * 3])
            .copied()
            .collect()
    }
}

/// `pixels`, if they are numbers.
fn checked(context: &Context<'_>, pixels: Vec<f32>) -> Result<Vec<f32>, Error> {
    if pixels.iter().all(|value| value.is_finite()) {
        return Ok(pixels);
    }
    Err(context.runner.non_finite(Stage::Decode))
}

/// The window of columns `x` and rows `y` of the latent, `[1, y, x, C]`.
fn latents(
    context: &Context<'_>,
    z: &Latent,
    x: Range<usize>,
    y: Range<usize>,
) -> Result<Tensor, Error> {
    let channels = z.channels();
    let shape = (1, y.len(), x.len(), channels);
    let mut out = Vec::with_capacity(x.len() * y.len() * channels);
    for y in y {
        let row = z.rows(y..y + 1);
        out.extend_from_slice(&row[x.start * channels..x.end * channels]);
    }
    Ok(Tensor::from_vec(out, shape, context.runner.device())?)
}

#[cfg(test)]
mod tests;
