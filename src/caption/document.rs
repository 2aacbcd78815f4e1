//! The captions file: regional captions as JSON that a person can read, edit, and feed back.
//!
//! ```json
//! {
//!   "version": 1,
//!   "grid": { "rows": 1, "cols": 2, "region": 512, "overlap": 256, "width": 768, "height": 512 },
//!   "captioner": "attributes",
//!   "prompt": "an old harbour at dusk",
//!   "regions": [
//!     { "row": 0, "col": 0, "x": 0, "y": 0, "width": 512, "height": 512, "caption": "..." },
//!     { "row": 0, "col": 1, "x": 256, "y": 0, "width": 512, "height": 512, "caption": "..." }
//!   ]
//! }
//! ```
//!
//! A region's `caption` is its whole text condition, prompt included: what one reads is what the model gets.
//! Every place of the grid has exactly one region; the order of the list does not matter in reading and is row
//! by row in writing. An empty caption stands for the prompt. `model` and `instruction` are a record of how the
//! captions were made; nothing reads them. Misspelt and unknown fields are errors, so that no edit is lost
//! silently.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::text::{LONGEST, cut};
use super::{CaptionContext, CaptionError, Captions, GridSpec, Rect, RegionPlace};

/// The version this program writes and reads.
pub const VERSION: u64 = 1;

/// Bytes of a file that are read at most: captions of a hundred thousand regions are a fifth of it.
const LARGEST: u64 = 64 << 20;

/// A captions file, see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    version: u64,
    grid: GridSpec,
    captioner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instruction: Option<String>,
    #[serde(default)]
    prompt: String,
    regions: Vec<RegionEntry>,
}

/// The maker of captions, for the record.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// The captioner's name.
    pub name: &'a str,
    /// The model behind it.
    pub model: Option<&'a str>,
    /// The question that the model was asked about regions.
    pub instruction: Option<&'a str>,
}

/// One region of a [`Document`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionEntry {
    /// Row of the grid, from 0 at the top.
    pub row: u32,
    /// Column of the grid, from 0 at the left.
    pub col: u32,
    /// Left edge in output pixels.
    pub x: u32,
    /// Top edge in output pixels.
    pub y: u32,
    /// Width in output pixels, at least 1.
    pub width: u32,
    /// Height in output pixels, at least 1.
    pub height: u32,
    /// The region's whole text condition; empty stands for the prompt.
    pub caption: String,
}

impl RegionEntry {
    /// Rectangle of the region in the output picture.
    pub fn rect(&self) -> Rect {
        Rect { x: self.x, y: self.y, width: self.width, height: self.height }
    }
}

/// Only what must be known before the rest can be judged.
#[derive(Deserialize)]
struct Head {
    version: u64,
}

