//! The contents of a weights file: mapped, part of this program, or in memory. Weights that are
//! kept as stored point into one of these.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// The contents of a file.
#[derive(Clone)]
pub enum Bytes {
    /// A file mapped into memory.
    Mapped(Arc<Mmap>),
    /// A part of the program.
    Static(&'static [u8]),
    /// A copy in memory.
    Heap(Arc<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Mapped(_) => "Mapped",
            Self::Static(_) => "Static",
            Self::Heap(_) => "Heap",
        };
        write!(f, "{kind}[{} bytes]", self.len())
    }
}

impl Bytes {
    /// Maps a file into memory.
    ///
    /// # Errors
    /// A file that is missing or cannot be mapped.
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read, as bytes and as numbers for which every pattern of bits is
        // valid. Should another program change the file meanwhile, weights would change with it;
        // this program replaces files, it never changes one.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self::Mapped(Arc::new(map)))
    }

    /// Hints that these bytes have been copied and are not needed soon: pages of a mapped file then
    /// no longer count as memory of this process. Reading them again reads the file again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && range.start < range.end
            && range.end <= map.len()
        {
            // SAFETY: the map is of a file and is never written to, so a page that is dropped
            // comes back with the same contents.
            let dropped = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            // It is advice: where the system declines it, only more memory is counted.
            drop(dropped);
        }
        #[cfg(not(unix))]
        drop(range);
    }
}
