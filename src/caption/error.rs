//! Errors of captioning. Each message is one line with the place and the remedy.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::units;

/// An error that spoils the captions of a whole job. (One region's failure is no error, see
/// [`Caption::fallback`](super::Caption::fallback).)
///
/// `source_name` is the path of the captions file, or what else the text was read from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptionError {
    /// Pixels and size do not fit together.
    #[error("a region of {width} x {height} pixels cannot have {len} values")]
    Pixels {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Values given; columns × rows × 3 are needed.
        len: usize,
    },

    /// The captions file cannot be read.
    #[error("{path}: cannot read captions: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },

    /// No captions file is so large.
    #[error("{path}: more than {}, which no captions file needs", units::bytes(*.limit), path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are read at most.
        limit: u64,
    },

    /// Not JSON, or a field is missing, misspelt, or of the wrong type.
    #[error("{source_name}, line {line}, column {column}: {message}")]
    Json {
        /// Name of the text's source.
        source_name: String,
        /// From 1.
        line: usize,
        /// From 1; 0 where the line is empty.
        column: usize,
        /// Description of the problem.
        message: String,
    },

    /// A later program wrote the file.
    #[error("{source_name}: captions of version {found} are not known here (known: {known})")]
    Version {
        /// Name of the text's source.
        source_name: String,
        /// The version it claims.
        found: u64,
        /// The version that is read here.
        known: u64,
    },

    /// A size in `grid` is 0.
    #[error("{source_name}: grid: '{field}' must be at least 1")]
    EmptyGrid {
        /// Name of the text's source.
        source_name: String,
        /// The field.
        field: &'static str,
    },

    /// A region lies outside the grid, or has no area.
    #[error("{source_name}: regions[{index}] (row {row}, col {col}): {problem}")]
    Region {
        /// Name of the text's source.
        source_name: String,
        /// Place in the list, from 0.
        index: usize,
        /// Row as given.
        row: u32,
        /// Column as given.
        col: u32,
        /// Description of the problem.
        problem: String,
    },

    /// Not every place of the grid has its region.
    #[error(
        "{source_name}: {}, but a grid of {rows} x {cols} needs {needed}: row {row}, col {col} is missing",
        units::count(*.found, "region")
    )]
    Missing {
        /// Name of the text's source.
        source_name: String,
        /// Regions in the list.
        found: usize,
        /// `rows` × `cols`.
        needed: u64,
        /// Rows of the grid.
        rows: u32,
        /// Columns of the grid.
        cols: u32,
        /// The first place without a region.
        row: u32,
        /// The first place without a region.
        col: u32,
    },

    /// The engine as a whole cannot work.
    #[error("captioner {name}: {message}")]
    Engine {
        /// Name of the captioner.
        name: String,
        /// Cause and remedy.
        message: String,
    },

    /// Whoever asked for captions wants none any more.
    #[error("interrupted")]
    Interrupted,
}
