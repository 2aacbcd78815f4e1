//! First enlargement by a network: what is repainted is its picture, and not the input resized by Lanczos.
//!
//! The network runs step by step over the whole picture, and each step tile by tile with as much around a tile as the step
//! sees. So tiles equal the whole to the bit, whatever their size; all steps at once would need hundreds of pixels around a
//! tile (docs/figures.md). The maps between steps are in files without names, or, where the picture is one tile, on the
//! device. Rows of the result are resized as they come, and gather in the work folder.

use std::{io, path::Path};

use candle_core::{DType, Device, Tensor};
use tracing::info_span;

use super::context::Context;
use crate::{
    canvas::latent::reflect,
    image::{MEMORY_BYTES, Picture, Plane, PlaneBuilder, Resizer, RowResizer, Scratch},
    model::enlarger::{Enlarger, Shortcut},
    pipeline::{
        error::Error,
        first::FirstEnlarger,
        plan::{
            first::{FirstPass, FirstPlan, LAST_ROWS},
            tiles::{Span, spans},
        },
        progress::{Progress, Stage},
        protect::{self, Places},
        retry::retry_smaller,
        work::{folder::WorkFolder, journal::Record, maps::MapFile, rows::RowFile},
    },
};

/// The input as a network enlarges it to the output's size, if the job has one; taken from the work folder where that has it.
///
/// # Errors
/// Weights that cannot be loaded; errors of the backend and the work folder; non-finite values; an interruption.
pub fn picture(
    context: &Context<'_>,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<Option<Picture>, Error> {
    let _span = info_span!("enlarge").entered();
    let spec = context.spec;
    let (Some(first), Some(plan)) = (&spec.first, &spec.plan.first) else {
        return Ok(None);
    };
    let WorkFolder { path, files, journal, .. } = work;
    let tile = std::cell::Cell::new(spec.plan.memory.first_tile);
    if journal.done().enlarged {
        let total = plan.tiles(tile.get());
        progress.begin(Stage::Enlarge, total);
        progress.resumed(total);
    } else {
        let run = Enlargement { context, first, plan, folder: path };
        let made = retry_smaller(&tile, |tile| run.run(tile, files.enlarged.as_mut(), progress))?;
        if !spec.plan.memory.keeps_parts {
            first.free(context.runner.device());
        }
        journal.append(Record::Enlarged)?;
        if let Some(made) = made {
            return Ok(Some(made));
        }
    }
    let canvas = spec.plan.geometry.canvas;
    let samples = canvas.height * canvas.width * 3;
    let file = files.enlarged.as_ref().map(RowFile::file).transpose();
    let plane = file.and_then(|file| {
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: the file belongs to a folder that one process at a time holds the lock of, and nothing writes to it once
        // it is complete.
        unsafe { Plane::in_file(file, samples) }
    });
    let plane = plane.map_err(|error| journal.failed(error))?;
    Ok(Some(Picture::of_plane(canvas.width as u32, canvas.height as u32, plane)))
}

/// The enlargement of one picture.
struct Enlargement<'a> {
    context: &'a Context<'a>,
    first: &'a FirstEnlarger,
    plan: &'a FirstPlan,
    /// Folder of what is there for a while.
    folder: &'a Path,
}

impl Enlargement<'_> {
    /// Runs every pass in tiles of this side. What is flat or neutral in the input stays so. The result goes into `kept`; where
    /// nothing is kept, it is returned.
    fn run(
        &self,
        tile: usize,
        mut kept: Option<&mut RowFile>,
        progress: &mut dyn Progress,
    ) -> Result<Option<Picture>, Error> {
        progress.begin(Stage::Enlarge, self.plan.tiles(tile));
        let network = self.first.on(self.context.runner.device())?;
        let (width, height) = self.plan.passes.last().map_or((0, 0), |pass| pass.to);
        let plain = self.context.picture.resizer(width, height)?;
        let size = (width as usize, height as usize);
        let mut given: Option<Picture> = None;
        let in_folder = |error| Error::in_file(self.folder, error);
        for (index, pass) in self.plan.passes.iter().enumerate() {
            let input = given.as_ref().unwrap_or(self.context.picture);
            let pass = Pass { enlargement: self, network: &network, pass, tile, input };
            if index + 1 == self.plan.passes.len()
                && let Some(kept) = kept.take()
            {
                let mut row = 0;
                pass.run(progress, &mut |rows| {
                    bring_back(rows, &plain, row, size);
                    kept.write(row, bytemuck::cast_slice(rows)).map_err(in_folder)?;
                    row += rows.len() / pass.row();
                    Ok(())
                })?;
                return Ok(None);
            }
            let is_last = index + 1 == self.plan.passes.len();
            let (width, height) = pass.pass.to;
            let scratch =
                Scratch { folder: Some(self.folder.to_owned()), memory_bytes: MEMORY_BYTES };
            let builder = PlaneBuilder::new(height as usize, pass.row(), &scratch);
            let mut builder = builder.map_err(in_folder)?;
            let mut row = 0;
            pass.run(progress, &mut |rows| {
                if is_last {
                    bring_back(rows, &plain, row, size);
                    row += rows.len() / pass.row();
                }
                builder.push(rows).map_err(in_folder)
            })?;
            let plane = builder.finish().map_err(in_folder)?;
            given = Some(Picture::of_plane(width, height, plane));
        }
        Ok(given)
    }
}

