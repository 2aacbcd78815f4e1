//! JPEG through `jpeg-encoder`, which asks for rows when it wants them: it runs in a thread and is
//! fed through a short queue, so rows stream and memory stays bounded.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use jpeg_encoder::{
    EncodingError, ImageBuffer, JpegColorType, PixelDensity, PixelDensityUnit, SamplingFactor,
    rgb_to_ycbcr,
};
use sha2::{Digest as _, Sha256};

use super::{
    format_writer::FormatWriter,
    options::{EncodeOptions, SOFTWARE},
    shape::SampleShape,
};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::metadata::{
    JPEG_EXIF, JPEG_XMP, JPEG_XMP_MORE, Text, photoshop::JPEG_PHOTOSHOP, xmp,
};
use crate::image::{output::OpenOutput, sink::Sink};

/// Bands that may wait for the encoder.
const QUEUE: usize = 2;
/// Most bytes of an APP segment's payload.
const MAX_SEGMENT: usize = 65_533;
/// Bytes that the encoder writes first: the marker of the beginning, and JFIF's segment.
const HEAD: usize = 2 + 18;
/// Bytes of a packet in a segment that continues it.
const PART: usize = 65_400;
/// Most bytes of a packet in one segment.
pub(super) const MAX_PACKET: usize = MAX_SEGMENT - JPEG_XMP.len();
/// Parts of a profile: their number is one byte, and each part has a head of 14 bytes.
const MAX_ICC: usize = 254 * (MAX_SEGMENT - 14);

/// Most bytes of Photoshop's resources in a segment; they go on in the next one.
const MAX_RESOURCES: usize = MAX_SEGMENT - JPEG_PHOTOSHOP.len();

type EncodeResult = std::result::Result<(), EncodingError>;

pub(super) struct JpegWriter {
    /// `None` once the encoder was told that no more rows come.
    rows: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<EncodeResult>>,
    sink: Sink,
    name: String,
}

impl JpegWriter {
    pub(super) fn new(
        target: &OpenOutput,
        shape: SampleShape,
        options: EncodeOptions,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self> {
        let name = target.name().to_owned();
        let sink = target.sink()?;
        let (sender, receiver) = sync_channel(QUEUE);
        let quality = options.quality.clamp(1, 100);
        let density = options.dpi.map(|(x, y)| PixelDensity {
            density: [x, y].map(|v| v.round().clamp(1.0, 65535.0) as u16).into(),
            unit: PixelDensityUnit::Inches,
        });
        let abandoned = Arc::new(AtomicBool::new(false));
        let mut out = Guarded {
            writer: BufWriter::with_capacity(1 << 16, sink.clone()),
            head: HEAD,
            segments: Some(Segments::new(options, warnings)),
            abandoned: Arc::clone(&abandoned),
        };
        let source = JpegRows {
            shape,
            state: Mutex::new(RowsState { receiver, band: Vec::new(), first: 0 }),
            abandoned,
        };
        let encode = move || {
            let mut encoder = jpeg_encoder::Encoder::new(&mut out, quality);
            if quality >= 90 {
                encoder.set_sampling_factor(SamplingFactor::F_1_1);
            } else {
                encoder.set_sampling_factor(SamplingFactor::F_2_2);
                encoder
                    .set_chroma_subsampling_method(jpeg_encoder::ChromaSubsamplingMethod::Average);
            }
            if let Some(density) = density {
                encoder.set_density(density);
            }
            encoder.encode_image(source)?;
            Ok(out.flush()?)
        };
        let thread = std::thread::Builder::new()
            .name("jpeg encoder".into())
            .spawn(encode)
            .map_err(|e| ImageError::write(&name, e))?;
        Ok(Self { rows: Some(sender), thread: Some(thread), sink, name })
    }

    /// Waits for the encoder; returns its result.
    fn join(&mut self) -> Result<()> {
        self.rows = None;
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let result = thread.join();
        self.sink.finish().map_err(|e| ImageError::write(&self.name, e))?;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(EncodingError::IoError(e))) => Err(ImageError::write(&self.name, e)),
            Ok(Err(other)) => Err(self.refused(other.to_string())),
            Err(_) => Err(self.refused("the encoder gave up".into())),
        }
    }

    fn refused(&self, reason: String) -> ImageError {
        ImageError::Encode { name: self.name.clone(), reason }
    }
}

