//! Room on the disks of a job, looked at before the work: for its work folder, and for the output, which is written
//! hours later and perhaps on another disk.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    image::{Format, Output},
    pipeline::error::Error,
    units,
};

/// Checks that `work`, a folder and the bytes that are to be added to it, of which those of `maps` could be spared, has
/// room, and so has the folder of the output, if there is one, for a file of `samples` bytes before compression. Returns a note if the output may still turn out too large.
///
/// # Errors
/// [`Error::NoRoom`], [`Error::NoRoomForOutput`], or an I/O error.
pub fn check(
    (work, mut need, maps): (&Path, u64, u64),
    output: Option<(&Output, Format)>,
    samples: u64,
) -> Result<Option<String>, Error> {
    let mut note = None;
    let output = output.and_then(|(output, format)| Some((output, format, folder_of(output)?)));
    if let Some((output, format, folder)) = output {
        let [least, most] = bytes_of(format, samples);
        let mut free = free_in(&folder)?;
        if is_one_disk(work, &folder) {
            free = free.saturating_sub(need);
            need += least;
        } else if least > free {
            return Err(Error::NoRoomForOutput { output: output.name(), need: least, free });
        }
        if most > free {
            let [most, free] = [most, free].map(units::bytes);
            note = Some(format!(
                "{}: may need up to {most} of disk, and {free} are free",
                output.name()
            ));
        }
    }
    let free = free_in(work)?;
    if need > free {
        return Err(Error::NoRoom { folder: work.to_owned(), need, maps, free });
    }
    Ok(note)
}

/// The folder in which the output's bytes gather; `None` for a stream or a device.
fn folder_of(output: &Output) -> Option<PathBuf> {
    let Output::Path(path) = output else { return None };
    // The file that a link leads to is the one that is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return None;
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => Some(folder.to_owned()),
        _ => Some(PathBuf::from(".")),
    }
}

/// The least and the most bytes that a photograph takes on the output's disk. The least is a little under what the most
/// compressible ones take, so that no job is refused for nothing. The samples of a WebP are gathered in a file before
/// they are compressed.
fn bytes_of(format: Format, samples: u64) -> [u64; 2] {
    match format {
        Format::Jpeg => [samples / 64, samples / 2],
        Format::WebP => [samples + samples / 8, 2 * samples],
        Format::Png | Format::Tiff | Format::Exr => [samples / 8, samples],
        Format::Ppm | Format::Pam | Format::Farbfeld => [samples, 2 * samples],
    }
}

fn free_in(folder: &Path) -> Result<u64, Error> {
    fs4::available_space(folder).map_err(|error| Error::in_file(folder, error))
}

#[cfg(unix)]
fn is_one_disk(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    device(a) == device(b)
}

/// Two disks have the same number of free bytes by chance alone.
#[cfg(not(unix))]
fn is_one_disk(a: &Path, b: &Path) -> bool {
    free_in(a).ok() == free_in(b).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_small_for_work_and_output_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = Output::Path(folder.path().join("a.png"));
        let free = free_in(folder.path()).unwrap();
        let of = |work: u64, output: &Output, samples: u64| {
            check((folder.path(), work, 0), Some((output, Format::Png)), samples)
        };
        assert_eq!(of(1000, &path, 1000).unwrap(), None);
        let note = of(1000, &path, 2 * free).unwrap().unwrap();
        assert!(note.contains("a.png: may need up to"), "{note}");
        assert!(matches!(of(free * 2, &path, 0), Err(Error::NoRoom { .. })));
        // Either alone would fit.
        let half = free / 10 * 6;
        of(half, &Output::Stdout, half * 8).unwrap();
        assert!(matches!(of(half, &path, half * 8), Err(Error::NoRoom { .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_of_the_output_alone_is_told_by_the_outputs_name() {
        // A file system of the kernel's, which has no room and is another one.
        let output = Output::Path("/proc/self/out.png".into());
        let folder = tempfile::tempdir().unwrap();
        let output = Some((&output, Format::Png));
        let error = check((folder.path(), 1000, 0), output, 80_000).unwrap_err();
        let expected = "/proc/self/out.png: needs about 9.8 KiB of disk, and 0 B are free";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
