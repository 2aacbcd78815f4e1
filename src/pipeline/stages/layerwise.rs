//! An autoencoder whose norms and attention see the whole canvas, on a canvas of more than one tile: layer by layer, each
//! in blocks of a tile's size, with the maps between them in the work folder (docs/method.md §6).

use std::{cell::Cell, path::Path};

use candle_core::{DType, Tensor};

use super::context::Context;
use crate::{
    backend::Activation,
    model::vae::{FeatureMaps, LayerwiseSize, MapId, Window},
    pipeline::{
        error::Error, plan::tiles::Span, progress::Progress, retry::retry_smaller,
        work::maps::MapFile,
    },
};

/// Gives a window of what is encoded or decoded.
type Input<'a> = dyn FnMut(&Window) -> Result<Tensor, Error> + 'a;
/// Takes a window of the result.
type Output<'a> = dyn FnMut(&Window, &[f32]) -> Result<(), Error> + 'a;

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
    /// Runs `pass` with the windows of `input`, and hands those of its output to `output`. Where the device has no
    /// memory for a block, blocks get smaller.
    ///
    /// # Errors
    /// Errors of `input`, `output` and `pass`; a full disk; an interruption; a device without memory for any block.
    pub fn run(
        self,
        progress: &mut dyn Progress,
        input: &mut Input<'_>,
        output: &mut Output<'_>,
        pass: &dyn Fn(LayerwiseSize, &mut dyn FeatureMaps) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (row, column) = self.tile;
        let block = Cell::new(row.core.len().max(column.core.len()));
        let mut told = 0;
        retry_smaller(&block, |block| {
            let mut maps = Maps {
                run: &self,
                progress: &mut *progress,
                told: &mut told,
                input: &mut *input,
                output: &mut *output,
                files: Vec::new(),
                failed: None,
            };
            let size = LayerwiseSize { latents: self.latents, block };
            let result = pass(size, &mut maps);
            match maps.failed.take() {
                Some(error) => Err(error),
                None => result,
            }
        })
    }
}

/// The maps of a run.
struct Maps<'a, 'b> {
    run: &'a Run<'b>,
    progress: &'a mut dyn Progress,
    /// Tiles that the progress has been told of.
    told: &'a mut usize,
    input: &'a mut Input<'a>,
    output: &'a mut Output<'a>,
    files: Vec<Option<MapFile>>,
    /// What ended the run, if it was not the backend.
    failed: Option<Error>,
}

impl Maps<'_, '_> {
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

    fn file(&mut self, map: MapId) -> candle_core::Result<&mut MapFile> {
        match self.files.get_mut(map) {
            Some(Some(file)) => Ok(file),
            _ => candle_core::bail!("there is no map {map}"),
        }
    }
}

impl FeatureMaps for Maps<'_, '_> {
    fn input(&mut self, window: &Window) -> candle_core::Result<Activation> {
        let input = (self.input)(window);
        self.kept(input).map(Activation::from)
    }

    fn output(&mut self, window: &Window, values: &Activation) -> candle_core::Result<()> {
        let taken = (self.output)(window, &host_values(values)?);
        self.kept(taken)
    }

    fn create(
        &mut self,
        (_, width, channels): (usize, usize, usize),
    ) -> candle_core::Result<MapId> {
        let file = MapFile::create(self.run.folder, (width, channels));
        let file = self.kept(file)?;
        self.files.push(Some(file));
        Ok(self.files.len() - 1)
    }

    fn read(&mut self, map: MapId, window: &Window) -> candle_core::Result<Activation> {
        let file = self.file(map)?;
        let shape = (1, window.rows.len(), window.columns.len(), file.channels());
        let read = file.read(window.rows.clone(), window.columns.clone());
        let read = read.map_err(|error| Error::in_file(self.run.folder, error));
        let values = self.kept(read)?;
        Tensor::from_vec(values, shape, self.run.context.runner.device()).map(Activation::from)
    }

    fn write(
        &mut self,
        map: MapId,
        window: &Window,
        values: &Activation,
    ) -> candle_core::Result<()> {
        if self.progress.interrupted() {
            return self.kept(Err(Error::Interrupted(None)));
        }
        let values = host_values(values)?;
        let written = self.file(map)?.write(window.rows.start, window.columns.clone(), &values);
        let written = written.map_err(|error| Error::in_file(self.run.folder, error));
        self.kept(written)
    }

    fn remove(&mut self, map: MapId) {
        if let Some(file) = self.files.get_mut(map) {
            *file = None;
        }
    }

    fn advance(&mut self, done: usize, of: usize) {
        let tiles = self.run.tiles * done / of.max(1);
        if tiles > *self.told {
            self.progress.advance(tiles - *self.told);
            *self.told = tiles;
        }
    }
}

fn host_values(values: &Activation) -> candle_core::Result<Vec<f32>> {
    values.tensor()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
