//! Contents of a strip or a tile, decompressed as they are read, so that a picture in one strip costs rows and not itself.
//! Source: TIFF 6.0, sections 9, 11 and 13; Adobe's notes on deflate; libtiff for the order of bits.

use std::cell::RefCell;
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};

use fax::decoder::{DecodeStatus, Group3Decoder, Group4Decoder, pels};
use flate2::bufread::ZlibDecoder;
use weezl::{BitOrder, LzwStatus};

/// Bytes of a file that are read at once, for each of the chunks that are read side by side.
const BUFFER: usize = 1 << 15;

/// Ways of compression that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Group3,
    Group4,
    Jpeg,
    WebP,
}

/// A stretch of a file with a place of its own, so that several can be read in turns.
pub(super) struct Piece<'a, S> {
    source: &'a RefCell<S>,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
    /// The lowest bit of each byte comes first.
    reversed: bool,
}

impl<'a, S: Read + Seek> Piece<'a, S> {
    pub(super) fn new(source: &'a RefCell<S>, at: u64, length: u64, reversed: bool) -> Self {
        let end = at.saturating_add(length);
        Self { source, at, end, buffer: Vec::new(), used: 0, reversed }
    }

    /// All of it.
    pub(super) fn all(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<S: Read + Seek> BufRead for Piece<'_, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() && self.at < self.end {
            let mut source = self.source.borrow_mut();
            source.seek(SeekFrom::Start(self.at))?;
            self.buffer.clear();
            let wanted = (self.end - self.at).min(BUFFER as u64);
            (&mut *source).take(wanted).read_to_end(&mut self.buffer)?;
            self.at += self.buffer.len() as u64;
            self.used = 0;
            if self.buffer.is_empty() {
                self.at = self.end;
            }
            if self.reversed {
                self.buffer.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
            }
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

impl<S: Read + Seek> Read for Piece<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(out.len());
        out[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// A reader of what a compressed chunk stands for; `width` is its width in pixels, which fax codes depend on.
pub(super) fn reader<'a, S: Read + Seek + 'a>(
    piece: Piece<'a, S>,
    compression: Compression,
    width: usize,
) -> io::Result<Box<dyn Read + 'a>> {
    let fax_width = || u16::try_from(width).map_err(|_| io::Error::other("too wide for a fax"));
    Ok(match compression {
        Compression::None => Box::new(piece),
        Compression::Deflate => Box::new(ZlibDecoder::new(piece)),
        Compression::Lzw => Box::new(Lzw::new(piece)),
        Compression::PackBits => Box::new(PackBits::new(piece)),
        Compression::Group4 => Box::new(Fax {
            width: fax_width()?,
            lines: Group4Lines(Group4Decoder::new(piece.bytes(), fax_width()?)?),
            line: io::Cursor::default(),
        }),
        Compression::Group3 => Box::new(Fax {
            width: fax_width()?,
            lines: Group3Lines(
                Group3Decoder::new(piece.bytes().chain(LINE_ENDS.iter().map(|&byte| Ok(byte))))
                    .map_err(|_| io::Error::other("no line begins"))?,
            ),
            line: io::Cursor::default(),
        }),
        Compression::Jpeg | Compression::WebP => {
            return Err(io::Error::other("a picture of its own"));
        }
    })
}

/// LZW with codes that grow one early, as TIFF has them; very old files have the other order of bits.
struct Lzw<P> {
    piece: P,
    decoder: Option<weezl::decode::Decoder>,
}

impl<P: BufRead> Lzw<P> {
    fn new(piece: P) -> Self {
        Self { piece, decoder: None }
    }
}

impl<P: BufRead> Read for Lzw<P> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = self.piece.fill_buf()?;
            let decoder = self.decoder.get_or_insert_with(|| match ready {
                // A clear code with its lowest bit first: libtiff's "old-style LZW".
                [0, second, ..] if second & 1 == 1 => weezl::decode::Decoder::new(BitOrder::Lsb, 8),
                _ => weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8),
            });
            let (at_end, result) = (ready.is_empty(), decoder.decode_bytes(ready, out));
            self.piece.consume(result.consumed_in);
            let status = result.status.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            if result.consumed_out > 0 || out.is_empty() || matches!(status, LzwStatus::Done) {
                return Ok(result.consumed_out);
            }
            if at_end || result.consumed_in == 0 {
                return Ok(0);
            }
        }
    }
}

/// What PackBits goes on with.
enum Run {
    /// Bytes as they stand.
    Literal(usize),
    /// One byte again and again.
    Repeat(usize, u8),
}

/// Bytes unpacked from PackBits.
pub(in crate::image::decode) struct PackBits<P> {
    piece: P,
    run: Run,
}

impl<P: Read> PackBits<P> {
    /// Unpacks a piece of a file.
    pub(in crate::image::decode) fn new(piece: P) -> Self {
        Self { piece, run: Run::Literal(0) }
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.piece.read(&mut byte)? == 1).then_some(byte[0]))
    }
}

