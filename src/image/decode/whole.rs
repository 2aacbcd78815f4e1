//! Whole picture: the rows of a decoder that gives all samples at once.

use super::header::{ChannelLayout, Decode, Header};
use crate::image::error::{Result, Warning};
use crate::image::metadata::Metadata;
use crate::image::plane::band_rows;

/// All samples of a picture.
#[derive(Debug)]
pub(super) struct DecodedSamples {
    pub width: u32,
    pub height: u32,
    pub layout: ChannelLayout,
    /// Interleaved samples in [0, 1].
    pub samples: Vec<f32>,
    pub bit_depth: u8,
    pub metadata: Metadata,
    pub warnings: Vec<Warning>,
}

impl DecodedSamples {
    pub(super) fn into_decoder(self) -> Box<dyn Decode> {
        let Self { width, height, layout, samples, bit_depth, metadata, warnings } = self;
        let scratch_bytes = (samples.len() * size_of::<f32>()) as u64;
        let header = Header { width, height, layout, bit_depth, metadata, warnings, scratch_bytes };
        Box::new(Whole { header, samples })
    }
}

struct Whole {
    header: Header,
    samples: Vec<f32>,
}

impl Decode for Whole {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Header { width, layout, .. } = self.header;
        let band = band_rows(width) * width as usize * layout.channels();
        self.samples.chunks(band).try_for_each(take)?;
        Ok(Vec::new())
    }
}