impl FormatWriter for JpegWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        let sent = match &self.rows {
            Some(queue) => queue.send(rows.to_vec()).is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        // The encoder has ended early, so it has something to tell.
        self.join()?;
        Err(self.refused("the encoder ended early".into()))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.join()
    }
}

impl Drop for JpegWriter {
    fn drop(&mut self) {
        // Ends an abandoned encoder before its temporary file goes.
        let _ = self.join();
    }
}

/// The picture as the encoder sees it: rows that arrive through the queue, in order.
struct JpegRows {
    shape: SampleShape,
    state: Mutex<RowsState>,
    abandoned: Arc<AtomicBool>,
}

struct RowsState {
    receiver: Receiver<Vec<u8>>,
    band: Vec<u8>,
    /// Row number of the band's first row.
    first: usize,
}

impl ImageBuffer for JpegRows {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        if self.shape.grey { JpegColorType::Luma } else { JpegColorType::Ycbcr }
    }

    fn width(&self) -> u16 {
        self.shape.width as u16
    }

    fn height(&self) -> u16 {
        self.shape.height as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let length = self.shape.row_bytes();
        // The encoder asks top to bottom, and for the last row again to fill its blocks.
        while usize::from(y) >= state.first + state.band.len() / length {
            match state.receiver.recv() {
                Ok(band) => {
                    state.first += state.band.len() / length;
                    state.band = band;
                }
                Err(_) => {
                    // No error can be returned from here; the next write returns it.
                    self.abandoned.store(true, Ordering::Relaxed);
                    for buffer in &mut buffers[..self.shape.channels()] {
                        buffer.extend(std::iter::repeat_n(0, self.shape.width as usize));
                    }
                    return;
                }
            }
        }
        let at = (usize::from(y) - state.first) * length;
        let row = &state.band[at..at + length];
        if self.shape.grey {
            buffers[0].extend_from_slice(row);
        } else {
            for pixel in row.chunks_exact(3) {
                let (y, cb, cr) = rgb_to_ycbcr(pixel[0], pixel[1], pixel[2]);
                buffers[0].push(y);
                buffers[1].push(cb);
                buffers[2].push(cr);
            }
        }
    }
}

/// A writer that puts the segments behind the first ones of the encoder, which knows no comments, and that fails
/// once the rows stopped coming.
struct Guarded {
    writer: BufWriter<Sink>,
    /// Bytes of the encoder that come before the segments.
    head: usize,
    segments: Option<Segments>,
    abandoned: Arc<AtomicBool>,
}

impl Write for Guarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(io::Error::other("rows are missing"));
        }
        if self.head > 0 {
            let count = self.writer.write(&bytes[..bytes.len().min(self.head)])?;
            self.head -= count;
            return Ok(count);
        }
        if let Some(segments) = self.segments.take() {
            segments.write(&mut self.writer)?;
        }
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Blocks of metadata that fit into segments.
struct Segments {
    exif: Option<Vec<u8>>,
    xmp: Option<Packet>,
    icc: Option<Vec<u8>>,
    photoshop: Option<Vec<u8>>,
    comments: Vec<Text>,
}

/// A packet of one segment, or one that announces parts, and what the parts hold.
enum Packet {
    Single(Vec<u8>),
    Parts { head: Vec<u8>, guid: String, more: Vec<u8> },
}

