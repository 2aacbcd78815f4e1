//! Files of a work folder: names, sizes, mapped canvases, removal.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use super::{history::History, journal::Done, rows::RowFile};
use crate::{
    canvas::{CanvasError, Latent, latent::MEMORY_BYTES},
    lease::claims,
    pipeline::error::Error,
    units,
};

pub const LOCK: &str = "lock";
pub const LEASE: &str = "lease";
pub const JOB: &str = "job.json";
/// Partial job description.
pub const JOB_PART: &str = "job.json.part";
/// Captions of a costly captioner.
pub const CAPTIONS: &str = "captions.json";
pub const CAPTIONS_PART: &str = "captions.json.part";
pub const JOURNAL: &str = "journal";
/// Mark of a job that ended with an error, and whose work another job may replace.
pub const FAILED: &str = "failed";
/// Folder of the work on the job's input, where the job makes that as well: a work folder itself.
pub const INPUT: &str = "input";
const ZL: &str = "zl";
const Z: [&str; 2] = ["z0", "z1"];
const HISTORY: &str = "history";
const PREDICTIONS: &str = "predictions";
const LOW_RESOLUTION: &str = "low_resolution";
const ENLARGED: &str = "enlarged";
const ROWS: &str = "rows";
/// The most bytes of the job's description, and of its captions.
const LARGEST_TEXT: u64 = 16 << 20;
/// Files of a work folder besides its lock and its lease; other files in it are never touched.
const FILES: [&str; 14] = [
    JOB,
    JOB_PART,
    CAPTIONS,
    CAPTIONS_PART,
    JOURNAL,
    FAILED,
    ZL,
    Z[0],
    Z[1],
    HISTORY,
    PREDICTIONS,
    LOW_RESOLUTION,
    ENLARGED,
    ROWS,
];

/// Sizes of the files of a job, and the counts of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkLayout {
    /// Height, width and channels of the canvas.
    pub canvas: (usize, usize, usize),
    /// Canvases of the sampler's history, for a multistep sampler.
    pub history: usize,
    /// Number of regions, and their height and width.
    pub regions: (usize, (usize, usize)),
    /// Height and width of the low-resolution latent, if there is one.
    pub low_resolution: Option<(usize, usize)>,
    /// Rows of what a network makes of the picture before all else, and bytes of one of them, if there is one.
    pub enlarged: Option<(usize, usize)>,
    /// The most bytes that making it takes besides.
    pub enlarging_bytes: u64,
    /// Rows of the output, and bytes of one of them as samples.
    pub rows: (usize, usize),
    /// Bytes of rows that are kept as they are decoded.
    pub decoded_bytes: u64,
    /// The most bytes of the maps of an autoencoder that computes layer by layer.
    pub map_bytes: u64,
    /// VAE tiles of the canvas.
    pub tiles: usize,
    /// Steps of the run.
    pub steps: usize,
}

impl WorkLayout {
    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        let kept = self.canvases().iter().sum::<u64>() + self.enlarged() + self.samples();
        kept + self.passing()
    }

    /// Bytes of the files of a job that keeps nothing: it does not gather rows, and has small canvases in memory.
    pub fn temporary_bytes(&self) -> u64 {
        let large = |bytes: &&u64| **bytes > MEMORY_BYTES as u64;
        let enlarged = [self.enlarged()];
        self.canvases().iter().chain(&enlarged).filter(large).sum::<u64>() + self.passing()
    }

    /// Bytes of files that are there for a stage.
    fn passing(&self) -> u64 {
        self.decoded_bytes + self.map_bytes.max(self.enlarging_bytes)
    }

    /// Bytes of what a network makes of the picture before all else.
    fn enlarged(&self) -> u64 {
        self.enlarged.map_or(0, |(rows, row_bytes)| (rows * row_bytes) as u64)
    }

    /// Bytes of each mapped file.
    fn canvases(&self) -> [u64; 6] {
        let (height, width, channels) = self.canvas;
        let (count, (region_height, region_width)) = self.regions;
        let (low_height, low_width) = self.low_resolution.unwrap_or_default();
        let canvas = height * width;
        let history = self.history * canvas;
        [
            canvas,
            canvas,
            canvas,
            history,
            count * region_height * region_width,
            low_height * low_width,
        ]
        .map(|pixels| (pixels * channels * size_of::<f32>()) as u64)
    }

    /// Bytes of the output's samples.
    pub fn samples(&self) -> u64 {
        (self.rows.0 * self.rows.1) as u64
    }

    /// The whole work of the job, as its journal counts it.
    pub fn all(&self) -> Done {
        Done {
            enlarged: self.enlarged.is_some(),
            tiles: self.tiles,
            low_resolution: self.low_resolution.is_some(),
            steps: self.steps,
            regions: self.regions.0,
            rows: self.rows.0,
        }
    }
}

