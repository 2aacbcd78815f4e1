//! The budget of metadata: all blocks of a file together may take so many bytes, inflated or not.
//!
//! A length that a file states is not believed: nothing is reserved for it, the bytes are read as they come. What goes
//! beyond the budget is left out with a warning, unless the pixels cannot be shown rightly without it.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

use crate::image::error::{ImageError, Result, Warning};

/// What is left of the bytes that a file's metadata may take, and what was left out for it.
pub(crate) struct Budget<'a> {
    name: &'a str,
    limit: u64,
    left: u64,
    warnings: Vec<Warning>,
}

/// How a block was met.
pub(crate) enum Block {
    Whole(Vec<u8>),
    /// Larger than what was left.
    TooLarge,
    /// It ends early, or cannot be inflated.
    Damaged,
}

impl<'a> Budget<'a> {
    /// `name` is the file's, for errors; `limit` is in bytes.
    pub(crate) fn new(name: &'a str, limit: u64) -> Self {
        Self { name, limit, left: limit, warnings: Vec::new() }
    }

    /// Bytes that may still be read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Counts bytes that were read elsewhere.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// The next `length` bytes. One that is too large is not read.
    pub(crate) fn take(
        &mut self,
        file: &mut (impl Read + ?Sized),
        length: u64,
    ) -> io::Result<Block> {
        if length > self.left {
            return Ok(Block::TooLarge);
        }
        let mut data = Vec::new();
        file.take(length).read_to_end(&mut data)?;
        self.spend(data.len() as u64);
        if (data.len() as u64) < length {
            return Ok(Block::Damaged);
        }
        data.shrink_to_fit();
        Ok(Block::Whole(data))
    }

    /// A zlib stream, inflated. A block that turns out too large uses the budget up: a file of many
    /// such blocks would cost the time of all otherwise.
    pub(crate) fn inflate(&mut self, compressed: impl Read) -> Block {
        let mut data = Vec::new();
        let inflated = ZlibDecoder::new(compressed).take(self.left + 1).read_to_end(&mut data);
        let length = data.len() as u64;
        if length > self.left {
            self.left = 0;
            return Block::TooLarge;
        }
        self.spend(length);
        if inflated.is_err() {
            return Block::Damaged;
        }
        data.shrink_to_fit();
        Block::Whole(data)
    }

    /// The block, or `None` and a warning that names it.
    pub(crate) fn wanted(&mut self, what: &'static str, block: Block) -> Option<Vec<u8>> {
        match block {
            Block::Whole(data) => return Some(data),
            Block::TooLarge => self.too_large(what),
            Block::Damaged => self.warn(Warning::MetadataDamaged(what)),
        }
        None
    }

    /// The block of a colour profile: without it the pixels would mean other colours.
    ///
    /// # Errors
    /// [`ImageError::MetadataTooLarge`]. A damaged profile is a warning.
    pub(crate) fn profile(&mut self, block: Block) -> Result<Option<Vec<u8>>> {
        match block {
            Block::Whole(data) => Ok(Some(data)),
            Block::TooLarge => Err(self.profile_too_large()),
            Block::Damaged => {
                self.warn(Warning::ProfileDropped("the profile is damaged".to_owned()));
                Ok(None)
            }
        }
    }

    /// The error of a profile beyond the budget.
    pub(crate) fn profile_too_large(&self) -> ImageError {
        ImageError::MetadataTooLarge {
            name: self.name.to_owned(),
            what: "colour profile",
            limit: self.limit,
        }
    }

    /// Notes that a block was left out because it is too large.
    pub(crate) fn too_large(&mut self, what: &'static str) {
        self.warn(Warning::MetadataTooLarge { what, limit: self.limit });
    }

    /// Adds a warning, once.
    pub(crate) fn warn(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    pub(crate) fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    #[test]
    fn a_stated_length_beyond_the_file_or_the_budget_costs_nothing() {
        let mut budget = Budget::new("x.tif", 100);
        assert!(matches!(budget.take(&mut &[1u8; 8][..], u64::MAX).unwrap(), Block::TooLarge));
        assert!(matches!(budget.take(&mut &[1u8; 8][..], 90).unwrap(), Block::Damaged));
        assert_eq!(budget.left(), 92);
        assert!(matches!(budget.take(&mut &[1u8; 8][..], 8).unwrap(), Block::Whole(_)));
    }

    #[test]
    fn a_bomb_is_inflated_to_the_budget_once_and_no_further() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        let mut budget = Budget::new("x.png", 1 << 16);
        for _ in 0..2 {
            let block = budget.inflate(&bomb[..]);
            assert!(budget.wanted("XMP", block).is_none());
            assert_eq!(budget.left(), 0);
        }
        let block = budget.inflate(&bomb[..]);
        assert!(matches!(budget.profile(block), Err(ImageError::MetadataTooLarge { .. })));
        let warning = Warning::MetadataTooLarge { what: "XMP", limit: 1 << 16 };
        assert_eq!(budget.into_warnings(), [warning]);
    }
}
