//! Headers of netpbm's formats: numbers between blanks and comments, or, in a PAM, lines with a keyword each.

use std::io::{self, BufRead, ErrorKind};

use crate::image::decode::header::ChannelLayout;

/// Bytes of a header, comments included.
const MAX_HEADER: usize = 1 << 20;

/// How samples are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bits, of which 1 is black.
    Bitmap,
    /// Numbers from black, 0, to the maximum.
    Numbers,
}

/// Form of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raster {
    /// Decimal numbers.
    Plain,
    /// Bytes, the most significant of two first; bits, the first pixel's the most significant.
    Raw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NetpbmHeader {
    pub kind: Kind,
    pub raster: Raster,
    pub width: u64,
    pub height: u64,
    /// Samples per pixel in the file; those beyond the layout's channels are left out.
    pub planes: usize,
    pub layout: ChannelLayout,
    /// The number of full light, 1 to 65,535.
    pub maximum: u32,
}

impl NetpbmHeader {
    /// Bytes of a row of a raw raster.
    pub(super) fn row_bytes(&self) -> usize {
        match self.kind {
            Kind::Bitmap => (self.width as usize).div_ceil(8),
            Kind::Numbers if self.maximum > 255 => self.width as usize * self.planes * 2,
            Kind::Numbers => self.width as usize * self.planes,
        }
    }

    /// Bytes of a raw raster; `None` for a plain one.
    pub(super) fn raster_bytes(&self) -> Option<u64> {
        (self.raster == Raster::Raw).then(|| self.row_bytes() as u64 * self.height)
    }

    /// Appends the numbers of a raw row.
    pub(super) fn raw_row(&self, bytes: &[u8], numbers: &mut Vec<u32>) {
        match self.kind {
            Kind::Bitmap => numbers.extend(
                (0..self.width as usize).map(|x| u32::from(bytes[x / 8] >> (7 - x % 8) & 1)),
            ),
            Kind::Numbers if self.maximum > 255 => {
                let pairs = bytes.chunks_exact(2);
                numbers.extend(pairs.map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))));
            }
            Kind::Numbers => numbers.extend(bytes.iter().map(|&v| u32::from(v))),
        }
    }

    /// Appends the samples of a row in [0, 1], without the planes that are left out.
    pub(super) fn units(&self, numbers: &[u32], out: &mut Vec<f32>) {
        let maximum = self.maximum as f32;
        let unit = |&v: &u32| match self.kind {
            Kind::Bitmap => 1.0 - v as f32,
            Kind::Numbers => v.min(self.maximum) as f32 / maximum,
        };
        for pixel in numbers.chunks_exact(self.planes) {
            out.extend(pixel[..self.layout.channels()].iter().map(unit));
        }
    }
}

/// Reads a header up to the raster.
///
/// # Errors
/// [`ErrorKind::UnexpectedEof`], [`ErrorKind::InvalidData`] and [`ErrorKind::Unsupported`] speak of the file; others are
/// the system's.
pub(super) fn read(source: &mut impl BufRead) -> io::Result<NetpbmHeader> {
    let mut magic = [0; 2];
    source.read_exact(&mut magic)?;
    let mut left = MAX_HEADER;
    let (kind, raster, layout) = match magic[1] {
        b'1' => (Kind::Bitmap, Raster::Plain, ChannelLayout::Grey),
        b'2' => (Kind::Numbers, Raster::Plain, ChannelLayout::Grey),
        b'3' => (Kind::Numbers, Raster::Plain, ChannelLayout::Rgb),
        b'4' => (Kind::Bitmap, Raster::Raw, ChannelLayout::Grey),
        b'5' => (Kind::Numbers, Raster::Raw, ChannelLayout::Grey),
        b'6' => (Kind::Numbers, Raster::Raw, ChannelLayout::Rgb),
        _ => return pam(source, &mut left),
    };
    let width = number(source, &mut left)?;
    let height = number(source, &mut left)?;
    let maximum = if kind == Kind::Bitmap { 1 } else { maximum(number(source, &mut left)?)? };
    let planes = layout.channels();
    Ok(NetpbmHeader { kind, raster, width, height, planes, layout, maximum })
}

fn maximum(given: u64) -> io::Result<u32> {
    match given {
        1..=65_535 => Ok(given as u32),
        _ => Err(invalid(format!("a maximum of {given} (there are 1 to 65535)"))),
    }
}

