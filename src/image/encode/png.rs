//! PNG through the `png` crate's streaming writer: iCCP or the input's chunks of colour, eXIf, pHYs, and texts, among them XMP
//! and settings.

use std::io::{self, Write};

use png::{BitDepth, ColorType, Compression, EncodingError, PixelDimensions, StreamWriter, Unit};

use super::{
    format_writer::FormatWriter,
    options::{EncodeOptions, NAME, SOFTWARE},
    shape::{Depth, SampleShape},
};
use crate::image::error::{ImageError, Result};
use crate::image::metadata::png::{RAW_PROFILE, SETTINGS_KEYWORD, XMP_KEYWORD};
use crate::image::metadata::text::{COMMENT, as_raw_profile, to_latin1};
use crate::image::metadata::{ColourChunk, Text};
use crate::image::{output::OpenOutput, sink::Sink};

/// Kind under which ImageMagick and ExifTool keep Photoshop's resources in a text.
const IPTC: &str = "iptc";
const SOFTWARE_KEYWORD: &str = "Software";

pub(super) struct PngWriter {
    stream: StreamWriter<'static, Sink>,
    sink: Sink,
    name: String,
}

impl PngWriter {
    pub(super) fn new(
        target: &OpenOutput,
        shape: SampleShape,
        options: &EncodeOptions,
    ) -> Result<Self> {
        let name = target.name().to_owned();
        let mut info = png::Info::with_size(shape.width, shape.height);
        info.color_type = match (shape.grey, shape.alpha) {
            (true, false) => ColorType::Grayscale,
            (true, true) => ColorType::GrayscaleAlpha,
            (false, false) => ColorType::Rgb,
            (false, true) => ColorType::Rgba,
        };
        info.bit_depth =
            if shape.depth == Depth::Eight { BitDepth::Eight } else { BitDepth::Sixteen };
        // The chunks that the input had say the same.
        if options.colour_chunks.is_empty() {
            info.icc_profile = options.icc.as_deref().map(Into::into);
        }
        info.pixel_dims = options.dpi.map(|(x, y)| PixelDimensions {
            xppu: (x / 0.0254).round() as u32,
            yppu: (y / 0.0254).round() as u32,
            unit: Unit::Meter,
        });

        let sink = target.sink()?;
        let start = || {
            let mut encoder = png::Encoder::with_info(sink.clone(), info)?;
            // On a photo of 4096 x 4096, some 30 times faster than the default for 15 % more bytes.
            encoder.set_compression(Compression::Fast);
            let writer = encoder.write_header()?;
            write_metadata(&mut sink.clone(), options)?;
            writer.into_stream_writer_with_size(1 << 16)
        };
        let stream = start().map_err(|e| failure(&name, &sink, e))?;
        Ok(Self { stream, sink, name })
    }
}

/// Chunks between the header and the pixels that the crate does not know or would copy.
fn write_metadata(file: &mut Sink, options: &EncodeOptions) -> io::Result<()> {
    for ColourChunk { kind, data } in &options.colour_chunks {
        write_chunk(file, kind, &[data])?;
    }
    if let Some(exif) = &options.exif {
        write_chunk(file, b"eXIf", &[exif])?;
    }
    // What made the input says more than its name in ours; the settings stand in a text of their own.
    let theirs = |text: &&Text| text.keyword == SOFTWARE_KEYWORD && !text.text.starts_with(NAME);
    if !options.texts.iter().any(|text| theirs(&text)) {
        write_text(file, &Text::new(SOFTWARE_KEYWORD.to_owned(), SOFTWARE.to_owned()), true)?;
    }
    if let Some(settings) = &options.settings {
        write_text(file, &Text::new(SETTINGS_KEYWORD.to_owned(), settings.clone()), true)?;
    }
    for text in &options.texts {
        if text.keyword != SOFTWARE_KEYWORD || theirs(&text) {
            write_text(file, text, false)?;
        }
    }
    if let Some(block) = &options.photoshop {
        let text = as_raw_profile(IPTC, block);
        write_text(file, &Text::new(format!("{RAW_PROFILE}{IPTC}"), text), false)?;
    }
    if let Some(packet) = &options.xmp {
        let head = [XMP_KEYWORD.as_bytes(), &[0; 5]].concat();
        write_chunk(file, b"iTXt", &[&head, packet])?;
    }
    Ok(())
}

/// A text as tEXt, which every reader knows, where its characters allow, else (or if asked for) as iTXt.
fn write_text(file: &mut Sink, text: &Text, international: bool) -> io::Result<()> {
    let keyword = keyword(&text.keyword);
    let plain = text.language.is_empty() && text.translated.is_empty();
    match to_latin1(&text.text) {
        Some(latin1) if plain && !international => {
            write_chunk(file, b"tEXt", &[&keyword, &[0], &latin1])
        }
        _ => {
            let parts = [text.language.as_str(), "\0", &text.translated, "\0"].concat();
            let unicode = text.text.replace('\0', " ");
            let head = [keyword.as_slice(), &[0; 3], parts.as_bytes()].concat();
            write_chunk(file, b"iTXt", &[&head, unicode.as_bytes()])
        }
    }
}

/// A keyword as PNG allows it: 1 to 79 printable Latin-1 characters.
fn keyword(keyword: &str) -> Vec<u8> {
    let allowed = |c: char| {
        let byte = u8::try_from(c).unwrap_or(0);
        if matches!(byte, 32..=126 | 161..=255) { byte } else { b'?' }
    };
    let keyword: Vec<u8> = keyword.trim().chars().take(79).map(allowed).collect();
    if keyword.is_empty() { COMMENT.as_bytes().to_vec() } else { keyword }
}

/// A chunk whose data are these parts, one behind the other.
fn write_chunk(file: &mut Sink, kind: &[u8; 4], parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).ok().filter(|&length| length < 1 << 31);
    let length = length.ok_or_else(|| io::Error::other("metadata larger than a PNG's chunk"))?;
    let mut sum = crc32fast::Hasher::new();
    file.write_all(&length.to_be_bytes())?;
    for part in [kind.as_slice()].iter().chain(parts) {
        sum.update(part);
        file.write_all(part)?;
    }
    file.write_all(&sum.finalize().to_be_bytes())
}

impl FormatWriter for PngWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        let written = self.stream.write_all(rows);
        written.map_err(|e| failure(&self.name, &self.sink, e.into()))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { stream, sink, name } = *self;
        stream.finish().map_err(|e| failure(&name, &sink, e))?;
        sink.finish().map_err(|e| ImageError::write(&name, e))
    }
}

/// The sink's own error where there is one: the encoder may report it by its kind only.
fn failure(name: &str, sink: &Sink, error: EncodingError) -> ImageError {
    match (sink.finish(), error) {
        (Err(source), _) | (Ok(()), EncodingError::IoError(source)) => {
            ImageError::write(name, source)
        }
        (Ok(()), other) => ImageError::Encode { name: name.to_owned(), reason: other.to_string() },
    }
}
