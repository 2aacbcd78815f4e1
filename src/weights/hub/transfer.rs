//! Download of one file from the hub. It grows under a name that ends in `.part` and gets its own name when it is
//! complete and its bytes are the right ones, so a file with its own name can be trusted as far as the disk
//! can.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    Hub, HubError, TransferProgress, TransferWork,
    client::{Attempts, Opened, RequestFailure},
    digest::{CHUNK, feed, sha256_file},
};
use crate::units::hex;

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub repository: String,
    /// 40 hexadecimal digits
    pub commit: String,
    pub path: String,
    /// bytes, where known
    pub size: Option<u64>,
    /// digest, where known; else the one that the hub declares counts
    pub sha256: Option<String>,
}

/// A file that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub size: u64,
    pub sha256: String,
    /// bytes that came over the network
    pub received: u64,
}

/// Path under which a file grows.
pub fn part_path(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".part");
    name.into()
}

/// Brings a file to `target`, or finds it there. The caller holds the lock of its folder.
///
/// # Errors
/// Any [`HubError`]. What arrived is kept unless it is known to be wrong.
pub fn fetch(
    hub: &Hub,
    wanted: &Wanted,
    target: &Path,
    progress: &mut dyn TransferProgress,
) -> Result<Fetched, HubError> {
    if let Some(found) = already_there(wanted, target, progress)? {
        return Ok(found);
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|error| HubError::io(folder, error))?;
    }
    let mut download = Download::resume(wanted, target, progress)?;
    let result = download.run(hub, progress);
    if download.length == 0 {
        // Nothing arrived, so there is nothing to keep.
        let _ = fs::remove_file(&download.part);
    }
    result?;
    download.finish(target)
}

/// Finds the file under its own name, if it is the right one. Another one there is deleted.
fn already_there(
    wanted: &Wanted,
    target: &Path,
    progress: &mut dyn TransferProgress,
) -> Result<Option<Fetched>, HubError> {
    let Ok(metadata) = target.metadata() else { return Ok(None) };
    let size = metadata.len();
    if wanted.size.is_none_or(|wanted| wanted == size) {
        progress.begin(TransferWork::Check, &wanted.path, 0, Some(size));
        let (size, sha256) = sha256_file(target, progress)?;
        if wanted.sha256.as_ref().is_none_or(|wanted| *wanted == sha256) {
            return Ok(Some(Fetched { size, sha256, received: 0 }));
        }
    }
    progress.note(&format!("{}: damaged, so it is downloaded again", target.display()));
    fs::remove_file(target).map_err(|error| HubError::io(target, error))?;
    Ok(None)
}

/// A file that is still growing.
struct Download<'a> {
    wanted: &'a Wanted,
    /// name of the file in messages
    name: String,
    part: PathBuf,
    file: File,
    /// digest of the first `length` bytes, which are on the disk
    hasher: Sha256,
    length: u64,
    received: u64,
    /// size and digest, as soon as they are known
    size: Option<u64>,
    sha256: Option<String>,
    /// tag of the bytes that arrived in this process
    etag: Option<String>,
    complete: bool,
}

impl<'a> Download<'a> {
    /// Continues where an earlier attempt ended, however it ended.
    fn resume(
        wanted: &'a Wanted,
        target: &Path,
        progress: &mut dyn TransferProgress,
    ) -> Result<Self, HubError> {
        let part = part_path(target);
        let io = |error| HubError::io(&part, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&part)
            .map_err(io)?;
        let there = file.metadata().map_err(io)?.len();
        let mut hasher = Sha256::new();
        let mut length = 0;
        if there > 0 && wanted.size.is_none_or(|size| there <= size) {
            progress.begin(TransferWork::Check, &wanted.path, 0, Some(there));
            length = feed(&mut file, &mut hasher, &part, progress)?;
        } else {
            file.set_len(0).map_err(io)?;
        }
        Ok(Self {
            wanted,
            name: format!("{}/{}", wanted.repository, wanted.path),
            file,
            hasher,
            length,
            received: 0,
            size: wanted.size,
            sha256: wanted.sha256.clone(),
            etag: None,
            complete: wanted.size == Some(length),
            part,
        })
    }

    /// Sends requests until the file is complete or a failure is final.
    fn run(&mut self, hub: &Hub, progress: &mut dyn TransferProgress) -> Result<(), HubError> {
        let mut attempts = Attempts::default();
        while !self.complete {
            if let Err(failure) = self.attempt(hub, &mut attempts, progress) {
                attempts.wait(&self.name, failure, progress)?;
            }
        }
        Ok(())
    }

