//! The latent of a whole picture, in a memory-mapped file instead of host memory.
//!
//! A 16384² picture has a latent of 64 MiB (SDXL) to 1 GiB (a VAE with f = 4 and 16 channels), and a run
//! keeps several of them. The system pages a mapped file in and out on access, and its contents outlive the
//! process.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::Path;

use fs4::FileExt as _;
use memmap2::MmapMut;

use super::error::{CanvasError, check_len};
use super::grid::Region;
use crate::temporary::{not_through_links, unlinked_file};

/// An `f32` array of `height × width × channels`, channels-last, mapped into memory and zero at first.
///
/// All constructors give the same type: one path for a thumbnail and for a poster.
#[derive(Debug)]
pub struct Latent {
    height: usize,
    width: usize,
    channels: usize,
    map: MmapMut,
    /// It has a file that outlives the process.
    is_kept: bool,
}

/// The most bytes of a [temporary](Latent::temporary) latent that is held in memory.
pub(crate) const MEMORY_BYTES: usize = 64 << 20;

impl Latent {
    /// A zeroed latent in a new file; one of that name is replaced.
    ///
    /// Not public: nothing here keeps two latents of one file apart, which the lock of the work folder does.
    ///
    /// The file's blocks are reserved at once, not left sparse: a full disk must be an error here,
    /// because later it would be a bus fault in the middle of a store.
    ///
    /// # Errors
    /// [`CanvasError::EmptyLatent`], [`CanvasError::TooLarge`], [`CanvasError::File`] (a full disk among
    /// others) or [`CanvasError::Map`].
    pub(crate) fn create(
        path: &Path,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<Self, CanvasError> {
        let bytes = byte_len(height, width, channels)?;
        let file = create_file(path, bytes)
            .map_err(|source| CanvasError::File { path: path.to_owned(), source })?;
        // SAFETY: the file belongs to a folder that one process at a time holds the lock of, so nobody else shortens
        // or changes it while it is mapped.
        unsafe { Self::map(&file, height, width, channels) }
    }

    /// A zeroed latent that nobody else sees and nothing is left of: in memory, or, if it is large, in a file without a
    /// name in this folder.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub(crate) fn temporary(
        folder: &Path,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<Self, CanvasError> {
        let bytes = byte_len(height, width, channels)?;
        if bytes <= MEMORY_BYTES {
            return Self::in_memory(height, width, channels);
        }
        let create = || {
            let mut file = unlinked_file(folder)?;
            reserve(&mut file, bytes)?;
            Ok(file)
        };
        let file =
            create().map_err(|source| CanvasError::File { path: folder.to_owned(), source })?;
        // SAFETY: the file has no name and this is its only handle, so nobody else shortens or changes it.
        let latent = unsafe { Self::map(&file, height, width, channels) }?;
        Ok(Self { is_kept: false, ..latent })
    }

    /// The latent that [`create`](Self::create) made in this file, with what was written to it since.
    ///
    /// # Errors
    /// [`CanvasError::FileLength`] for a file of another length; else as `create`.
    pub(crate) fn open(
        path: &Path,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<Self, CanvasError> {
        let expected = byte_len(height, width, channels)?;
        let in_file = |source| CanvasError::File { path: path.to_owned(), source };
        let file = not_through_links().open(path).map_err(in_file)?;
        let actual = file.metadata().map_err(in_file)?.len();
        if actual != expected as u64 {
            return Err(CanvasError::FileLength { path: path.to_owned(), expected, actual });
        }
        // SAFETY: as in `create`.
        unsafe { Self::map(&file, height, width, channels) }
    }

    /// The file, mapped.
    ///
    /// # Safety
    /// Nobody else changes or shortens the file while the latent lives.
    unsafe fn map(
        file: &File,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<Self, CanvasError> {
        let bytes = byte_len(height, width, channels)?;
        // SAFETY: the caller's promise.
        let map = unsafe { MmapMut::map_mut(file) }
            .map_err(|source| CanvasError::Map { bytes, source })?;
        Ok(Self { height, width, channels, map, is_kept: true })
    }

    /// A zeroed latent in anonymous memory: for canvases that are small beside the model.
    ///
    /// # Errors
    /// [`CanvasError::EmptyLatent`], [`CanvasError::TooLarge`] or [`CanvasError::Map`].
    pub fn in_memory(height: usize, width: usize, channels: usize) -> Result<Self, CanvasError> {
        let bytes = byte_len(height, width, channels)?;
        let map = MmapMut::map_anon(bytes).map_err(|source| CanvasError::Map { bytes, source })?;
        Ok(Self { height, width, channels, map, is_kept: false })
    }

    /// Rows, in latent pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns, in latent pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Channels of one latent pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Values in one row: `width × channels`.
    pub fn row_len(&self) -> usize {
        self.width * self.channels
    }

    /// All values, `[height, width, channels]`.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: a map starts on a page boundary and so is aligned for f32; it holds exactly
        // `height * width * channels` of them (see `byte_len`); every bit pattern is a valid f32; the
        // borrow of `self` keeps the map alive and unaliased by `as_mut_slice`.
        unsafe {
            std::slice::from_raw_parts(
                self.map.as_ptr().cast::<f32>(),
                self.map.len() / size_of::<f32>(),
            )
        }
    }

    /// All values, `[height, width, channels]`, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let len = self.map.len() / size_of::<f32>();
        // SAFETY: as in `as_slice`; the exclusive borrow of `self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast::<f32>(), len) }
    }

    /// A band of whole rows, `[rows, width, channels]`: the unit in which steps and priors stream.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(&self, rows: Range<usize>) -> &[f32] {
        let len = self.row_len();
        &self.as_slice()[rows.start * len..rows.end * len]
    }

