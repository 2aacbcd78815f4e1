//! Frames, the same in both directions: the header's length (32 bits, the low byte first), the payload's length (64 bits),
//! the header, a JSON object in UTF-8, and the payload.

use std::io::{self, Read, Write};

/// The most bytes of a header.
pub const LARGEST_HEADER: u32 = 1 << 20;
/// The most bytes of a payload that is read.
pub const LARGEST_PAYLOAD: u64 = 1 << 30;

/// The beginning of a frame; its payload is still to be read or skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The header's bytes.
    pub header: Vec<u8>,
    /// The payload's length in bytes, at most [`LARGEST_PAYLOAD`].
    pub payload: u64,
}

/// Reads the beginning of a frame; `None` at the end of the input.
///
/// # Errors
/// An input that ends within the frame, lengths beyond the bounds (nothing behind them can be believed), or an error of the
/// operating system.
pub fn read_head(input: &mut impl Read) -> io::Result<Option<FrameHead>> {
    let mut lengths = Vec::new();
    input.take(12).read_to_end(&mut lengths)?;
    if lengths.is_empty() {
        return Ok(None);
    }
    let Some((header, payload)) = lengths.split_first_chunk::<4>() else { return Err(cut()) };
    let payload: &[u8; 8] = payload.try_into().map_err(|_| cut())?;
    let (header, payload) = (u32::from_le_bytes(*header), u64::from_le_bytes(*payload));
    let refuse = |what, found: u64, most: u64| {
        let reason = format!("a {what} of {found} bytes, where {most} are the most: no frame");
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    };
    if header > LARGEST_HEADER {
        return refuse("header", header.into(), LARGEST_HEADER.into());
    }
    if payload > LARGEST_PAYLOAD {
        return refuse("payload", payload, LARGEST_PAYLOAD);
    }
    let header = read_payload(input, header.into())?;
    Ok(Some(FrameHead { header, payload }))
}

/// Reads a payload of this length. Nothing is reserved for bytes that are only claimed.
///
/// # Errors
/// An input that ends before, or an error of the operating system.
pub fn read_payload(input: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length { Err(cut()) } else { Ok(bytes) }
}

/// Passes over a payload of this length.
///
/// # Errors
/// Those of [`read_payload`].
pub fn skip_payload(input: &mut impl Read, length: u64) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(length), &mut io::sink())?;
    if skipped < length { Err(cut()) } else { Ok(()) }
}

/// Writes a frame whose payload has `length` bytes.
///
/// # Errors
/// A header or a payload of another length than can be said, or an error of the operating system.
pub fn write(
    output: &mut impl Write,
    header: &[u8],
    (payload, length): (&mut dyn Read, u64),
) -> io::Result<()> {
    let header_length = u32::try_from(header.len()).map_err(io::Error::other)?;
    output.write_all(&header_length.to_le_bytes())?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(header)?;
    if io::copy(&mut payload.take(length), output)? < length {
        return Err(cut());
    }
    output.flush()
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "ends within a frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, header, (&mut &*payload, payload.len() as u64)).unwrap();
        bytes
    }

    #[test]
    fn frames_are_read_as_they_were_written_and_end_with_the_input() {
        let bytes = [framed(b"{}", b"pixels"), framed(b"{\"a\":1}", b"")].concat();
        let mut input = bytes.as_slice();
        let head = read_head(&mut input).unwrap().unwrap();
        assert_eq!((head.header.as_slice(), head.payload), (&b"{}"[..], 6));
        assert_eq!(read_payload(&mut input, 6).unwrap(), b"pixels");
        assert_eq!(read_head(&mut input).unwrap().unwrap().header, b"{\"a\":1}");
        assert_eq!(read_head(&mut input).unwrap(), None);
        let mut input = bytes.as_slice();
        read_head(&mut input).unwrap();
        skip_payload(&mut input, 6).unwrap();
        assert_eq!(read_head(&mut input).unwrap().unwrap().payload, 0);
    }

    #[test]
    fn what_is_cut_or_claims_too_much_is_an_error() {
        let bytes = framed(b"{}", b"pixels");
        for cut in 1..14 {
            let error = read_head(&mut &bytes[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        assert!(read_payload(&mut &b"abc"[..], 4).is_err());
        assert!(skip_payload(&mut &b"abc"[..], 4).is_err());
        for (header, payload) in
            [(LARGEST_HEADER + 1, 0), (u32::MAX, 0), (2, LARGEST_PAYLOAD + 1), (2, u64::MAX)]
        {
            let lengths = [&header.to_le_bytes()[..], &payload.to_le_bytes(), b"{}"].concat();
            let error = read_head(&mut lengths.as_slice()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let few: &mut dyn Read = &mut &b"abc"[..];
        assert!(write(&mut Vec::new(), b"{}", (few, 4)).is_err());
    }
}