/// A header of lines that begin with a keyword, up to `ENDHDR`.
fn pam(source: &mut impl BufRead, left: &mut usize) -> io::Result<NetpbmHeader> {
    let [mut width, mut height, mut depth, mut greatest] = [None; 4];
    let mut kinds: Vec<String> = Vec::new();
    loop {
        let line = line(source, left)?;
        let line = line.trim();
        let (keyword, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let number = |field: &mut Option<u64>| {
            let given = value.trim().parse();
            *field = Some(given.map_err(|_| invalid(format!("its {keyword} is no number")))?);
            io::Result::Ok(())
        };
        match keyword {
            "ENDHDR" => break,
            "WIDTH" => number(&mut width)?,
            "HEIGHT" => number(&mut height)?,
            "DEPTH" => number(&mut depth)?,
            "MAXVAL" => number(&mut greatest)?,
            "TUPLTYPE" => kinds.push(value.trim().to_owned()),
            _ if keyword.is_empty() || keyword.starts_with('#') => {}
            _ => return Err(invalid("an unknown line in its header".to_owned())),
        }
    }
    let stated = |field: Option<u64>, name: &str| {
        field.ok_or_else(|| invalid(format!("no {name} in its header")))
    };
    let width = stated(width, "WIDTH")?;
    let height = stated(height, "HEIGHT")?;
    let depth = stated(depth, "DEPTH")?;
    let maximum = maximum(stated(greatest, "MAXVAL")?)?;
    let kind = kinds.join(" ");
    let layout = match kind.as_str() {
        "BLACKANDWHITE" | "GRAYSCALE" => ChannelLayout::Grey,
        "BLACKANDWHITE_ALPHA" | "GRAYSCALE_ALPHA" => ChannelLayout::GreyAlpha,
        "RGB" => ChannelLayout::Rgb,
        "RGB_ALPHA" => ChannelLayout::Rgba,
        // Some writers leave it to the number of planes.
        "" => match depth {
            1 => ChannelLayout::Grey,
            2 => ChannelLayout::GreyAlpha,
            3 => ChannelLayout::Rgb,
            _ => ChannelLayout::Rgba,
        },
        other => {
            let known: String = other.chars().filter(|c| !c.is_control()).take(40).collect();
            let what = format!("PAM of the kind {known}");
            return Err(io::Error::new(ErrorKind::Unsupported, what));
        }
    };
    let planes = usize::try_from(depth).ok().filter(|&planes| planes <= 64);
    let planes = planes.ok_or_else(|| {
        io::Error::new(ErrorKind::Unsupported, format!("PAM of {depth} channels"))
    })?;
    if planes < layout.channels() {
        return Err(invalid("fewer channels than its kind has".to_owned()));
    }
    let raster = Raster::Raw;
    Ok(NetpbmHeader { kind: Kind::Numbers, raster, width, height, planes, layout, maximum })
}

fn invalid(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

pub(super) fn next_byte(source: &mut impl BufRead) -> io::Result<u8> {
    let mut byte = [0];
    source.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Skips the rest of a line and returns its length, at most `most`.
pub(super) fn skip_line(source: &mut impl BufRead, most: usize) -> io::Result<usize> {
    let mut length = 0;
    while !matches!(next_byte(source)?, b'\n' | b'\r') {
        length += 1;
        if length > most {
            return Err(invalid("a comment without an end".to_owned()));
        }
    }
    Ok(length)
}

/// A byte of the header.
fn byte(source: &mut impl BufRead, left: &mut usize) -> io::Result<u8> {
    *left = left.checked_sub(1).ok_or_else(|| invalid("a header without an end".to_owned()))?;
    next_byte(source)
}

/// The next number behind blanks and comments, with the one blank after it.
fn number(source: &mut impl BufRead, left: &mut usize) -> io::Result<u64> {
    let mut next = byte(source, left)?;
    while next.is_ascii_whitespace() || next == b'#' {
        if next == b'#' {
            *left -= skip_line(source, *left)?;
        }
        next = byte(source, left)?;
    }
    let mut number = None;
    while next.is_ascii_digit() {
        let before: u64 = number.unwrap_or(0);
        number = Some(before.saturating_mul(10).saturating_add(u64::from(next - b'0')));
        next = byte(source, left)?;
    }
    // A comment may stand right behind a number, and ends the blank after it.
    if next == b'#' {
        *left -= skip_line(source, *left)?;
    } else if !next.is_ascii_whitespace() {
        number = None;
    }
    number.ok_or_else(|| invalid("no number where one should be in its header".to_owned()))
}

/// The next line, without its end.
fn line(source: &mut impl BufRead, left: &mut usize) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match byte(source, left)? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            other => line.push(other),
        }
    }
}
