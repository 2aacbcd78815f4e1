//! Feature maps of a layerwise pass, common to the devices that make it, and the place where these wait for each other at
//! the end of a layer. No lock is held while anything is computed; that of a file is held while a window is read or
//! written.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    model::vae::{LayerPart, MapId, Window},
    pipeline::{error::Error, work::maps::MapFile},
};

/// Takes a window of the pass's result.
type Output<'a> = dyn FnMut(&Window, &[f32]) -> Result<(), Error> + Send + 'a;

/// The maps of one pass.
pub struct SharedMaps<'a> {
    /// Folder of the maps' files.
    folder: &'a Path,
    /// Devices that make the pass.
    runners: usize,
    files: Mutex<Vec<Option<Arc<Mutex<MapFile>>>>>,
    output: Mutex<&'a mut Output<'a>>,
    layer: Mutex<Layer>,
    /// Signalled when a layer ends, or the pass stops.
    moved: Condvar,
}

/// The layer that is computed.
#[derive(Default)]
struct Layer {
    /// Devices that have ended it.
    ended: usize,
    /// The first block that nobody has taken.
    next: usize,
    /// The parts of those that have ended it.
    part: LayerPart,
    /// Layers that all have ended, and the last of them.
    done: usize,
    last: LayerPart,
    stopped: bool,
}

impl<'a> SharedMaps<'a> {
    /// No maps yet, in `folder`, for so many devices; windows of the result go to `output`.
    pub fn new(folder: &'a Path, runners: usize, output: &'a mut Output<'a>) -> Self {
        Self {
            folder,
            runners,
            files: Mutex::default(),
            output: Mutex::new(output),
            layer: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// Hands a window of the result on.
    ///
    /// # Errors
    /// Those of the output.
    pub fn output(&self, window: &Window, values: &[f32]) -> Result<(), Error> {
        (lock(&self.output))(window, values)
    }

    /// A new map of this width and number of channels: one for each layer, whichever device asks first.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn create(&self, size: (usize, usize)) -> Result<MapId, Error> {
        let mut layer = lock(&self.layer);
        if let Some((map, _)) = layer.part.map {
            return Ok(map);
        }
        let file = MapFile::create(self.folder, size)?;
        let mut files = lock(&self.files);
        files.push(Some(Arc::new(Mutex::new(file))));
        layer.part.map = Some((files.len() - 1, size.1));
        Ok(files.len() - 1)
    }

    /// The window of a map, `[rows, columns, C]`, and C.
    ///
    /// # Errors
    /// An I/O error; a map that there is not.
    pub fn read(&self, map: MapId, window: &Window) -> Result<(Vec<f32>, usize), Error> {
        let file = self.file(map)?;
        let mut file = lock(&file);
        let values = file.read(window.rows.clone(), window.columns.clone());
        Ok((values.map_err(|error| Error::in_file(self.folder, error))?, file.channels()))
    }

    /// Writes the window of a map.
    ///
    /// # Errors
    /// An I/O error; a map that there is not.
    pub fn write(&self, map: MapId, window: &Window, values: &[f32]) -> Result<(), Error> {
        let file = self.file(map)?;
        let written = lock(&file).write(window.rows.start, window.columns.clone(), values);
        written.map_err(|error| Error::in_file(self.folder, error))
    }

    /// Removes a map that no device reads any more.
    pub fn remove(&self, map: MapId) {
        if let Some(file) = lock(&self.files).get_mut(map) {
            *file = None;
        }
    }

    fn file(&self, map: MapId) -> Result<Arc<Mutex<MapFile>>, Error> {
        let file = lock(&self.files).get(map).cloned().flatten();
        let missing = || candle_core::Error::Msg(format!("there is no map {map}"));
        file.ok_or_else(|| missing().into())
    }

    /// True if the device that asks is the first to ask for this block of the layer. Every device asks for all in turn.
    pub fn takes(&self, block: usize) -> bool {
        let mut layer = lock(&self.layer);
        let takes = !layer.stopped && block == layer.next;
        layer.next += usize::from(takes);
        takes
    }

    /// Ends the layer for one device with its part of it, waits for the others, and returns the whole layer.
    ///
    /// # Errors
    /// A pass that was stopped, or failed on another device.
    pub fn end_layer(&self, part: LayerPart) -> candle_core::Result<LayerPart> {
        let mut layer = lock(&self.layer);
        layer.part.moments.extend(part.moments);
        layer.part.map = layer.part.map.or(part.map);
        layer.ended += 1;
        let done = layer.done;
        if layer.ended == self.runners {
            let mut whole = std::mem::take(&mut layer.part);
            whole.moments.sort_unstable_by_key(|(block, _)| *block);
            *layer =
                Layer { done: done + 1, last: whole, stopped: layer.stopped, ..Layer::default() };
            self.moved.notify_all();
        }
        // The layer that has ended counts also where the others have gone on and stopped since.
        while layer.done == done {
            if layer.stopped {
                candle_core::bail!("the pass was stopped");
            }
            layer = self.moved.wait(layer).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(layer.last.clone())
    }

    /// Lets no device wait for another any more, nor take a block.
    pub fn stop(&self) {
        lock(&self.layer).stopped = true;
        self.moved.notify_all();
    }
}

fn lock<T: ?Sized>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the pass when a device is through with it, whether it is done, has failed or panics: nobody is to wait for it.
pub struct StopOnDrop<'a, 'b>(pub &'a SharedMaps<'b>);

impl Drop for StopOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
