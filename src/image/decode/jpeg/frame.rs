//! Frame header of a JPEG: size, components and colour, and which kinds of JPEG are refused by name.
//! Source: ITU-T T.81, B.2.2; the rules of libjpeg (jdapimin.c, default_decompress_parms) for colour.

use std::fmt;

/// Side of a block of samples.
const BLOCK: usize = 8;

/// Reason for which a JPEG is not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Bytes that contradict the standard or themselves.
    Damaged(&'static str),
    /// A lawful kind of JPEG that is not read here, and what helps.
    Unsupported { kind: &'static str, help: &'static str },
}

/// One colour channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Component {
    pub id: u8,
    /// Sampling factors, 1 to 4.
    pub h: usize,
    pub v: usize,
    /// Number of its quantisation table, 0 to 3.
    pub table: usize,
}

/// Size, precision and components of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub width: usize,
    pub height: usize,
    /// Bits per sample, 8 or 12.
    pub precision: u8,
    pub progressive: bool,
    pub components: Vec<Component>,
    pub h_max: usize,
    pub v_max: usize,
}

impl Frame {
    /// Reads a start-of-frame segment (`data` without marker and length).
    pub(super) fn parse(marker: u8, data: &[u8]) -> Result<Self, Refusal> {
        let progressive = match marker {
            0xC0 | 0xC1 => false,
            0xC2 => true,
            0xC3 => {
                let help = "convert it: djpeg -pnm FILE > FILE.ppm (libjpeg-turbo 3), magick FILE.ppm FILE.png";
                return Err(Refusal::Unsupported { kind: "lossless JPEG", help });
            }
            0xC9 | 0xCA => {
                let help = "convert it without loss: jpegtran -copy all -outfile NEW.jpg FILE";
                return Err(Refusal::Unsupported { kind: "arithmetic-coded JPEG", help });
            }
            _ => return Err(unread("hierarchical or lossless arithmetic-coded JPEG")),
        };
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = data else {
            return Err(Refusal::Damaged("frame header too short"));
        };
        if !matches!(precision, 8 | 12) {
            return Err(Refusal::Damaged("a precision that is neither 8 nor 12 bits"));
        }
        let (width, height) =
            (usize::from(u16::from_be_bytes([w1, w0])), usize::from(u16::from_be_bytes([h1, h0])));
        if height == 0 && width > 0 {
            return Err(unread("JPEG whose height follows its pixels (DNL marker)"));
        }
        let mut components = Vec::new();
        for part in rest.chunks_exact(3).take(usize::from(count)) {
            let component = Component {
                id: part[0],
                h: usize::from(part[1] >> 4),
                v: usize::from(part[1] & 15),
                table: usize::from(part[2]),
            };
            if !(1..=4).contains(&component.h)
                || !(1..=4).contains(&component.v)
                || component.table > 3
            {
                return Err(Refusal::Damaged("impossible sampling factors"));
            }
            components.push(component);
        }
        if components.len() != usize::from(count) {
            return Err(Refusal::Damaged("frame header too short"));
        }
        match components.len() {
            1 | 3 | 4 => {}
            2 => return Err(unread("JPEG of two channels")),
            _ => return Err(Refusal::Damaged("an impossible number of channels")),
        }
        // The factors of a single component say nothing.
        if let [only] = components.as_mut_slice() {
            (only.h, only.v) = (1, 1);
        }
        let largest = |side: fn(&Component) -> usize| components.iter().map(side).max();
        let (h_max, v_max) = (largest(|c| c.h).unwrap_or(1), largest(|c| c.v).unwrap_or(1));
        Ok(Self { width, height, precision, progressive, components, h_max, v_max })
    }

    /// Minimum coded units of an interleaved scan, across and down.
    pub(super) fn units(&self) -> (usize, usize) {
        (
            self.width.div_ceil(BLOCK * self.h_max).max(1),
            self.height.div_ceil(BLOCK * self.v_max).max(1),
        )
    }

    /// A size filled up to whole units of an interleaved scan.
    pub(super) fn units_of(&self, (width, height): (usize, usize)) -> (usize, usize) {
        let filled = |side: usize, unit: usize| side.checked_next_multiple_of(unit).unwrap_or(side);
        (filled(width, BLOCK * self.h_max), filled(height, BLOCK * self.v_max))
    }

    /// Samples of component `c`, across and down.
    pub(super) fn samples(&self, c: usize) -> (usize, usize) {
        let component = &self.components[c];
        (
            (self.width * component.h).div_ceil(self.h_max),
            (self.height * component.v).div_ceil(self.v_max),
        )
    }

    /// Blocks of component `c` in a scan of its own, across and down.
    pub(super) fn blocks(&self, c: usize) -> (usize, usize) {
        let (width, height) = self.samples(c);
        (width.div_ceil(BLOCK), height.div_ceil(BLOCK))
    }

    /// Blocks of component `c` as stored, padded to whole units, across and down.
    pub(super) fn stored_blocks(&self, c: usize) -> (usize, usize) {
        let (across, down) = self.units();
        (across * self.components[c].h, down * self.components[c].v)
    }

    /// Rows of the picture that are there when the first `blocks` rows of blocks of component `c` are.
    pub(super) fn rows(&self, c: usize, blocks: usize) -> usize {
        (blocks * BLOCK * self.v_max / self.components[c].v).min(self.height)
    }

    /// Bits that the entropy-coded data cannot have fewer of: a code for the first coefficient of
    /// every block, and in a sequential frame one for the end of the block.
    pub(super) fn least_bits(&self) -> u64 {
        let blocks = |c| {
            let (across, down) = self.blocks(c);
            across as u64 * down as u64
        };
        let all: u64 = (0..self.components.len()).map(blocks).sum();
        if self.progressive { all } else { 2 * all }
    }
}

/// Meaning of the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Grey,
    YCbCr,
    Rgb,
    /// 255 is no ink, as Adobe's programs, and after them everybody, store it.
    Cmyk,
    /// `Cmyk` whose first three channels are stored as YCbCr of their complements (Adobe transform 2).
    Ycck,
    /// Whatever a TIFF says it is; samples are given as they are stored.
    Stored,
}

impl Colour {
    /// The meaning by libjpeg's rules: a JFIF header beats Adobe's, Adobe's beats the channels' names.
    pub(super) fn of(frame: &Frame, jfif: bool, adobe_transform: Option<u8>) -> Self {
        match frame.components.as_slice() {
            [_] => Self::Grey,
            [a, b, c] => match adobe_transform {
                _ if jfif => Self::YCbCr,
                Some(0) => Self::Rgb,
                None if [a.id, b.id, c.id] == *b"RGB" => Self::Rgb,
                _ => Self::YCbCr,
            },
            _ if adobe_transform == Some(2) => Self::Ycck,
            _ => Self::Cmyk,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => f.write_str(what),
            Self::Unsupported { kind, .. } => write!(f, "{kind} is not supported"),
        }
    }
}

/// A kind that hardly any program reads.
fn unread(kind: &'static str) -> Refusal {
    Refusal::Unsupported { kind, help: "convert it with the program that wrote it" }
}