/// Brings what is flat or neutral in the input back to it, in rows of the result, `[rows, width, 3]` in 0…1, from `top` on: a network
/// leaves a tone or a tint there.
fn bring_back(rows: &mut [f32], plain: &Resizer<'_>, top: usize, (width, height): (usize, usize)) {
    let end = top + rows.len() / (3 * width);
    let around = top.saturating_sub(protect::RADIUS)..(end + protect::RADIUS).min(height);
    let plain = plain.window(0..width as u32, around.start as u32..around.end as u32);
    let mut plain: Vec<f32> = plain.into_iter().map(|value| value.clamp(0.0, 1.0)).collect();
    let scaled: Vec<f32> = plain.iter().map(|value| 2.0 * value - 1.0).collect();
    let own = top - around.start..end - around.start;
    let places = Places::new(&scaled, width).of_rows(&own, width);
    plain.truncate(3 * own.end * width);
    places.apply(rows, &plain[3 * own.start * width..]);
}

/// Takes the next rows of a result, `[rows, width, 3]` in 0…1, and may change them.
type Emit<'a> = &'a mut dyn FnMut(&mut [f32]) -> Result<(), Error>;

/// One pass over a picture.
struct Pass<'a> {
    enlargement: &'a Enlargement<'a>,
    network: &'a Enlarger,
    pass: &'a FirstPass,
    tile: usize,
    input: &'a Picture,
}