    /// Mutable view of rows; see [`Latent::rows`].
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows_mut(&mut self, rows: Range<usize>) -> &mut [f32] {
        let len = self.row_len();
        &mut self.as_mut_slice()[rows.start * len..rows.end * len]
    }

    /// Flushes these rows to the disk; does nothing without a file that is kept.
    ///
    /// # Errors
    /// The operating system's error from writing the mapped rows back.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn flush_rows(&self, rows: Range<usize>) -> io::Result<()> {
        assert!(rows.end <= self.height, "rows {rows:?} of {}", self.height);
        if !self.is_kept {
            return Ok(());
        }
        let row_bytes = self.row_len() * size_of::<f32>();
        self.map.flush_range(rows.start * row_bytes, rows.len() * row_bytes)
    }

    /// Copies a region into `out`, `[region.height, region.width, channels]`. Where the region reaches past
    /// the canvas, the canvas is continued by reflection, as numpy's `pad(mode="reflect")` does.
    ///
    /// # Errors
    /// [`CanvasError::Length`] if `out` does not have the region's size.
    pub fn gather(&self, region: &Region, out: &mut [f32]) -> Result<(), CanvasError> {
        let c = self.channels;
        check_len("the buffer of a region", region.height * region.width * c, out.len())?;
        let inside = self.width.saturating_sub(region.x).min(region.width);
        for (dy, out_row) in out.chunks_exact_mut(region.width * c).enumerate() {
            let y = reflect(region.y + dy, self.height);
            let row = self.rows(y..y + 1);
            let (direct, mirrored) = out_row.split_at_mut(inside * c);
            if inside > 0 {
                direct.copy_from_slice(&row[region.x * c..(region.x + inside) * c]);
            }
            for (dx, pixel) in mirrored.chunks_exact_mut(c).enumerate() {
                let x = reflect(region.x + inside + dx, self.width);
                pixel.copy_from_slice(&row[x * c..(x + 1) * c]);
            }
        }
        Ok(())
    }

    /// Writes a region's values, `[region.height, region.width, channels]`, onto the canvas, leaving out
    /// what lies past its edges: the inverse of [`Latent::gather`].
    ///
    /// # Errors
    /// [`CanvasError::Length`] if `values` does not have the region's size.
    pub fn scatter(&mut self, region: &Region, values: &[f32]) -> Result<(), CanvasError> {
        let c = self.channels;
        check_len("the values of a region", region.height * region.width * c, values.len())?;
        let inside = self.width.saturating_sub(region.x).min(region.width);
        let rows = self.height.saturating_sub(region.y).min(region.height);
        if inside == 0 {
            return Ok(());
        }
        for (dy, source) in values.chunks_exact(region.width * c).take(rows).enumerate() {
            let y = region.y + dy;
            self.rows_mut(y..y + 1)[region.x * c..(region.x + inside) * c]
                .copy_from_slice(&source[..inside * c]);
        }
        Ok(())
    }
}

