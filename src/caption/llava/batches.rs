//! Pictures in batches, as a LLaVA model looks at them: pictures of one size go together.

use std::collections::BTreeMap;

use super::error::engine;
use crate::caption::CaptionError;
use crate::caption::vision::Pictures;
use crate::model::llava::{LlavaPicture, Row};

/// Pictures of one size that the model looks at together.
#[derive(Default)]
pub(super) struct PictureBatch {
    pub rows: Vec<Row<'static>>,
    /// The pictures' indices.
    pub indices: Vec<usize>,
}

/// The pictures that are wanted, in batches; each is read when its batch is due.
pub(super) struct Batches<'a> {
    wanted: std::slice::Iter<'a, usize>,
    /// Batches that are not full.
    by_size: BTreeMap<(usize, usize), PictureBatch>,
}

impl<'a> Batches<'a> {
    /// Batches of the pictures of these indices.
    pub(super) fn new(wanted: &'a [usize]) -> Self {
        Self { wanted: wanted.iter(), by_size: BTreeMap::new() }
    }

    /// The next batch of `rows` pictures of one size, or of fewer when no more come; `unread` gets the index of a picture
    /// that cannot be read, and the reason.
    ///
    /// # Errors
    /// A picture that no model takes.
    pub(super) fn next(
        &mut self,
        pictures: &dyn Pictures,
        rows: usize,
        unread: &mut dyn FnMut(usize, String),
    ) -> Result<Option<PictureBatch>, CaptionError> {
        for &index in self.wanted.by_ref() {
            let pixels = match pictures.pixels(index) {
                Ok(pixels) => pixels,
                Err(error) => {
                    unread(index, error.to_string());
                    continue;
                }
            };
            let picture = LlavaPicture::new(pixels.width(), pixels.height(), pixels.rgb().to_vec());
            let batch = self.by_size.entry((pixels.width(), pixels.height())).or_default();
            let number = pictures.number(index);
            batch.rows.push(Row { picture: picture.map_err(engine)?, number });
            batch.indices.push(index);
            if batch.rows.len() >= rows {
                return Ok(Some(std::mem::take(batch)));
            }
        }
        // What is left, and not empty.
        while let Some((_, batch)) = self.by_size.pop_first() {
            if !batch.rows.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}
