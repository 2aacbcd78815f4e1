//! Chunks of a PNG: a look at the header that passes over the pixels, a check of all chunks for errors that say where
//! the damage is, and the file with nothing but what the pixels need, so that no other chunk can cost the decoder
//! anything. Source: PNG specification, third edition, sections 5 and 11.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::image::source::Source;

/// Most bytes of a tRNS chunk: one for every colour of a palette.
const MOST_TRANSPARENCY: u32 = 256;

/// What the chunks say before the pixels are decoded.
#[derive(Debug)]
pub(super) struct Scan {
    pub width: u32,
    pub height: u32,
    /// Bits of a sample, or of a palette's index.
    pub depth: u8,
    pub colour: u8,
    pub interlaced: bool,
    /// There is a whole tRNS chunk.
    pub has_transparency: bool,
    /// Frames of an animation, by its acTL chunk: 0 without one.
    pub frames: u32,
}

/// Why a header cannot be read.
#[derive(Debug)]
pub(super) enum ScanError {
    /// A PNG that only Apple's devices read: its pixels are stored in another way.
    Apple,
    Damaged(&'static str),
    Io(io::Error),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("truncated before the pixels"),
            _ => Self::Io(error),
        }
    }
}

/// Head of a chunk: its kind and the length of its data.
fn head(file: &mut Source) -> io::Result<([u8; 4], u32)> {
    let mut head = [0; 8];
    file.read_exact(&mut head)?;
    let [a, b, c, d, kind @ ..] = head;
    Ok((kind, u32::from_be_bytes([a, b, c, d])))
}

/// `true` for the length of 1 to 256 colours of three bytes.
fn is_palette(length: u32) -> bool {
    length.is_multiple_of(3) && (3..=768).contains(&length)
}

/// Reads the header and looks at the kinds of the chunks before the pixels.
pub(super) fn scan(file: &mut Source) -> Result<Scan, ScanError> {
    file.seek(SeekFrom::Start(8))?;
    let first = head(file)?;
    if first.0 == *b"CgBI" {
        return Err(ScanError::Apple);
    }
    if first != (*b"IHDR", 13) {
        return Err(ScanError::Damaged("no header"));
    }
    let mut data = [0; 17];
    file.read_exact(&mut data)?;
    let (data, stated) = data.split_at(13);
    let mut sum = crc32fast::Hasher::new();
    sum.update(b"IHDR");
    sum.update(data);
    if sum.finalize().to_be_bytes() != stated {
        return Err(ScanError::Damaged("bad CRC in IHDR"));
    }
    let number =
        |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let mut scan = Scan {
        width: number(0),
        height: number(4),
        depth: data[8],
        colour: data[9],
        interlaced: data[12] != 0,
        has_transparency: false,
        frames: 0,
    };
    loop {
        let (kind, length) = head(file)?;
        match &kind {
            b"IDAT" | b"IEND" => return Ok(scan),
            b"tRNS" if length <= MOST_TRANSPARENCY => {
                // The decoder leaves a damaged one out.
                let mut data = vec![0; length as usize + 4];
                file.read_exact(&mut data)?;
                let (data, stated) = data.split_at(length as usize);
                let mut sum = crc32fast::Hasher::new();
                sum.update(&kind);
                sum.update(data);
                scan.has_transparency |= sum.finalize().to_be_bytes() == stated;
                continue;
            }
            // The decoder takes it as it is, and indexes beyond its end.
            b"PLTE" if scan.colour == 3 && !is_palette(length) => {
                return Err(ScanError::Damaged("a palette that is no whole number of colours"));
            }
            b"acTL" if length == 8 => {
                let mut data = [0; 8];
                file.read_exact(&mut data)?;
                scan.frames = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
                file.seek_relative(4)?;
                continue;
            }
            kind if !kind.iter().all(u8::is_ascii_alphabetic) => {
                return Err(ScanError::Damaged("damaged chunk structure"));
            }
            _ => {}
        }
        file.seek_relative(i64::from(length) + 4)?;
    }
}

/// Walks all chunks; `Err` names the first damage.
pub(super) fn check(file: &mut Source) -> io::Result<Result<(), String>> {
    file.seek(SeekFrom::Start(8))?;
    let mut runs = 0;
    let mut last = [0; 4];
    loop {
        let (kind, length) = match head(file) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err("truncated, the end is missing".into()));
            }
            read => read?,
        };
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            return Ok(Err("damaged chunk structure".into()));
        }
        let name = || String::from_utf8_lossy(&kind).into_owned();
        runs += u32::from(kind == *b"IDAT" && last != kind);
        if runs > 1 {
            return Ok(Err("other chunks between those of the pixels".into()));
        }
        last = kind;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&kind);
        let mut left = u64::from(length);
        while left > 0 {
            let read = file.fill_buf()?;
            if read.is_empty() {
                return Ok(Err(format!("truncated in {}", name())));
            }
            let count = (read.len() as u64).min(left) as usize;
            sum.update(&read[..count]);
            file.consume(count);
            left -= count as u64;
        }
        let mut stated = [0; 4];
        if file.read_exact(&mut stated).is_err() {
            return Ok(Err(format!("truncated in {}", name())));
        }
        // Critical chunks only: what is not needed for the pixels may be damaged.
        if kind[0].is_ascii_uppercase() && sum.finalize().to_be_bytes() != stated {
            return Ok(Err(format!("bad CRC in {}", name())));
        }
        if kind == *b"IEND" {
            return Ok(Ok(()));
        }
    }
}

/// The file with its signature and the chunks that the pixels need.
pub(super) struct PixelChunks {
    file: Source,
    /// Bytes of the file that are passed on before the next chunk's head.
    left: u64,
    /// The signature, or a chunk's head, of which the bytes from `at` on are still to be passed on.
    head: Vec<u8>,
    at: usize,
}

impl PixelChunks {
    pub(super) fn new(mut file: Source) -> io::Result<Self> {
        let mut head = vec![0; 8];
        file.rewind()?;
        file.read_exact(&mut head)?;
        Ok(Self { file, left: 0, head, at: 0 })
    }

    /// Goes to the next chunk that is passed on; past the last one there is nothing.
    fn next(&mut self) -> io::Result<()> {
        loop {
            let (kind, length) = match head(&mut self.file) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            };
            if matches!(&kind, b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" | b"IEND") {
                self.head.clear();
                self.head.extend(length.to_be_bytes());
                self.head.extend(kind);
                (self.at, self.left) = (0, u64::from(length) + 4);
                return Ok(());
            }
            self.file.seek_relative(i64::from(length) + 4)?;
        }
    }
}

impl Read for PixelChunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?;
        let count = read.len().min(out.len());
        out[..count].copy_from_slice(&read[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for PixelChunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.head.len() && self.left == 0 {
            self.next()?;
        }
        if self.at < self.head.len() {
            return Ok(&self.head[self.at..]);
        }
        if self.left == 0 {
            return Ok(&[]);
        }
        let read = self.file.fill_buf()?;
        Ok(&read[..(read.len() as u64).min(self.left) as usize])
    }

    fn consume(&mut self, count: usize) {
        if self.at < self.head.len() {
            self.at += count;
        } else {
            self.left -= count as u64;
            self.file.consume(count);
        }
    }
}

/// The decoder asks for it and never uses it.
impl Seek for PixelChunks {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
