//! Kinds of files by their contents. Weights are read for what they are, whatever their name says, and what a download
//! often leaves in their place (an error page, a pointer) is named, because its name hides it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::WeightsError;

/// Bytes from which a kind is told.
const HEAD: usize = 1024;
/// Longest header of a safetensors file (safetensors `tensor.rs`, `MAX_HEADER_SIZE`).
const LONGEST_HEADER: u64 = 100_000_000;

/// Kind of a file, as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Safetensors,
    Gguf,
    /// PyTorch's formats: a zip archive with a pickle in it, or a bare one
    Pickle,
    /// what stands in the place of a file that did not come
    StandIn(StandIn),
    /// a format that is known and holds no weights for this program; what it is, and what helps
    Foreign(&'static str),
    Unknown,
}

/// What stands in the place of a file that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StandIn {
    HtmlPage,
    XmlAnswer,
    LfsPointer,
    AnnexPointer,
}

impl StandIn {
    /// What it is and what helps, where `wanted` was expected.
    pub(super) fn reason(self, wanted: &str) -> String {
        match self {
            Self::HtmlPage => {
                format!("this is an HTML page, not {wanted}; download the file itself")
            }
            Self::XmlAnswer => {
                format!("this is a server's answer in XML, not {wanted}; download the file again")
            }
            Self::LfsPointer => {
                format!("a Git LFS pointer, not {wanted}: run git lfs pull where it was cloned")
            }
            Self::AnnexPointer => {
                format!("a git-annex pointer, not {wanted}: run git annex get where it was cloned")
            }
        }
    }

    /// Stand-in that a text file with these contents is, if it is one.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        let head = &bytes[..bytes.len().min(HEAD)];
        // Git LFS had another name before 2014.
        if [&b"version https://git-lfs.github.com/"[..], b"version https://hawser.github.com/"]
            .iter()
            .any(|start| head.starts_with(start))
        {
            return Some(Self::LfsPointer);
        }
        if head.starts_with(b"/annex/objects/") {
            return Some(Self::AnnexPointer);
        }
        if !head.starts_with(b"<") {
            return None;
        }
        let head = head.to_ascii_lowercase();
        let has = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
        if has(b"<!doctype html") || has(b"<html") || has(b"<head") || has(b"<body") {
            Some(Self::HtmlPage)
        } else {
            head.starts_with(b"<?xml").then_some(Self::XmlAnswer)
        }
    }
}

/// Formats of other programs: how they begin, what they are, and what helps.
const FOREIGN: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras); convert the model to safetensors"),
    (b"lmgg", "a GGML file of an old kind; convert it to GGUF"),
    (b"fmgg", "a GGML file of an old kind; convert it to GGUF"),
    (b"tjgg", "a GGML file of an old kind; convert it to GGUF"),
];

impl FileKind {
    /// Kind of a file that begins with these bytes and is so long.
    pub(super) fn of(head: &[u8], length: u64) -> Self {
        if head.starts_with(b"GGUF") {
            return Self::Gguf;
        }
        let is_object = head.get(size_of::<u64>()) == Some(&b'{');
        // Any beginning of a pickle or an archive is the length of some header, but not of one that fits.
        if is_object
            && header_length(head).is_some_and(|header| header <= length.min(LONGEST_HEADER))
        {
            return Self::Safetensors;
        }
        if is_pickle(head) {
            return Self::Pickle;
        }
        if let Some(stand_in) = StandIn::of(head) {
            return Self::StandIn(stand_in);
        }
        if let Some((_, what)) = FOREIGN.iter().find(|(start, _)| head.starts_with(start)) {
            return Self::Foreign(what);
        }
        // One that is cut short is still meant to be one.
        if is_object { Self::Safetensors } else { Self::Unknown }
    }

    /// Kind of a file, if it can be read.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        let length = path.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        let mut head = Vec::with_capacity(HEAD);
        File::open(path).ok()?.take(HEAD as u64).read_to_end(&mut head).ok()?;
        Some(Self::of(&head, length))
    }

    /// `true` for the two containers that are read.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::Safetensors | Self::Gguf)
    }

    /// Refuses what is known to hold no weights that are read.
    ///
    /// # Errors
    /// A pickle, a stand-in or a foreign format, named for what it is.
    pub(super) fn check(self, file: &str) -> Result<(), WeightsError> {
        let reason = match self {
            Self::Safetensors | Self::Gguf | Self::Unknown => return Ok(()),
            Self::Pickle => return Err(WeightsError::Pickled { file: file.to_owned() }),
            Self::StandIn(stand_in) => stand_in.reason("weights"),
            Self::Foreign(what) => what.to_owned(),
        };
        Err(WeightsError::Contents { file: file.to_owned(), reason })
    }
}

/// Bytes of the header that a safetensors file with this beginning has, and of its length.
fn header_length(head: &[u8]) -> Option<u64> {
    let length = head.first_chunk().copied().map(u64::from_le_bytes)?;
    length.checked_add(size_of::<u64>() as u64)
}

/// `true` for a zip archive, in which PyTorch keeps a pickle, and for a bare pickle of protocol 2 and later.
fn is_pickle(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || matches!(head, [0x80, 2..=5, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_beginning() {
        let of = |bytes: &[u8]| FileKind::of(bytes, bytes.len() as u64);
        assert_eq!(of(b"GGUF\x03"), FileKind::Gguf);
        assert_eq!(of(b"\x02\0\0\0\0\0\0\0{}"), FileKind::Safetensors);
        // Cut short; and one whose length happens to be that of a pickle's beginning.
        assert_eq!(of(b"\xff\0\0\0\0\0\0\0{"), FileKind::Safetensors);
        let header = b"\x80\x02\0\0\0\0\0\0{";
        assert_eq!(FileKind::of(header, 0x288), FileKind::Safetensors);
        assert_eq!(FileKind::of(header, 0x287), FileKind::Pickle);
        for pickle in
            [&b"PK\x03\x04 and more"[..], b"\x80\x02}q\0(X", b"\x80\x05\x95", b"\x80\x02}qqqqq{x"]
        {
            assert_eq!(of(pickle), FileKind::Pickle, "{pickle:?}");
        }
        for page in [
            "<!DOCTYPE html>\n",
            "\u{feff} \n<HTML lang=en>",
            "<!-- x -->\n<html>",
            "<?xml version='1.0'?><!DOCTYPE html PUBLIC",
        ] {
            assert_eq!(of(page.as_bytes()), FileKind::StandIn(StandIn::HtmlPage), "{page}");
        }
        for (text, kind) in [
            ("<?xml version=\"1.0\"?><Error><Code>AccessDenied", StandIn::XmlAnswer),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", StandIn::LfsPointer),
            ("/annex/objects/SHA256E-s31390", StandIn::AnnexPointer),
        ] {
            assert_eq!(of(text.as_bytes()), FileKind::StandIn(kind), "{text}");
        }
        assert!(matches!(of(b"\x1f\x8b\x08"), FileKind::Foreign(what) if what.contains("gzip")));
        for other in [&b""[..], b"xxxxxxxxxxxx", b"{\"a\": 1}", b"<s> a template"] {
            assert_eq!(of(other), FileKind::Unknown);
        }
    }
}
