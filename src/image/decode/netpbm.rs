//! Netpbm, row by row: PBM, PGM and PPM, plain and raw, of any maximum, and PAM.
//! Source: the manuals pbm, pgm, ppm and pam of netpbm 11.

mod header;

use std::io::{self, BufRead, ErrorKind, Read};

use self::header::{Kind, NetpbmHeader, Raster};
use super::header::{Decode, Header, check_size};
use super::plain_rows::pass_rows;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata::Metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

/// Bytes between two numbers of a plain picture: blanks and comments.
const MAX_BETWEEN: usize = 1 << 16;

struct Netpbm {
    name: String,
    format: Format,
    source: Source,
    netpbm: NetpbmHeader,
    header: Header,
    allow_truncated: bool,
}

pub(super) fn open(
    name: &str,
    format: Format,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let bad = |reason: &str| ImageError::unreadable(name, format, reason);
    let netpbm = header::read(&mut source).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => bad("truncated in its header"),
        ErrorKind::InvalidData => bad(&error.to_string()),
        ErrorKind::Unsupported => {
            let help = "convert it: magick FILE NEW.png";
            ImageError::unsupported(name, &error.to_string(), help)
        }
        _ => read_error(name, error),
    })?;
    check_size(name, format, netpbm.width, netpbm.height)?;
    let mut warnings = Vec::new();
    if let Some(raster) = netpbm.raster_bytes() {
        let whole = source.byte_len().map_err(|error| read_error(name, error))?;
        let here = source_position(&mut source).map_err(|error| read_error(name, error))?;
        if here + raster > whole && !options.allow_truncated {
            return Err(bad("truncated"));
        }
        if whole > here + raster && another_follows(&mut source, raster) {
            warnings.push(Warning::FirstFrameOnly(format.into()));
        }
    }
    let left_out = netpbm.planes - netpbm.layout.channels();
    if left_out > 0 {
        let what = "channels that are neither colour nor transparency were left out";
        warnings.push(Warning::Interpreted(what.to_owned()));
    }
    let header = Header {
        width: netpbm.width as u32,
        height: netpbm.height as u32,
        layout: netpbm.layout,
        bit_depth: if netpbm.maximum > 255 { 16 } else { 8 },
        metadata: Metadata::default(),
        warnings,
        scratch_bytes: 0,
    };
    let (name, allow_truncated) = (name.to_owned(), options.allow_truncated);
    Ok(Box::new(Netpbm { name, format, source, netpbm, header, allow_truncated }))
}

fn source_position(source: &mut Source) -> io::Result<u64> {
    io::Seek::stream_position(source)
}

/// `true` if the picture is one of several in its file. The place in it stays.
fn another_follows(source: &mut Source, raster: u64) -> bool {
    let skip = |source: &mut Source, by: i64| io::Seek::seek_relative(source, by);
    let Ok(ahead) = i64::try_from(raster) else { return false };
    if skip(source, ahead).is_err() {
        return false;
    }
    let mut next = Vec::new();
    let read = source.take(2).read_to_end(&mut next);
    let back = skip(source, -ahead - next.len() as i64);
    read.is_ok() && back.is_ok() && matches!(next[..], [b'P', b'1'..=b'7'])
}

impl Decode for Netpbm {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, format, mut source, netpbm, header, allow_truncated } = *self;
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        pass_rows(&name, format, &header, allow_truncated, take, |out| {
            numbers.clear();
            match netpbm.raster {
                Raster::Raw => {
                    bytes.resize(netpbm.row_bytes(), 0);
                    source.read_exact(&mut bytes)?;
                    netpbm.raw_row(&bytes, &mut numbers);
                }
                Raster::Plain => {
                    for _ in 0..netpbm.width as usize * netpbm.planes {
                        numbers.push(plain_number(&mut source, netpbm.kind)?);
                    }
                }
            }
            netpbm.units(&numbers, out);
            Ok(())
        })
    }
}