impl<P: Read> Read for PackBits<P> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.run {
                Run::Literal(0) | Run::Repeat(0, _) => match self.byte()? {
                    None => return Ok(0),
                    Some(128) => {}
                    Some(n @ 0..128) => self.run = Run::Literal(usize::from(n) + 1),
                    Some(n) => match self.byte()? {
                        None => return Ok(0),
                        Some(value) => self.run = Run::Repeat(257 - usize::from(n), value),
                    },
                },
                Run::Literal(left) => {
                    let count = out.len().min(*left);
                    let count = self.piece.read(&mut out[..count])?;
                    *left -= count;
                    return Ok(count);
                }
                Run::Repeat(left, value) => {
                    let count = out.len().min(*left);
                    out[..count].fill(*value);
                    *left -= count;
                    return Ok(count);
                }
            }
        }
    }
}

/// Marks that end a line, each behind fill bits: TIFF's last line has none, and the decoder looks that far ahead.
const LINE_ENDS: [u8; 16] = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1];

/// A decoder of fax lines.
trait Lines {
    /// Places where the next line changes its colour, beginning with white; `None` behind the last.
    fn next(&mut self, width: u16) -> io::Result<Option<&[u16]>>;
}

struct Group4Lines<R>(Group4Decoder<R>);

impl<R: Iterator<Item = io::Result<u8>>> Lines for Group4Lines<R> {
    fn next(&mut self, _: u16) -> io::Result<Option<&[u16]>> {
        match self.0.advance() {
            Ok(DecodeStatus::Incomplete) => Ok(Some(self.0.transition())),
            Ok(DecodeStatus::End) => Ok(None),
            Err(_) => Err(io::Error::new(ErrorKind::InvalidData, "a fax code that does not exist")),
        }
    }
}

struct Group3Lines<R>(Group3Decoder<R>);

impl<R: Iterator<Item = io::Result<u8>>> Lines for Group3Lines<R> {
    fn next(&mut self, width: u16) -> io::Result<Option<&[u16]>> {
        let is_over = self.0.advance().is_err();
        match self.0.transitions() {
            [] => Ok(None),
            [.., last] if *last == width => Ok(Some(self.0.transitions())),
            _ if is_over => Ok(None),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "a fax line of another length")),
        }
    }
}

/// Lines of a fax as packed bits, black being 1 as in libtiff.
struct Fax<L> {
    width: u16,
    lines: L,
    line: io::Cursor<Vec<u8>>,
}

impl<L: Lines> Read for Fax<L> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.line.position() == self.line.get_ref().len() as u64 {
            let Some(changes) = self.lines.next(self.width)? else { return Ok(0) };
            let line = self.line.get_mut();
            line.clear();
            line.resize(usize::from(self.width).div_ceil(8), 0);
            for (x, colour) in pels(changes, self.width).enumerate() {
                line[x / 8] |= u8::from(colour == fax::Color::Black) << (7 - x % 8);
            }
            self.line.set_position(0);
        }
        self.line.read(out)
    }
}

/// Undoes a predictor on one row of samples in native order of the file. `samples` is the number of samples per pixel.
pub(super) fn undo_differences(row: &mut [u8], bits: u16, samples: usize, little: bool) {
    macro_rules! wide {
        ($kind:ty) => {{
            const SIZE: usize = size_of::<$kind>();
            let read = |at: &[u8]| {
                let bytes = at.try_into().unwrap_or_default();
                if little { <$kind>::from_le_bytes(bytes) } else { <$kind>::from_be_bytes(bytes) }
            };
            for at in (samples * SIZE..row.len() / SIZE * SIZE).step_by(SIZE) {
                let before = read(&row[at - samples * SIZE..][..SIZE]);
                let sum = read(&row[at..][..SIZE]).wrapping_add(before);
                let bytes = if little { sum.to_le_bytes() } else { sum.to_be_bytes() };
                row[at..at + SIZE].copy_from_slice(&bytes);
            }
        }};
    }
    match bits {
        8 => {
            for at in samples..row.len() {
                row[at] = row[at].wrapping_add(row[at - samples]);
            }
        }
        16 => wide!(u16),
        32 => wide!(u32),
        _ => wide!(u64),
    }
}

/// Undoes the floating-point predictor (Adobe's technical note 3): differences of bytes, the most significant ones of
/// all samples first. The result is big-endian.
pub(super) fn undo_float_differences(row: &mut [u8], bits: u16, samples: usize) {
    for at in samples..row.len() {
        row[at] = row[at].wrapping_add(row[at - samples]);
    }
    let size = usize::from(bits / 8);
    let count = row.len() / size;
    let planes = row.to_vec();
    for (i, sample) in row.chunks_exact_mut(size).enumerate() {
        for (k, byte) in sample.iter_mut().enumerate() {
            *byte = planes[k * count + i];
        }
    }
}
