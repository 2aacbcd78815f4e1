//! The one error type of picture I/O. Every message is a single line that starts with the
//! file's name (or `stdin`/`stdout`) and says what is wrong with it.

use std::io;

use super::decode::InputKind;
use super::format::Format;

/// Result of picture I/O.
pub type Result<T> = std::result::Result<T, ImageError>;

/// Errors of reading, resizing and writing pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The input path does not exist.
    #[error("{name}: no such file")]
    NotFound {
        /// The file or stream.
        name: String,
    },
    /// A folder where a picture was expected.
    #[error("{name}: is a directory, not a picture")]
    IsDirectory {
        /// The file or stream.
        name: String,
    },
    /// The operating system refused to read.
    #[error("{name}: cannot be read ({source})")]
    Read {
        /// The file or stream.
        name: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Zero bytes.
    #[error("{name}: empty file")]
    Empty {
        /// The file or stream.
        name: String,
    },
    /// The bytes are not, or not wholly, a picture; `reason` begins with the format where it is known.
    #[error("{name}: not a readable image ({reason})")]
    Unreadable {
        /// The file or stream.
        name: String,
        /// Description of the problem, in one line.
        reason: String,
    },
    /// A picture of a well-known format that is not read.
    #[error("{name}: {kind} is not read: {hint}")]
    UnsupportedFormat {
        /// The file or stream.
        name: String,
        /// The format.
        kind: &'static str,
        /// What makes a readable picture of it.
        hint: &'static str,
    },
    /// A well-known kind of file that is no picture.
    #[error("{name}: is {kind}, not a picture: {hint}")]
    NotAPicture {
        /// The file or stream.
        name: String,
        /// The kind of file.
        kind: &'static str,
        /// How to get the picture.
        hint: &'static str,
    },
    /// A rare kind of one of the formats.
    #[error("{name}: {kind} is not supported; {help}")]
    UnsupportedKind {
        /// The file or stream.
        name: String,
        /// The kind of picture.
        kind: String,
        /// What to do instead, in one line.
        help: String,
    },
    /// A file has not as many pages or frames as the one that was asked for.
    #[error("{name}: has no picture {number}: there {} in this {kind} file",
        if *.pictures == 1 { "is 1".to_owned() } else { format!("are {pictures}") })]
    NoSuchPicture {
        /// The file or stream.
        name: String,
        /// Its kind.
        kind: InputKind,
        /// Number of the picture, from 1.
        number: usize,
        /// Number of pictures in the file.
        pictures: usize,
    },
    /// More pixels than [`super::MAX_PIXELS`]: most likely a decompression bomb.
    #[error("{name}: too large ({width} x {height}; the limit for an input is {limit} pixels)")]
    TooLarge {
        /// The file or stream.
        name: String,
        /// Pixels per row.
        width: u64,
        /// Rows.
        height: u64,
        /// The most pixels there may be.
        limit: u64,
    },
    /// A large picture's pixels go through a file, which could not be made or filled.
    #[error("{name}: its pixels need room on a disk ({source})")]
    Scratch {
        /// The file or stream.
        name: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A block of metadata that the pixels need is larger than the limit.
    #[error("{name}: its {what} is larger than the {} MiB that metadata may take", .limit.div_ceil(1 << 20))]
    MetadataTooLarge {
        /// The file or stream.
        name: String,
        /// Name of the block.
        what: &'static str,
        /// The most bytes that all blocks may take together.
        limit: u64,
    },
    /// The output does not fit into the chosen format.
    #[error(
        "{name}: {format} holds at most {limit} pixels a side and the output is {width} x {height}; write a TIFF (.tif) instead"
    )]
    FormatLimit {
        /// The file or stream.
        name: String,
        /// The format.
        format: Format,
        /// The longest side that the format can hold, in pixels.
        limit: u32,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A picture without pixels was asked for.
    #[error("{name}: a picture of {width} x {height} pixels has no pixels")]
    ZeroSize {
        /// The file or stream.
        name: String,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The output's folder is missing, unwritable, or the target cannot be replaced.
    #[error("{name}: cannot be written ({reason})")]
    Unwritable {
        /// The file or stream.
        name: String,
        /// Description of the problem, in one line.
        reason: String,
    },
    /// Writing failed half-way; the temporary file is gone.
    #[error("{name}: cannot be written ({source})")]
    Write {
        /// The file or stream.
        name: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The encoder refused its input (e.g. a profile too large for the format).
    #[error("{name}: cannot be encoded ({reason})")]
    Encode {
        /// The file or stream.
        name: String,
        /// Description of the problem, in one line.
        reason: String,
    },
    /// A caller's buffer does not match the sizes it stated.
    #[error("{what}: expected {expected} samples, got {got}")]
    Shape {
        /// Name of the buffer.
        what: &'static str,
        /// Samples needed.
        expected: usize,
        /// Samples given.
        got: usize,
    },
}

impl ImageError {
    /// `true` if the reader of our output has gone away: a program should then end quietly.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn unreadable(
        name: &str,
        kind: impl Into<InputKind>,
        reason: impl std::fmt::Display,
    ) -> Self {
        let kind = kind.into();
        // Decoders' own messages may span lines or end with a full stop; ours are one clean line.
        let reason = reason.to_string().replace(['\n', '\r'], " ");
        Self::Unreadable {
            name: name.to_owned(),
            reason: format!("{kind}: {}", reason.trim_end_matches(['.', ' '])),
        }
    }

    pub(crate) fn unsupported(name: &str, kind: &str, help: &str) -> Self {
        Self::UnsupportedKind { name: name.into(), kind: kind.into(), help: help.into() }
    }

    pub(crate) fn write(name: &str, source: io::Error) -> Self {
        Self::Write { name: name.to_owned(), source }
    }
}

/// A deviation from the requested result, for the caller to show to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The format has no alpha channel: the picture was composited over white.
    AlphaFlattened(Format),
    /// The format has no 16-bit samples: they were rounded to 8 bits.
    DepthReduced(Format),
    /// The format has no floats: they were rounded to 16 bits.
    FloatReduced(Format),
    /// The samples of the output end at white: brighter light was cut.
    HighlightsCut(Format),
    /// The embedded profile cannot be kept; colours were converted to sRGB. The text says why.
    ProfileDropped(String),
    /// A metadata block does not fit into the format and was left out (`"EXIF"`, `"XMP"`).
    MetadataDropped(&'static str, Format),
    /// A metadata block is larger than what is left of the limit for all, in bytes, and was left out.
    MetadataTooLarge {
        /// Name of the block.
        what: &'static str,
        /// The most bytes that all blocks may take together.
        limit: u64,
    },
    /// A metadata block is damaged and was left out.
    MetadataDamaged(&'static str),
    /// A profile for RGB stood on a grey picture: a grey one with its tone curve takes its place.
    GreyProfile,
    /// What stood behind the picture in its file was left out (`"gain map for HDR screens"`).
    CompanionDropped(&'static str),
    /// A part of the metadata that would not be true of the output was left out; the text says which, and why.
    LeftOut(&'static str),
    /// Only the first picture of an animation or of a multi-page file was read.
    FirstFrameOnly(InputKind),
    /// The file ends early: rows from `rows_read` on repeat the last one, or are a coarser pass.
    Truncated {
        /// Whole rows that the file has.
        rows_read: u32,
        /// Rows of the picture.
        rows: u32,
    },
    /// The file ends early: every pixel is there, but not all of its detail.
    DetailMissing(InputKind),
    /// The file leaves open what its samples mean, or means what no output can hold; the text says what was taken.
    Interpreted(String),
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AlphaFlattened(format) => {
                write!(f, "{format} has no transparency: the picture was put on white")
            }
            Self::DepthReduced(format) => {
                write!(f, "{format} has no 16-bit samples: written with 8 bits")
            }
            Self::FloatReduced(format) => {
                write!(f, "{format} holds no floats: written with 16 bits")
            }
            Self::HighlightsCut(format) => {
                write!(
                    f,
                    "light above white was cut: a {format} like this holds none, a float TIFF or an OpenEXR does"
                )
            }
            Self::ProfileDropped(why) => {
                write!(f, "colour profile not kept, converted to sRGB ({why})")
            }
            Self::MetadataDropped(what, format) => {
                write!(f, "{what} does not fit into {format} and was left out")
            }
            Self::MetadataTooLarge { what, limit } => {
                write!(
                    f,
                    "{what} is beyond the {} MiB that metadata may take and was left out",
                    limit.div_ceil(1 << 20)
                )
            }
            Self::MetadataDamaged(what) => write!(f, "{what} is damaged and was left out"),
            Self::GreyProfile => {
                write!(
                    f,
                    "the colour profile is for RGB and the picture is grey: its tone curve is kept"
                )
            }
            Self::CompanionDropped(what) => write!(f, "the {what} of this file was left out"),
            Self::LeftOut(what) => write!(f, "the {what} was left out"),
            Self::FirstFrameOnly(kind) => {
                write!(f, "only the first picture of this {kind} file was read")
            }
            Self::Truncated { rows_read, rows } if rows_read == rows => {
                write!(f, "the file ends early, but all of its {rows} rows are there")
            }
            Self::Truncated { rows_read, rows } => {
                write!(
                    f,
                    "the file ends early: {rows_read} of {rows} rows are whole, the rest is made up"
                )
            }
            Self::DetailMissing(kind) => {
                write!(
                    f,
                    "the {kind} file ends early: all of its rows are there, some with less detail"
                )
            }
            Self::Interpreted(what) => f.write_str(what),
        }
    }
}