/// The next number of a plain raster. Those of a bitmap are single digits, which nothing need separate.
fn plain_number(source: &mut Source, kind: Kind) -> io::Result<u32> {
    let invalid = |why: &str| io::Error::new(ErrorKind::InvalidData, why);
    let mut first = header::next_byte(source)?;
    let mut passed = 0;
    while first.is_ascii_whitespace() || first == b'#' {
        if first == b'#' {
            passed += header::skip_line(source, MAX_BETWEEN)?;
        }
        passed += 1;
        if passed > MAX_BETWEEN {
            return Err(invalid("no number where a sample should be"));
        }
        first = header::next_byte(source)?;
    }
    if kind == Kind::Bitmap {
        return match first {
            b'0' | b'1' => Ok((first - b'0').into()),
            _ => Err(invalid("a bit that is neither 0 nor 1")),
        };
    }
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    let mut number = digit(first).ok_or_else(|| invalid("a sample that is no number"))?;
    // The last number of a file need not be followed by anything.
    while let Some(digit) = source.fill_buf()?.first().copied().and_then(digit) {
        source.consume(1);
        number = number.saturating_mul(10).saturating_add(digit);
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use crate::image::decode_bytes;

    fn red(bytes: &[u8]) -> Vec<u8> {
        let picture = decode_bytes("a", bytes).unwrap();
        picture.rgb.chunks_exact(3).map(|p| (p[0] * 255.0).round() as u8).collect()
    }

    fn refusal(bytes: &[u8]) -> String {
        decode_bytes("a.ppm", bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_picture_is_the_same_in_every_kind() {
        for bytes in [
            &b"P1 # bits\n3 2\n0 1 0\n110"[..],
            b"P4\n3 2\n\x5f\xdf",
            b"P2\n3 2 1\n1 0 1 0 0 1",
            b"P2\n3 2 17 17 0\n17 # after the first row\n0 0 17 ",
            b"P5 3 2 255 \xff\0\xff\0\0\xff",
            b"P5\n3\n2\n#\n65535\n\xff\xff\0\0\xff\xff\0\0\0\0\xff\xff",
            b"P3 3 2 1 1 0 0 0 0 0 1 1 1 0 0 0 0 0 0 1 0 0",
            b"P6 3 2 255\n\xff\0\0\0\0\0\xff\0\0\0\0\0\0\0\0\xff\0\0",
            b"P7\nWIDTH 3\nHEIGHT 2\nDEPTH 1\nMAXVAL 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n\x01\0\x01\0\0\x01",
            b"P7\n# one\nHEIGHT 2\nWIDTH 3\n\nMAXVAL 9\nDEPTH 1\nENDHDR\n\x09\0\x09\0\0\x09",
        ] {
            // In a bitmap 1 is black.
            assert_eq!(red(bytes), [255, 0, 255, 0, 0, 255], "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn transparency_and_depth_are_those_of_the_header() {
        let bytes = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 1000\nTUPLTYPE RGB_ALPHA\nENDHDR\n\x03\xe8\x01\xf4\0\0\0\xfa";
        let picture = decode_bytes("a", bytes).unwrap();
        assert_eq!((picture.bit_depth, picture.grey), (16, false));
        assert_eq!(
            (&picture.rgb[..], &picture.alpha.unwrap()[..]),
            (&[1.0, 0.5, 0.0][..], &[0.25][..])
        );
        let grey = decode_bytes(
            "a",
            b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 2\nMAXVAL 4\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n\x02\x01",
        );
        let grey = grey.unwrap();
        assert_eq!((grey.bit_depth, grey.grey), (8, true));
        assert_eq!((grey.rgb[0], grey.alpha.unwrap()[0]), (0.5, 0.25));
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        for (bytes, part) in [
            (&b"P6\n3 2\n255\n\0\0\0"[..], "truncated"),
            (b"P6\n3", "truncated in its header"),
            (b"P6\nthree 2\n255\n", "no number"),
            (b"P6\n3 2\n65536\n", "maximum of 65536"),
            (b"P6\n0 2\n255\n", "0 x 2"),
            (b"P3\n1 1\n255\n1 2 x", "no number"),
            (b"P3\n1 2\n255\n1 2 3 4", "truncated, 1 of 2 rows"),
            (b"P1\n1 1\n2", "neither 0 nor 1"),
            (b"P6\n99999 99999\n255\n", "too large"),
            (
                b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE CMYK\nENDHDR\nabcd",
                "PAM of the kind CMYK",
            ),
            (b"P7\nWIDTH 1\nHEIGHT 1\nMAXVAL 255\nENDHDR\nabcd", "no DEPTH"),
            (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabcd", "fewer"),
        ] {
            let message = refusal(bytes);
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn of_several_pictures_the_first_is_read_and_that_is_said() {
        let one = b"P5 1 1 255\n\x80";
        assert!(decode_bytes("a", one).unwrap().warnings.is_empty());
        let two = decode_bytes("a", &[&one[..], one].concat()).unwrap();
        assert_eq!(two.warnings.len(), 1);
        // An editor's new line at the end is no picture.
        assert!(decode_bytes("a", &[&one[..], b"\n"].concat()).unwrap().warnings.is_empty());
    }
}