    /// Sends one request for the rest of the file, and takes what the connection brings.
    fn attempt(
        &mut self,
        hub: &Hub,
        attempts: &mut Attempts,
        progress: &mut dyn TransferProgress,
    ) -> Result<(), RequestFailure> {
        if progress.interrupted() {
            return Err(RequestFailure::Final(HubError::Interrupted));
        }
        let Wanted { repository, commit, path, .. } = self.wanted;
        let mut opened = hub.open((repository, commit, path), self.length, self.etag.as_deref())?;
        self.compare(&opened)?;
        match (opened.status, opened.range) {
            (206, Some((first, _))) if first == self.length => {}
            // The server has nothing beyond the local bytes: they are complete, or no beginning of this file.
            (416, _) if self.size.is_none_or(|size| size == self.length) && self.length > 0 => {
                self.complete = true;
                return Ok(());
            }
            (200, _) => self.restart()?,
            (status, _) => {
                self.restart()?;
                let reason = format!("the hub answered {status} for another range");
                return Err(RequestFailure::Passing { reason, status: None, wait: None });
            }
        }
        let whole = opened.length.map(|length| self.length.saturating_add(length));
        if let (Some(expected), Some(got)) = (self.size, whole)
            && expected != got
        {
            return Err(RequestFailure::Final(self.wrong_size(expected, got)));
        }
        self.etag = opened.etag.take();
        progress.begin(TransferWork::Download, &self.wanted.path, self.length, self.size.or(whole));
        let mut body = opened.body.into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            if progress.interrupted() {
                return Err(RequestFailure::Final(HubError::Interrupted));
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(self.cut()),
            };
            self.write(&buffer[..count]).map_err(RequestFailure::Final)?;
            attempts.progressed();
            progress.advance(count as u64);
            if let Some(expected) = self.size.filter(|&size| size < self.length) {
                return Err(RequestFailure::Final(self.wrong_size(expected, self.length)));
            }
        }
        if self.size.or(whole).is_some_and(|size| self.length < size) {
            return Err(self.cut());
        }
        self.complete = true;
        Ok(())
    }

    /// Compares the hub's facts about the file with what is known of it, before any byte is taken.
    fn compare(&mut self, opened: &Opened) -> Result<(), RequestFailure> {
        let differs = |expected: &dyn ToString, got: &dyn ToString| {
            RequestFailure::Final(HubError::Differs {
                file: self.name.clone(),
                expected: expected.to_string(),
                got: got.to_string(),
            })
        };
        if let Some(commit) = opened.commit.as_ref().filter(|&it| *it != self.wanted.commit) {
            return Err(differs(&self.wanted.commit, commit));
        }
        if let (Some(expected), Some(got)) = (&self.sha256, &opened.linked_sha256)
            && expected != got
        {
            return Err(differs(&format!("SHA-256 {expected}"), got));
        }
        if let (Some(expected), Some(got)) = (self.size, opened.linked_size)
            && expected != got
        {
            return Err(differs(&format!("{expected} bytes"), &got));
        }
        self.size = self.size.or(opened.linked_size);
        if self.sha256.is_none() {
            self.sha256.clone_from(&opened.linked_sha256);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), RequestFailure> {
        self.hasher = Sha256::new();
        self.length = 0;
        self.etag = None;
        let io = |error| RequestFailure::Final(HubError::io(&self.part, error));
        self.file.set_len(0).map_err(io)?;
        self.file.rewind().map_err(io)
    }

    /// Appends bytes, so that exactly those on the disk are counted and hashed.
    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part of these bytes may be there: the next attempt hashes whatever it finds.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return Err(HubError::io(&self.part, error));
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.received += bytes.len() as u64;
        Ok(())
    }

    fn cut(&self) -> RequestFailure {
        let reason = format!("the connection was cut after {} bytes", self.length);
        RequestFailure::Passing { reason, status: None, wait: None }
    }

    fn wrong_size(&self, expected: u64, got: u64) -> HubError {
        let _ = fs::remove_file(&self.part);
        HubError::WrongSize { file: self.name.clone(), expected, got }
    }

    /// Checks the whole file and gives it its own name.
    fn finish(self, target: &Path) -> Result<Fetched, HubError> {
        let sha256 = hex(&self.hasher.finalize());
        if let Some(expected) = self.sha256.filter(|expected| *expected != sha256) {
            fs::remove_file(&self.part).map_err(|error| HubError::io(&self.part, error))?;
            return Err(HubError::WrongHash { file: self.name, expected, got: sha256 });
        }
        self.file.sync_all().map_err(|error| HubError::io(&self.part, error))?;
        drop(self.file);
        fs::rename(&self.part, target).map_err(|error| HubError::io(target, error))?;
        Ok(Fetched { size: self.length, sha256, received: self.received })
    }
}
