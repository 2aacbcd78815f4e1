//! Files of a work folder: their names and sizes, the mapped canvases, and how all of them go.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use super::{history::History, rows::RowFile};
use crate::{
    canvas::{CanvasError, Latent},
    pipeline::error::Error,
};

pub const LOCK: &str = "lock";
pub const JOB: &str = "job.json";
/// The description while it is written.
pub const JOB_PART: &str = "job.json.part";
/// What was said of the regions, where that was costly.
pub const CAPTIONS: &str = "captions.json";
pub const CAPTIONS_PART: &str = "captions.json.part";
pub const JOURNAL: &str = "journal";
const ZL: &str = "zl";
const Z: [&str; 2] = ["z0", "z1"];
const HISTORY: &str = "history";
const PREDICTIONS: &str = "predictions";
const LOW_RESOLUTION: &str = "low_resolution";
const ROWS: &str = "rows";
/// Everything that can be in a work folder. Nothing else in it is ever touched.
const FILES: [&str; 13] = [
    JOB,
    JOB_PART,
    CAPTIONS,
    CAPTIONS_PART,
    JOURNAL,
    ZL,
    Z[0],
    Z[1],
    HISTORY,
    PREDICTIONS,
    LOW_RESOLUTION,
    ROWS,
    LOCK,
];

/// Sizes of the files of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkLayout {
    /// Height, width and channels of the canvas.
    pub canvas: (usize, usize, usize),
    /// Canvases of what earlier steps kept, for a sampler that reads them.
    pub history: usize,
    /// Regions, and their side.
    pub regions: (usize, usize),
    /// Height and width of the picture at the model's native size, if that is needed.
    pub low_resolution: Option<(usize, usize)>,
    /// Rows of the output, and bytes of one of them as samples.
    pub rows: (usize, usize),
}

impl WorkLayout {
    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        let (height, width, channels) = self.canvas;
        let (count, side) = self.regions;
        let (low_height, low_width) = self.low_resolution.unwrap_or_default();
        let canvases = 3 + self.history;
        let pixels = canvases * height * width + count * side * side + low_height * low_width;
        (pixels * channels * size_of::<f32>()) as u64 + (self.rows.0 * self.rows.1) as u64
    }
}

/// The canvases of a job.
#[derive(Debug)]
pub struct Files {
    /// The latent of the resized input.
    pub zl: Latent,
    /// z before a step and after it, in turn: a step reads the one and writes the other, so that one
    /// that is cut short can be taken again.
    pub z: [Latent; 2],
    /// What earlier steps kept, for a sampler that reads it.
    pub history: Option<History>,
    /// The noise predictions of all regions, one below the other: `[regions · R, R, C]`.
    pub predictions: Latent,
    pub low_resolution: Option<Latent>,
    /// The samples of the output's rows.
    pub rows: RowFile,
}

impl Files {
    /// New files in `folder`.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(folder: &Path, layout: &WorkLayout) -> Result<Self, Error> {
        let rows = RowFile::create(&folder.join(ROWS), layout.rows)?;
        Self::with(layout, rows, |name, height, width, channels| {
            Latent::create(&folder.join(name), height, width, channels)
        })
    }

    /// The files that a process before this one left in `folder`.
    ///
    /// # Errors
    /// A file that is missing or of another size.
    pub fn open(folder: &Path, layout: &WorkLayout) -> Result<Self, Error> {
        let rows = RowFile::open(&folder.join(ROWS), layout.rows)?;
        Self::with(layout, rows, |name, height, width, channels| {
            Latent::open(&folder.join(name), height, width, channels)
        })
    }

    fn with(
        layout: &WorkLayout,
        rows: RowFile,
        latent: impl Fn(&str, usize, usize, usize) -> Result<Latent, CanvasError>,
    ) -> Result<Self, Error> {
        let (height, width, channels) = layout.canvas;
        let (count, side) = layout.regions;
        Ok(Self {
            zl: latent(ZL, height, width, channels)?,
            z: [latent(Z[0], height, width, channels)?, latent(Z[1], height, width, channels)?],
            history: (layout.history > 0)
                .then(|| latent(HISTORY, layout.history * height, width, channels))
                .transpose()?
                .map(|canvases| History::new(canvases, height)),
            predictions: latent(PREDICTIONS, count * side, side, channels)?,
            low_resolution: (layout.low_resolution)
                .map(|(height, width)| latent(LOW_RESOLUTION, height, width, channels))
                .transpose()?,
            rows,
        })
    }
}

/// Writes a small file, under the name `part` until it is whole.
pub fn write_whole(folder: &Path, name: &str, part: &str, text: &str) -> Result<(), Error> {
    let (path, temporary) = (folder.join(name), folder.join(part));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        // The names of all files, too, must outlive a power cut. Not every system opens folders.
        File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(()))
    };
    write().map_err(|error| Error::in_file(&path, error))
}

/// Removes what an earlier job left; the lock stays.
pub fn clear(folder: &Path) {
    // The description goes first: without it, nothing else counts.
    for name in FILES.iter().filter(|name| **name != LOCK) {
        let _ = fs::remove_file(folder.join(name));
    }
}

/// Removes a work folder that is ours. What does not go stays, and is overwritten by the next job.
pub fn remove(folder: &Path) {
    clear(folder);
    let _ = fs::remove_file(folder.join(LOCK));
    let _ = fs::remove_dir(folder);
}