/// Index into `0..len` of position `i` on an axis that is mirrored at both ends without repeating the end
/// itself, again and again if need be: for `len` = 4, `0 1 2 3 2 1 0 1 2 …`. For `len` = 1, always 0.
pub fn reflect(i: usize, len: usize) -> usize {
    if len <= 1 {
        return 0;
    }
    let period = 2 * (len - 1);
    let i = i % period;
    if i < len { i } else { period - i }
}

/// The places of `0..len` that a range of positions on such an axis lies on: the shortest range that holds them all.
pub(crate) fn reflected(range: &Range<usize>, len: usize) -> Range<usize> {
    let places = range.clone().map(|at| reflect(at, len));
    let (low, high) = places.fold((len, 0), |(low, high), at| (low.min(at), high.max(at)));
    low..high + 1
}

fn byte_len(height: usize, width: usize, channels: usize) -> Result<usize, CanvasError> {
    if height == 0 || width == 0 || channels == 0 {
        return Err(CanvasError::EmptyLatent { height, width, channels });
    }
    height
        .checked_mul(width)
        .and_then(|n| n.checked_mul(channels))
        .and_then(|n| n.checked_mul(size_of::<f32>()))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(|| CanvasError::TooLarge {
            what: format!("a canvas of {height} x {width} x {channels} values"),
        })
}

/// A new file of `bytes` zeros whose blocks are reserved.
fn create_file(path: &Path, bytes: usize) -> io::Result<File> {
    let mut file = not_through_links().create(true).truncate(true).open(path)?;
    reserve(&mut file, bytes)?;
    Ok(file)
}

/// Makes an empty file one of `bytes` zeros whose blocks are reserved.
fn reserve(file: &mut File, bytes: usize) -> io::Result<()> {
    if file.allocate(bytes as u64).is_err() {
        // Not every file system can reserve; writing is slower and says more clearly what is wrong.
        write_zeros(file, bytes)?;
    }
    Ok(())
}