impl Pass<'_> {
    /// Samples of a row of the result.
    fn row(&self) -> usize {
        3 * self.pass.to.0 as usize
    }

    fn device(&self) -> &Device {
        self.enlargement.context.runner.device()
    }

    fn run(&self, progress: &mut dyn Progress, emit: Emit<'_>) -> Result<(), Error> {
        let plan = self.enlargement.plan;
        let (height, width) = plan.places(self.pass);
        let shortcut = self.network.shortcut();
        let mut first: Option<Map> = None;
        let mut maps: Option<Map> = None;
        for step in 0..self.network.steps() {
            let context = self.network.context(step);
            let (rows, columns) =
                (spans(height, self.tile, context), spans(width, self.tile, context));
            let mut next = match (rows.len(), columns.len()) {
                (1, 1) => Map::Whole(None),
                _ => {
                    let features = self.network.config().features();
                    Map::File(MapFile::create(self.enlargement.folder, (width, features))?)
                }
            };
            for row in &rows {
                for column in &columns {
                    self.advance(progress)?;
                    let x = match maps.as_mut().or(first.as_mut()) {
                        None => self.pixels(row, column)?,
                        Some(maps) => self.window(maps, row, column)?,
                    };
                    let y = self.network.step(step, &x.into())?.into_tensor()?;
                    let y = y.narrow(1, row.before(), row.core.len())?.narrow(
                        2,
                        column.before(),
                        column.core.len(),
                    )?;
                    self.put(&mut next, y, row, column)?;
                }
            }
            match (step, shortcut) {
                (0, Shortcut::FirstStep) => first = Some(next),
                _ => maps = Some(next),
            }
        }
        let mut maps = (maps, first);
        self.last(&mut maps, (height, width), progress, emit)
    }

    /// The last step, strip by strip, and the resize of its rows.
    fn last(
        &self,
        (maps, first): &mut (Option<Map>, Option<Map>),
        (height, width): (usize, usize),
        progress: &mut dyn Progress,
        emit: Emit<'_>,
    ) -> Result<(), Error> {
        let context = self.network.context(self.network.steps());
        let outputs = self.network.config().outputs();
        let made = self.enlargement.plan.made(self.pass);
        let mut resizer = (made != self.pass.to).then(|| RowResizer::new(3, made, self.pass.to));
        // The last places may be of pixels past the picture.
        let (made_width, made_height) = (made.0 as usize, made.1 as usize);
        for row in &spans(height, LAST_ROWS, context) {
            let lines = (row.core.start * outputs..row.core.end * outputs).len();
            let mut band = vec![0.0f32; lines * made_width * 3];
            for column in &spans(width, self.tile, context) {
                self.advance(progress)?;
                let shortcut = match self.network.shortcut() {
                    Shortcut::Picture => self.pixels(row, column)?,
                    Shortcut::FirstStep => self.window_of(first, row, column)?,
                };
                let features = match maps {
                    Some(maps) => self.window(maps, row, column)?,
                    // A network of a single step.
                    None => self.window_of(first, row, column)?,
                };
                let y = self.network.last(&features.into(), &shortcut.into())?.into_tensor()?;
                let y = y.narrow(1, row.before() * outputs, row.core.len() * outputs)?.narrow(
                    2,
                    column.before() * outputs,
                    column.core.len() * outputs,
                )?;
                let values = self.values(&y)?;
                let left = column.core.start * outputs;
                let right = (column.core.end * outputs).min(made_width);
                let of_tile = values.chunks_exact(3 * column.core.len() * outputs);
                for (line, values) in band.chunks_exact_mut(3 * made_width).zip(of_tile) {
                    for (out, value) in line[3 * left..3 * right].iter_mut().zip(values) {
                        *out = value.clamp(0.0, 1.0);
                    }
                }
            }
            let end = (row.core.end * outputs).min(made_height);
            band.truncate((end - (row.core.start * outputs).min(end)) * made_width * 3);
            match &mut resizer {
                Some(resizer) => emit(&mut resizer.push(&band, made_width))?,
                None => emit(&mut band)?,
            }
        }
        Ok(())
    }

    /// One tile more, unless the job is interrupted.
    fn advance(&self, progress: &mut dyn Progress) -> Result<(), Error> {
        if progress.interrupted() {
            return Err(Error::Interrupted(None));
        }
        progress.advance(1);
        Ok(())
    }

    /// The pixels of these places and what is around them, `[1, rows, columns, 3]`, continued by reflection past the picture's
    /// last pixels, where a place has several.
    fn pixels(&self, row: &Span, column: &Span) -> Result<Tensor, Error> {
        let unit = self.network.config().unit();
        let (width, height) = (self.input.width as usize, self.input.height as usize);
        let [rows, columns] =
            [row, column].map(|span| span.padded().start * unit..span.padded().end * unit);
        let mut out = Vec::with_capacity(rows.len() * columns.len() * 3);
        let mut buffer = Vec::new();
        for y in rows.clone() {
            let start = reflect(y, height) * width * 3;
            let line = self.input.rgb.samples(start..start + 3 * width, &mut buffer);
            for x in columns.clone() {
                out.extend_from_slice(&line[3 * reflect(x, width)..][..3]);
            }
        }
        Ok(Tensor::from_vec(out, (1, rows.len(), columns.len(), 3), self.device())?)
    }

    fn window_of(&self, map: &mut Option<Map>, row: &Span, column: &Span) -> Result<Tensor, Error> {
        match map {
            Some(map) => self.window(map, row, column),
            None => Err(candle_core::Error::Msg("enlarger: no maps".to_owned()).into()),
        }
    }

    /// The maps of these places and what is around them.
    fn window(&self, map: &mut Map, row: &Span, column: &Span) -> Result<Tensor, Error> {
        let (rows, columns) = (row.padded(), column.padded());
        match map {
            Map::Whole(Some(whole)) => Ok(whole
                .narrow(1, rows.start, rows.len())?
                .narrow(2, columns.start, columns.len())?
                .contiguous()?),
            Map::Whole(None) => Err(candle_core::Error::Msg("enlarger: no maps".to_owned()).into()),
            Map::File(file) => {
                let shape = (1, rows.len(), columns.len(), file.channels());
                let values = file.read(rows, columns);
                let values =
                    values.map_err(|error| Error::in_file(self.enlargement.folder, error))?;
                Ok(Tensor::from_vec(values, shape, self.device())?)
            }
        }
    }

    /// Puts the maps of a tile into their place.
    fn put(&self, map: &mut Map, y: Tensor, row: &Span, column: &Span) -> Result<(), Error> {
        match map {
            Map::Whole(whole) => *whole = Some(y),
            Map::File(file) => {
                let values = self.values(&y)?;
                let written = file.write(row.core.start, column.core.clone(), &values);
                written.map_err(|error| Error::in_file(self.enlargement.folder, error))?;
            }
        }
        Ok(())
    }

    /// The values of a tensor, if they are numbers.
    fn values(&self, y: &Tensor) -> Result<Vec<f32>, Error> {
        let values = y.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let weight = self.enlargement.first.files().find_non_finite();
        Err(Error::NonFinite { stage: Stage::Enlarge, weight })
    }
}

