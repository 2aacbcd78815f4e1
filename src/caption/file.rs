//! Captions from a file: texts that a person wrote or corrected, used unchanged.
//!
//! A file made for the same grid is matched by row and column. For another size or overlap the grid differs;
//! then each region takes the caption of the file's region that covers most of it, both measured relative to
//! their pictures, and the user is told so.

use std::cmp::Reverse;
use std::path::Path;

use super::document::{Document, RegionEntry};
use super::text::LONGEST;
use super::{
    Caption, CaptionContext, CaptionError, CaptionSession, Captioner, Captions, GridSpec, Rect,
    RegionProgress, RegionSource, SessionContext,
};
use crate::units;

/// `--captions FILE`: captions are used exactly as written; nothing is put in front. Only a text that no encoder
/// could take is cut, with a note.
#[derive(Clone, Debug)]
pub struct FromFile {
    document: Document,
    /// Texts that were cut.
    cut: usize,
}

impl FromFile {
    /// Reads the captions file at `path`.
    ///
    /// # Errors
    /// Those of [`Document::read`].
    pub fn read(path: &Path) -> Result<Self, CaptionError> {
        Ok(Document::read(path)?.into())
    }

    /// The prompt the file was made with: the one to use where the user gives none. May be empty.
    pub fn prompt(&self) -> &str {
        self.document.prompt()
    }

    /// The file's content.
    pub fn document(&self) -> &Document {
        &self.document
    }
}

impl From<Document> for FromFile {
    fn from(mut document: Document) -> Self {
        let cut = document.cut();
        Self { document, cut }
    }
}

impl Captioner for FromFile {
    fn name(&self) -> &str {
        "file"
    }

    fn identity(&self) -> Result<String, CaptionError> {
        Ok(self.document.to_json())
    }

    fn own_prompt(&self) -> Option<&str> {
        Some(self.document.prompt())
    }

    fn open<'a>(
        &'a self,
        _: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
        Ok(Box::new(self.clone()))
    }
}

impl CaptionSession for FromFile {
    /// An empty caption stands for the prompt: the job's, or the file's if the job has none.
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: RegionProgress<'_>,
    ) -> Result<Captions, CaptionError> {
        let total = regions.len();
        let made_for = self.document.grid();
        let entries = self.document.regions();
        let same_grid = (made_for.rows, made_for.cols) == (context.grid.rows, context.grid.cols);
        let prompt = match context.prompt.trim() {
            "" => self.document.prompt(),
            prompt => prompt,
        };

        let mut captions = Captions::default();
        if self.cut > 0 {
            let (texts, limit) = (units::count(self.cut, "text"), units::bytes(LONGEST));
            captions.notes.push(format!("{texts} of the captions file cut to the first {limit}"));
        }
        for index in 0..total {
            let place = regions.place(index);
            // A document has every place of its grid, row by row.
            let at = place.row as usize * made_for.cols as usize + place.col as usize;
            let entry = match entries.get(at) {
                Some(entry) if same_grid => entry,
                _ => best_cover(entries, made_for, place.rect, context.grid),
            };
            let text = match entry.caption.trim() {
                "" => prompt,
                caption => caption,
            };
            captions.regions.push(Caption::new(place, text.to_owned()));
            progress(index + 1, total);
        }
        if made_for != context.grid {
            let how = if same_grid {
                "matched by row and column"
            } else {
                "each region takes the caption of the region that covers most of it"
            };
            captions.notes.push(format!(
                "captions were made for {}, this job has {}: {how}",
                in_words(made_for),
                in_words(context.grid),
            ));
        }
        Ok(captions)
    }
}

fn in_words(grid: GridSpec) -> String {
    format!(
        "{} x {} regions of {} pixels over {} x {}",
        grid.rows, grid.cols, grid.region, grid.width, grid.height
    )
}

/// The entry (of `grid`) that covers most of `rect` (of `job`), both relative to their pictures; of equal
/// ones the one whose centre is nearest, then the first.
fn best_cover(entries: &[RegionEntry], grid: GridSpec, rect: Rect, job: GridSpec) -> &RegionEntry {
    // Both axes in the unit 1 / (width of one picture × width of the other), so that all stays whole. Where a
    // region reaches beyond its picture (reflected padding) only what lies inside counts.
    let span = |start: u32, length: u32, side: u32, other: u32| {
        let end = start.saturating_add(length).min(side);
        let unit = u128::from(other);
        (u128::from(start.min(end)) * unit, u128::from(end) * unit)
    };
    let spans = |rect: Rect, of: GridSpec, other: GridSpec| {
        [
            span(rect.x, rect.width, of.width, other.width),
            span(rect.y, rect.height, of.height, other.height),
        ]
    };
    let wanted = spans(rect, job, grid);
    let rank = |entry: &&RegionEntry| {
        let mut area = 1u128;
        let mut distance = [0u128; 2];
        let found = spans(entry.rect(), grid, job);
        for (axis, ((a0, a1), (b0, b1))) in wanted.into_iter().zip(found).enumerate() {
            area *= a1.min(b1).saturating_sub(a0.max(b0));
            // In the same unit on both axes: relative to the picture's width and height.
            let side = match axis {
                0 => u128::from(grid.width) * u128::from(job.width),
                _ => u128::from(grid.height) * u128::from(job.height),
            };
            distance[axis] = (a0 + a1).abs_diff(b0 + b1) * 1_000_000 / side;
        }
        (Reverse(area), distance[0] + distance[1])
    };
    entries.iter().min_by_key(rank).expect("a document has at least one region")
}