impl Segments {
    /// What fits of the options; the rest is left out with a warning.
    fn new(options: EncodeOptions, warnings: &mut Vec<Warning>) -> Self {
        let EncodeOptions { exif, xmp, icc, photoshop, texts, settings, .. } = options;
        let mut fitting = |what, block: Option<Vec<u8>>, most| {
            let fits = block.as_ref().is_none_or(|block| block.len() <= most);
            if !fits {
                warnings.push(Warning::MetadataDropped(what, Format::Jpeg));
            }
            block.filter(|_| fits)
        };
        let exif = fitting("EXIF", exif, MAX_SEGMENT - JPEG_EXIF.len());
        let icc = fitting("ICC profile", icc, MAX_ICC);
        let xmp = xmp.and_then(|packet| {
            let packet = Packet::new(packet, settings.as_deref());
            if packet.is_none() {
                warnings.push(Warning::MetadataDropped("XMP", Format::Jpeg));
            }
            packet
        });
        Self { exif, xmp, icc, photoshop, comments: texts }
    }

    /// Writes the segments in their usual order: EXIF, XMP, profile, Photoshop's resources, comments.
    fn write(self, file: &mut impl Write) -> io::Result<()> {
        if let Some(exif) = self.exif {
            write_segment(file, 0xE1, &[JPEG_EXIF, &exif])?;
        }
        match self.xmp {
            Some(Packet::Single(packet)) => write_segment(file, 0xE1, &[JPEG_XMP, &packet])?,
            Some(Packet::Parts { head, guid, more }) => {
                write_segment(file, 0xE1, &[JPEG_XMP, &head])?;
                for (i, part) in more.chunks(PART).enumerate() {
                    let place = [more.len(), i * PART].map(|number| (number as u32).to_be_bytes());
                    let parts = [JPEG_XMP_MORE, guid.as_bytes(), place.as_flattened(), part];
                    write_segment(file, 0xE1, &parts)?;
                }
            }
            None => {}
        }
        if let Some(icc) = self.icc {
            let parts = icc.chunks(MAX_SEGMENT - 14);
            let count = parts.len() as u8;
            for (part, number) in parts.zip(1u8..) {
                write_segment(file, 0xE2, &[b"ICC_PROFILE\0", &[number, count], part])?;
            }
        }
        for part in self.photoshop.iter().flat_map(|block| block.chunks(MAX_RESOURCES)) {
            write_segment(file, 0xED, &[JPEG_PHOTOSHOP, part])?;
        }
        for comment in self.comments {
            let mut parts = comment.text.as_bytes().chunks(MAX_SEGMENT);
            parts.try_for_each(|part| write_segment(file, 0xFE, &[part]))?;
        }
        Ok(())
    }
}

impl Packet {
    /// A packet as it is, or in parts if it is too large for one segment; then the settings, which are not in it yet,
    /// stand in the packet that announces them. `None` if that does not fit either.
    fn new(packet: Vec<u8>, settings: Option<&str>) -> Option<Self> {
        if settings.is_none() && packet.len() <= MAX_PACKET {
            return Some(Self::Single(packet));
        }
        u32::try_from(packet.len()).ok()?;
        // The standard asks for the MD5 sum of the parts; nothing but being the same in all of them is made of it.
        let sum = Sha256::digest(&packet);
        let guid: String = sum.iter().take(16).map(|byte| format!("{byte:02X}")).collect();
        let settings = settings.map(|settings| (SOFTWARE, settings));
        let additions = xmp::Additions { settings, ..xmp::Additions::default() };
        let head = xmp::announcing(&guid, &additions);
        (head.len() <= MAX_PACKET).then_some(Self::Parts { head, guid, more: packet })
    }
}

/// A segment whose payload are these parts, at most [`MAX_SEGMENT`] bytes.
fn write_segment(file: &mut impl Write, marker: u8, parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    file.write_all(&[0xFF, marker])?;
    file.write_all(&(length as u16 + 2).to_be_bytes())?;
    parts.iter().try_for_each(|part| file.write_all(part))
}