/// The canvases of a job.
#[derive(Debug)]
pub struct Files {
    /// The latent of the resized input.
    pub zl: Latent,
    /// z before and after a step, alternating: a step reads one buffer and writes the other, so that an
    /// interrupted step can be repeated.
    pub z: [Latent; 2],
    /// History of a multistep sampler.
    pub history: Option<History>,
    /// Noise predictions of all regions, stacked vertically: `[regions · height, width, C]`.
    pub predictions: Latent,
    pub low_resolution: Option<Latent>,
    /// What a network made of the picture before all else, floats; `None` without one, and where nothing is kept.
    pub enlarged: Option<RowFile>,
    /// Decoded rows of the output; `None` where nothing is kept.
    pub rows: Option<RowFile>,
}

impl Files {
    /// Creates the files in `folder`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(folder: &Path, layout: &WorkLayout) -> Result<Self, Error> {
        let rows = RowFile::create(&folder.join(ROWS), layout.rows)?;
        let create = |size| RowFile::create(&folder.join(ENLARGED), size);
        let enlarged = layout.enlarged.map(create).transpose()?;
        Self::with(layout, (enlarged, Some(rows)), |name, height, width, channels| {
            Latent::create(&folder.join(name), height, width, channels)
        })
    }

    /// Opens the files of an earlier process in `folder`.
    ///
    /// # Errors
    /// A file that is missing or of another size.
    pub fn open(folder: &Path, layout: &WorkLayout) -> Result<Self, Error> {
        let rows = RowFile::open(&folder.join(ROWS), layout.rows)?;
        let open = |size| RowFile::open(&folder.join(ENLARGED), size);
        let enlarged = layout.enlarged.map(open).transpose()?;
        Self::with(layout, (enlarged, Some(rows)), |name, height, width, channels| {
            Latent::open(&folder.join(name), height, width, channels)
        })
    }

    /// Canvases of which nothing is kept, the large ones in files without names in `folder`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn temporary(folder: &Path, layout: &WorkLayout) -> Result<Self, Error> {
        Self::with(layout, (None, None), |_, height, width, channels| {
            Latent::temporary(folder, height, width, channels)
        })
    }

    fn with(
        layout: &WorkLayout,
        (enlarged, rows): (Option<RowFile>, Option<RowFile>),
        latent: impl Fn(&str, usize, usize, usize) -> Result<Latent, CanvasError>,
    ) -> Result<Self, Error> {
        let (height, width, channels) = layout.canvas;
        let (count, (region_height, region_width)) = layout.regions;
        Ok(Self {
            zl: latent(ZL, height, width, channels)?,
            z: [latent(Z[0], height, width, channels)?, latent(Z[1], height, width, channels)?],
            history: (layout.history > 0)
                .then(|| latent(HISTORY, layout.history * height, width, channels))
                .transpose()?
                .map(|canvases| History::new(canvases, height)),
            predictions: latent(PREDICTIONS, count * region_height, region_width, channels)?,
            low_resolution: (layout.low_resolution)
                .map(|(height, width)| latent(LOW_RESOLUTION, height, width, channels))
                .transpose()?,
            enlarged,
            rows,
        })
    }
}

/// Writes a small file atomically, through the temporary name `part`.
pub fn write_whole(folder: &Path, name: &str, part: &str, text: &str) -> Result<(), Error> {
    let (path, temporary) = (folder.join(name), folder.join(part));
    let write = || {
        // A link of that name, or what a kill left, is not written to but replaced.
        let _ = fs::remove_file(&temporary);
        let mut file = File::create_new(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        // Directory entries must survive a power cut as well. Some systems cannot open folders.
        File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(()))
    };
    write().map_err(|error| Error::in_file(&path, error))
}

/// A small file that [`write_whole`] wrote: of no more than [`LARGEST_TEXT`], whatever lies there now.
pub fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST_TEXT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_TEXT {
        let what = format!("larger than {}: no job wrote it", units::bytes(LARGEST_TEXT));
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(text)
}

/// Removes all files of an earlier job except the lock and the lease.
pub fn clear(folder: &Path) {
    // The description is removed first: without it the other files are ignored.
    for name in FILES {
        let _ = fs::remove_file(folder.join(name));
    }
    let input = folder.join(INPUT);
    if fs::symlink_metadata(&input).is_ok_and(|found| found.is_dir()) {
        remove(&input);
    }
}

/// Removes a work folder. Files that cannot be removed are overwritten by the next job.
pub fn remove(folder: &Path) {
    clear(folder);
    // The lease is the last: who gets it finds no lock that is about to be removed.
    let _ = fs::remove_file(folder.join(LOCK));
    let lease = folder.join(LEASE);
    let _ = fs::remove_file(&lease);
    if fs::remove_dir(folder).is_err() {
        // Of processes that died while they took it over.
        claims(&lease).iter().for_each(|claim| drop(fs::remove_file(claim)));
        let _ = fs::remove_dir(folder);
    }
}