/// Maps of all places.
enum Map {
    /// On the device.
    Whole(Option<Tensor>),
    File(MapFile),
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::{
        super::testing::{Bench, Fake, Watcher, context, job, picture as input},
        *,
    };
    use crate::{
        pipeline::{job::JobSpec, settings::Settings},
        weights::EnlargerFiles,
    };

    /// A job whose input of 30 × 20 a small network enlarges to the output's size, in tiles of this side.
    fn job_with(network: &str, tile: usize) -> JobSpec {
        let path = format!("tests/fixtures/enlarger/ncnn/{network}.param");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
        let first = Arc::new(FirstEnlarger::new(EnlargerFiles::open(&path).unwrap()).unwrap());
        let mut spec = job(Settings::default());
        spec.first = Some(Arc::clone(&first));
        let steps = first.files().load(&Device::Cpu).unwrap().steps();
        spec.plan.first = Some(FirstPlan::new(&first, steps, &spec.plan.geometry));
        spec.plan.memory.first_tile = tile;
        spec
    }

    fn made(spec: &JobSpec, work: &mut WorkFolder) -> (Vec<f32>, Watcher) {
        let (runner, picture, mut watcher) = (Fake::idle(), input(), Watcher::default());
        let made = super::picture(&context(&runner, &picture, spec), work, &mut watcher);
        let made = made.unwrap().unwrap();
        let canvas = spec.plan.geometry.canvas;
        assert_eq!((made.width as usize, made.height as usize), (canvas.width, canvas.height));
        (made.rgb.to_vec(), watcher)
    }

    #[test]
    fn tiles_of_any_side_give_the_bytes_of_the_whole_kept_or_not() {
        for network in ["rrdb_f32", "compact_f32"] {
            let spec = job_with(network, 192);
            let whole = made(&spec, &mut Bench::new().open(&spec)).0;
            assert!(whole.iter().all(|value| (0.0..=1.0).contains(value)));
            for tile in [32, 13, 7] {
                let spec = job_with(network, tile);
                let (tiled, watcher) = made(&spec, &mut Bench::new().open(&spec));
                assert!(tiled == whole, "{network} in tiles of {tile}");
                assert_eq!(
                    (watcher.done, watcher.total),
                    (watcher.total, spec.plan.first.as_ref().unwrap().tiles(tile))
                );
                let folder = tempfile::tempdir().unwrap();
                let layout = spec.plan.layout(0);
                let mut work = WorkFolder::temporary(Some(folder.path()), None, &layout).unwrap();
                assert!(made(&spec, &mut work).0 == whole);
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            }
        }
    }

    #[test]
    fn a_stopped_enlargement_begins_anew_and_a_complete_one_is_taken_as_it_is() {
        let spec = job_with("rrdb_f16", 13);
        let expected = made(&spec, &mut Bench::new().open(&spec)).0;
        let (runner, picture, bench) = (Fake::idle(), input(), Bench::new());
        for stop_at in [1, 4, 7] {
            let mut watcher = Watcher { stop_at: Some(stop_at), ..Watcher::default() };
            let mut work = bench.open(&spec);
            let error = super::picture(&context(&runner, &picture, &spec), &mut work, &mut watcher);
            assert!(matches!(error, Err(Error::Interrupted(None))));
            assert!(!work.journal.done().enlarged);
        }
        assert!(made(&spec, &mut bench.open(&spec)).0 == expected);
        // What is done is not done again: another input would give another picture.
        let mut work = bench.open(&spec);
        assert!(work.journal.done().enlarged);
        let other = Picture::from_rgb(30, 20, vec![0.5; 30 * 20 * 3]).unwrap();
        let mut watcher = Watcher::default();
        let taken = super::picture(&context(&runner, &other, &spec), &mut work, &mut watcher);
        assert!(taken.unwrap().unwrap().rgb[..] == expected);
        assert_eq!(watcher.done, watcher.total);
    }
}