impl Document {
    /// The record of what `author` said of a job.
    ///
    /// # Errors
    /// Same as [`parse`](Self::parse), if the regions do not fill the grid of `context` exactly once.
    pub fn new(
        author: &Author<'_>,
        context: &CaptionContext<'_>,
        captions: &Captions,
    ) -> Result<Self, CaptionError> {
        let mut document = Self {
            version: VERSION,
            grid: context.grid,
            captioner: author.name.to_owned(),
            model: author.model.map(str::to_owned),
            instruction: author.instruction.map(str::to_owned),
            prompt: context.prompt.trim().to_owned(),
            regions: captions
                .regions
                .iter()
                .map(|caption| {
                    let RegionPlace { row, col, rect } = caption.place;
                    RegionEntry {
                        row,
                        col,
                        x: rect.x,
                        y: rect.y,
                        width: rect.width,
                        height: rect.height,
                        caption: caption.text.clone(),
                    }
                })
                .collect(),
        };
        document.check(author.name)?;
        Ok(document)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`CaptionError::Read`], [`CaptionError::TooLarge`], and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self, CaptionError> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text));
        read.map_err(|source| CaptionError::Read { path: path.into(), source })?;
        if text.len() as u64 > LARGEST {
            return Err(CaptionError::TooLarge { path: path.into(), limit: LARGEST });
        }
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads `text`; `source_name` is what errors call it.
    ///
    /// # Errors
    /// [`CaptionError::Json`] with line and column, [`CaptionError::Version`], [`CaptionError::EmptyGrid`],
    /// [`CaptionError::Region`] and [`CaptionError::Missing`].
    pub fn parse(text: &str, source_name: &str) -> Result<Self, CaptionError> {
        let json = |error: serde_json::Error| CaptionError::Json {
            source_name: source_name.into(),
            line: error.line(),
            column: error.column(),
            message: without_position(&error),
        };
        // Some editors put a byte order mark in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // The version first: a later one may have fields that are unknown here.
        let head: Head = serde_json::from_str(text).map_err(json)?;
        if head.version != VERSION {
            return Err(CaptionError::Version {
                source_name: source_name.into(),
                found: head.version,
                known: VERSION,
            });
        }
        let mut document: Self = serde_json::from_str(text).map_err(json)?;
        document.check(source_name)?;
        Ok(document)
    }

    /// Cuts the prompt and every caption to [`LONGEST`], of which a text encoder takes a small part; returns how many
    /// were longer.
    pub(super) fn cut(&mut self) -> usize {
        let texts = self.regions.iter_mut().map(|entry| &mut entry.caption);
        let long = texts.chain([&mut self.prompt]).filter(|text| text.len() > LONGEST);
        long.map(|text| *text = cut(text, LONGEST).to_owned()).count()
    }

    /// Sorts the regions row by row and checks that they are the grid's.
    fn check(&mut self, source_name: &str) -> Result<(), CaptionError> {
        let GridSpec { rows, cols, width, height, region, .. } = self.grid;
        let sizes = [
            ("rows", rows),
            ("cols", cols),
            ("region", region),
            ("width", width),
            ("height", height),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(CaptionError::EmptyGrid { source_name: source_name.into(), field });
        }

        let mut seen = BTreeSet::new();
        for (index, entry) in self.regions.iter().enumerate() {
            let problem = if entry.row >= rows || entry.col >= cols {
                format!("outside the grid of {rows} x {cols} (both count from 0)")
            } else if entry.width == 0 || entry.height == 0 {
                "'width' and 'height' must be at least 1".to_owned()
            } else if entry.x >= width || entry.y >= height {
                format!("lies outside the picture of {width} x {height}")
            } else if !seen.insert((entry.row, entry.col)) {
                "is there twice".to_owned()
            } else {
                continue;
            };
            return Err(CaptionError::Region {
                source_name: source_name.into(),
                index,
                row: entry.row,
                col: entry.col,
                problem,
            });
        }

        let needed = u64::from(rows) * u64::from(cols);
        if (seen.len() as u64) < needed {
            // Places are visited in the order of the set, so the first gap shows within its length + 1.
            let mut places = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
            let (row, col) = places
                .find(|place| !seen.contains(place))
                .expect("fewer places are taken than there are");
            return Err(CaptionError::Missing {
                source_name: source_name.into(),
                found: self.regions.len(),
                needed,
                rows,
                cols,
                row,
                col,
            });
        }
        self.regions.sort_by_key(|entry| (entry.row, entry.col));
        Ok(())
    }

    /// The file's text: indented, fields and regions in a fixed order, with a line end.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("strings and numbers always serialize");
        text.push('\n');
        text
    }

    /// The grid the captions were made for.
    pub fn grid(&self) -> GridSpec {
        self.grid
    }

    /// Name of the captioner that made them.
    pub fn captioner(&self) -> &str {
        &self.captioner
    }

    /// The prompt of the whole picture they were made with; may be empty.
    pub fn prompt(&self) -> &str {
        self.prompt.trim()
    }

    /// The regions, row by row.
    pub fn regions(&self) -> &[RegionEntry] {
        &self.regions
    }
}

/// serde_json's message without its own " at line 1 column 2".
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match message.strip_suffix(&position) {
        Some(message) => message.to_owned(),
        None => message,
    }
}
