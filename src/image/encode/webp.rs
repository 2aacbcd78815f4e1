//! Lossless WebP through `image-webp`, which needs all samples at once.

use image_webp::{ColorType, EncodingError, WebPEncoder};

use super::{Backend, EncodeOptions, Shape};
use crate::image::error::{ImageError, Result};
use crate::image::input::{Sink, Target};
use crate::image::metadata::ifd::{Entry, Exif, tag};

pub(super) struct Writer {
    samples: Vec<u8>,
    shape: Shape,
    options: EncodeOptions,
    sink: Sink,
    name: String,
}

impl Writer {
    pub(super) fn new(target: &Target, shape: Shape, mut options: EncodeOptions) -> Result<Self> {
        // WebP has no field for the resolution but EXIF's.
        if let (None, Some((x, y))) = (&options.exif, options.dpi) {
            let exif = Exif {
                ifd0: vec![
                    Entry::dpi(tag::X_RESOLUTION, x),
                    Entry::dpi(tag::Y_RESOLUTION, y),
                    Entry::short(tag::RESOLUTION_UNIT, 2),
                ],
                ..Exif::default()
            };
            options.exif = Some(exif.to_bytes());
        }
        Ok(Self {
            samples: Vec::new(),
            shape,
            options,
            sink: target.sink()?,
            name: target.name().to_owned(),
        })
    }
}

impl Backend for Writer {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        self.samples.extend_from_slice(rows);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { samples, shape, options, sink, name } = *self;
        let mut encoder = WebPEncoder::new(sink.clone());
        encoder.set_icc_profile(options.icc.unwrap_or_default());
        encoder.set_exif_metadata(options.exif.unwrap_or_default());
        encoder.set_xmp_metadata(options.xmp.unwrap_or_default());
        let colours = if shape.alpha { ColorType::Rgba8 } else { ColorType::Rgb8 };
        let encoded = encoder.encode(&samples, shape.width, shape.height, colours);
        sink.finish().map_err(|e| ImageError::write(&name, e))?;
        encoded.map_err(|e| match e {
            EncodingError::IoError(source) => ImageError::write(&name, source),
            other => ImageError::Encode { name, reason: other.to_string() },
        })
    }
}
