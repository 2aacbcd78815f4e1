//! One file of an integration on the disk. Each carries a seal, a digest of itself, so that a later version of the program
//! can tell a file of its own that nobody has touched from one that was changed, and both from somebody else's, without
//! a record of its own.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    path::Path,
};

use cupscale::units;
use sha2::{Digest as _, Sha256};

use super::{
    error::IntegrateError,
    table::{Integration, Template},
};

/// Words that every file has near its beginning, before the program's version.
const MARK: &str = "Part of the integration of cupscale-fast ";
/// What stands before the seal.
const SEAL: &str = "seal ";
/// Hexadecimal digits of a seal.
const DIGITS: usize = 32;
/// The longest file that is looked into; those of this program have some kilobytes.
const LONGEST: u64 = 1 << 20;

/// What is at the place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    /// As this program would write it.
    Same,
    /// As another version wrote it, or one that lies elsewhere.
    Other,
    /// Written by this program and changed since.
    Changed,
    /// Somebody else's.
    Foreign,
}

/// The text of a file as it is written below `root`, with its seal.
///
/// # Errors
/// A path that the file's language cannot write.
pub fn text(
    integration: &Integration,
    template: &Template,
    root: &Path,
    program: &Path,
) -> Result<String, IntegrateError> {
    let quoted = |path: &Path| {
        let text = path.to_str().and_then(|path| template.quote.quote(path));
        text.ok_or_else(|| IntegrateError::Name {
            path: path.to_owned(),
            file: root.join(template.path),
        })
    };
    let mut text = template.text.replace("@version@", env!("CARGO_PKG_VERSION"));
    if text.contains("@program@") {
        text = text.replace("@program@", &quoted(program)?);
    }
    if text.contains("@script@")
        && let Some(script) = integration.files.first()
    {
        text = text.replace("@script@", &quoted(&root.join(script.path))?);
    }
    let blank = "0".repeat(DIGITS);
    let named = format!("{} ({SEAL}{blank})", integration.name);
    let text = text.replacen("@integration@", &named, 1);
    let seal = digest(&text);
    Ok(text.replacen(&blank, &seal, 1))
}

fn digest(text: &str) -> String {
    let mut seal = units::hex(&Sha256::digest(text.as_bytes()));
    seal.truncate(DIGITS);
    seal
}

/// What is at `path`, where `text` would be written.
///
/// # Errors
/// A file that cannot be read.
pub fn state(path: &Path, text: &str) -> Result<State, IntegrateError> {
    let failed = |source| IntegrateError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() <= LONGEST => {}
        Ok(_) => return Ok(State::Foreign),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(State::Absent);
        }
        Err(error) => return Err(failed(error)),
    }
    let bytes = fs::read(path).map_err(failed)?;
    if bytes == text.as_bytes() {
        return Ok(State::Same);
    }
    let found = String::from_utf8_lossy(&bytes);
    let Some(mark) = found.lines().take(5).find(|line| line.contains(MARK)) else {
        return Ok(State::Foreign);
    };
    let seal = mark.split(SEAL).nth(1).and_then(|rest| rest.get(..DIGITS));
    let Some(seal) = seal.filter(|seal| seal.bytes().all(|digit| digit.is_ascii_hexdigit())) else {
        return Ok(State::Foreign);
    };
    let unsealed = found.replacen(seal, &"0".repeat(DIGITS), 1);
    Ok(if digest(&unsealed) == seal { State::Other } else { State::Changed })
}

/// Writes a file, with the folders that it lies in; it appears complete or not at all.
///
/// # Errors
/// Those of the operating system.
pub fn write(path: &Path, text: &str, is_executable: bool) -> Result<(), IntegrateError> {
    let written = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".cupscale-").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = if is_executable { 0o755 } else { 0o644 };
            file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        }
        #[cfg(not(unix))]
        let _ = is_executable;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    written().map_err(|source| IntegrateError::Io { path: path.to_owned(), source })
}

/// Removes a file, and folders of this program's own below `root` that are empty then.
///
/// # Errors
/// Those of the operating system.
pub fn remove(path: &Path, root: &Path) -> Result<(), IntegrateError> {
    fs::remove_file(path).map_err(|source| IntegrateError::Io { path: path.to_owned(), source })?;
    remove_compiled(path);
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
    for folder in folders.filter(|folder| is_own(folder, root)) {
        // One with something in it stays.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

/// `true` for a folder below `root` that is named after this program, or lies in one that is.
fn is_own(folder: &Path, root: &Path) -> bool {
    let below = folder.strip_prefix(root).unwrap_or(Path::new(""));
    below.iter().any(|name| name.to_string_lossy().to_lowercase().starts_with("cupscale"))
}

/// Removes what Python compiled from a file of a plug-in.
fn remove_compiled(path: &Path) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else { return };
    if path.extension().is_none_or(|extension| extension != "py") {
        return;
    }
    let cache = folder.join("__pycache__");
    let start = format!("{}.cpython-", stem.to_string_lossy());
    for entry in fs::read_dir(&cache).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&start) && name.ends_with(".pyc") {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(cache);
}