fn write_zeros(file: &mut File, bytes: usize) -> io::Result<()> {
    file.rewind()?;
    let zeros = vec![0u8; bytes.min(1 << 20)];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(zeros.len());
        file.write_all(&zeros[..n])?;
        left -= n;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(y: usize, x: usize, height: usize, width: usize) -> Region {
        Region { index: 0, row: 0, col: 0, y, x, height, width }
    }

    fn numbered(height: usize, width: usize, channels: usize) -> Latent {
        let mut latent = Latent::in_memory(height, width, channels).unwrap();
        for (i, v) in latent.as_mut_slice().iter_mut().enumerate() {
            *v = i as f32;
        }
        latent
    }

    #[test]
    fn reflection_repeats_numpy_pad_mode_reflect_for_every_small_size() {
        // np.pad(np.arange(n), (0, 7), mode="reflect")
        let expected: [&[usize]; 4] = [
            &[0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 1, 0, 1, 0, 1, 0, 1, 0],
            &[0, 1, 2, 1, 0, 1, 2, 1, 0, 1],
            &[0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2],
        ];
        for (n, row) in expected.iter().enumerate() {
            let ours: Vec<usize> = (0..row.len()).map(|i| reflect(i, n + 1)).collect();
            assert_eq!(&ours, row, "length {}", n + 1);
        }
    }

    #[test]
    fn gather_reads_a_window_and_mirrors_what_lies_past_the_edge() {
        let latent = numbered(2, 3, 2);
        let mut out = vec![0.0; 3 * 4 * 2];
        latent.gather(&region(1, 1, 3, 4), &mut out).unwrap();
        let row1 = [8.0, 9.0, 10.0, 11.0, 8.0, 9.0, 6.0, 7.0];
        let row0 = [2.0, 3.0, 4.0, 5.0, 2.0, 3.0, 0.0, 1.0];
        assert_eq!(out, [row1, row0, row1].concat());
    }

    #[test]
    fn gather_of_a_single_pixel_fills_the_region_with_it() {
        let mut latent = Latent::in_memory(1, 1, 2).unwrap();
        latent.as_mut_slice().copy_from_slice(&[3.0, 4.0]);
        let mut out = vec![0.0; 8 * 8 * 2];
        latent.gather(&region(0, 0, 8, 8), &mut out).unwrap();
        assert!(out.chunks_exact(2).all(|p| p == [3.0, 4.0]));
    }

    #[test]
    fn scatter_undoes_gather_and_leaves_the_rest_alone() {
        let source = numbered(5, 7, 3);
        let mut target = Latent::in_memory(5, 7, 3).unwrap();
        let window = region(2, 4, 6, 6);
        let mut values = vec![0.0; 6 * 6 * 3];
        source.gather(&window, &mut values).unwrap();
        target.scatter(&window, &values).unwrap();
        for y in 0..5 {
            for x in 0..7 {
                let i = (y * 7 + x) * 3;
                let expected =
                    if y >= 2 && x >= 4 { &source.as_slice()[i..i + 3] } else { &[0.0; 3][..] };
                assert_eq!(&target.as_slice()[i..i + 3], expected, "({y}, {x})");
            }
        }
    }

    #[test]
    fn a_latent_in_a_file_is_found_again_as_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("z");
        let mut latent = Latent::create(&path, 300, 400, 4).unwrap();
        assert!(latent.as_slice().iter().all(|&v| v == 0.0));
        latent.rows_mut(299..300)[1599] = 7.5;
        latent.flush_rows(299..300).unwrap();
        drop(latent);
        let latent = Latent::open(&path, 300, 400, 4).unwrap();
        assert_eq!(latent.rows(299..300)[1599], 7.5);
        assert_eq!(latent.as_slice().len(), 300 * 400 * 4);
        let other = Latent::open(&path, 300, 401, 4).unwrap_err();
        assert!(matches!(other, CanvasError::FileLength { actual: 1_920_000, .. }), "{other}");
        assert!(Latent::create(&path, 2, 2, 1).unwrap().as_slice() == [0.0; 4]);
    }

    #[test]
    fn a_temporary_latent_leaves_nothing_in_memory_or_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for rows in [4, MEMORY_BYTES / 4096 + 1] {
            let mut latent = Latent::temporary(dir.path(), rows, 1024, 1).unwrap();
            assert!(latent.rows(rows - 1..rows).iter().all(|&v| v == 0.0));
            latent.rows_mut(rows - 1..rows)[5] = 2.5;
            latent.flush_rows(0..rows).unwrap();
            assert_eq!(latent.rows(rows - 1..rows)[5], 2.5);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        let gone = dir.path().join("gone");
        assert!(Latent::temporary(&gone, 4, 4, 1).is_ok());
        assert!(matches!(
            Latent::temporary(&gone, MEMORY_BYTES, 1, 1),
            Err(CanvasError::File { .. })
        ));
    }

    #[test]
    fn zeros_that_are_written_and_not_reserved_are_zeros_too() {
        let mut file = tempfile::tempfile().unwrap();
        write_zeros(&mut file, (3 << 20) + 5).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (3 << 20) + 5);
    }

    #[test]
    fn impossible_latents_are_errors_and_not_panics() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("not there");
        assert!(matches!(Latent::create(&gone.join("z"), 2, 2, 1), Err(CanvasError::File { .. })));
        assert!(matches!(Latent::in_memory(0, 2, 1), Err(CanvasError::EmptyLatent { .. })));
        assert!(matches!(Latent::in_memory(usize::MAX, 2, 1), Err(CanvasError::TooLarge { .. })));
        assert!(matches!(
            Latent::in_memory(1 << 40, 1 << 30, 4),
            Err(CanvasError::TooLarge { .. })
        ));
        let mut short = vec![0.0; 3];
        assert!(matches!(
            Latent::in_memory(2, 2, 1).unwrap().gather(&region(0, 0, 2, 2), &mut short),
            Err(CanvasError::Length { expected: 4, actual: 3, .. })
        ));
    }
}
