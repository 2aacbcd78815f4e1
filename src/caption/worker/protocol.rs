//! Protocol between the program and its captioning worker: requests on the worker's standard input, replies on its
//! standard output.
//!
//! A request is one line of JSON, and behind [`Request::Describe`] the pixels as they are. A reply is one line
//! of JSON behind a prefix, so that output of libraries in between is recognised and skipped.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

/// Prefix of every reply.
const MARK: &str = "@cupscale ";

/// Limit of a line's length; a caption is far shorter.
const LONGEST_LINE: u64 = 1 << 20;

/// Limit of a picture's side.
const LARGEST_SIDE: usize = 1 << 14;

/// Request to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Loads a model; the first request.
    Load(LoadOptions),
    /// A caption of a picture; its pixels follow, `height` × `width` × 3 bytes.
    Describe {
        /// Number of the request, repeated in the reply.
        id: u64,
        /// Instruction to the model.
        instruction: String,
        /// Columns; at least 1.
        width: usize,
        /// Rows; at least 1.
        height: usize,
    },
}

/// Model and load options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadOptions {
    /// The model's folder.
    pub folder: String,
    /// Weight type to quantize to, by its option name; `None` keeps the weights as they are.
    pub quantize: Option<String>,
    /// Forces the CPU even where there is a GPU.
    pub cpu: bool,
    /// Length of a caption in tokens, at most; at least 1.
    pub max_new_tokens: usize,
    /// Tries several pictures at once; otherwise they are captioned one after the other.
    pub try_together: bool,
}

/// Reply of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The model captions single pictures; the worker now tests two at once. If it dies or refuses the model during
    /// the test, the next worker skips it.
    TryingTogether,
    /// The worker is ready for pictures.
    Ready {
        /// `true` if several requests may be sent before the first is answered.
        together: bool,
        /// Note for the user.
        note: Option<String>,
    },
    /// The model cannot be used.
    Refused(String),
    /// The caption of a picture.
    Text {
        /// Number of the request.
        id: u64,
        /// Text of the caption.
        text: String,
        /// `true` if the model ended the text itself; otherwise it was cut off.
        ended: bool,
    },
    /// A picture without a caption.
    Failed {
        /// Number of the request.
        id: u64,
        /// Cause of the failure.
        reason: String,
    },
}

/// The bytes of `request` with the `pixels` that belong to it.
#[must_use]
pub fn encode_request(request: &Request, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = json(request).into_bytes();
    bytes.push(b'\n');
    bytes.extend_from_slice(pixels);
    bytes
}

/// The next request with its pixels; nothing at the end.
///
/// # Errors
/// Reading fails, or what is read is no request.
pub fn read_request(input: &mut impl BufRead) -> io::Result<Option<(Request, Vec<u8>)>> {
    let Some(line) = read_line(input)? else { return Ok(None) };
    let request: Request = serde_json::from_str(&line).map_err(io::Error::other)?;
    let mut pixels = Vec::new();
    if let Request::Describe { width, height, .. } = request {
        if width.max(height) > LARGEST_SIDE {
            return Err(io::Error::other(format!("a picture of {width} x {height} pixels")));
        }
        // Nothing is reserved for a size that is only claimed.
        let length = width * height * 3;
        input.by_ref().take(length as u64).read_to_end(&mut pixels)?;
        if pixels.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((request, pixels)))
}

/// Writes a reply, in one piece and on a line of its own.
///
/// # Errors
/// Writing fails.
pub fn write_reply(output: &mut impl Write, reply: &Reply) -> io::Result<()> {
    output.write_all(format!("\n{MARK}{}\n", json(reply)).as_bytes())?;
    output.flush()
}

/// The next reply; nothing at the end.
///
/// # Errors
/// Reading fails, or what stands behind the mark is no reply.
pub fn read_reply(input: &mut impl BufRead) -> io::Result<Option<Reply>> {
    while let Some(line) = read_line(input)? {
        if let Some(reply) = line.strip_prefix(MARK) {
            return serde_json::from_str(reply).map(Some).map_err(io::Error::other);
        }
    }
    Ok(None)
}

fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if line.len() as u64 == LONGEST_LINE {
        return Err(io::Error::other(format!("a line of more than {LONGEST_LINE} bytes")));
    }
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).trim_end().to_owned()))
}

/// Neither enum has anything that JSON has not.
fn json(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_with_their_pixels() {
        let load = Request::Load(LoadOptions {
            folder: "models/a b".into(),
            quantize: Some("q8_0".into()),
            cpu: true,
            max_new_tokens: 96,
            try_together: false,
        });
        let describe = Request::Describe {
            id: 7,
            instruction: "Say\nwhat \"is\" there".into(),
            width: 2,
            height: 1,
        };
        let pixels = b"\n{\n\0\xff@";
        let mut bytes = encode_request(&load, &[]);
        bytes.extend(encode_request(&describe, pixels));
        let mut input = bytes.as_slice();
        assert_eq!(read_request(&mut input).unwrap(), Some((load, vec![])));
        assert_eq!(read_request(&mut input).unwrap(), Some((describe, pixels.to_vec())));
        assert_eq!(read_request(&mut input).unwrap(), None);
    }

    #[test]
    fn what_is_printed_between_replies_is_passed_over() {
        let text = Reply::Text { id: 3, text: "a wall\n@cupscale".into(), ended: true };
        let mut bytes = b"loading 30 %...".to_vec();
        write_reply(&mut bytes, &Reply::TryingTogether).unwrap();
        bytes.extend(b"\xff\xfe and so on\n");
        write_reply(&mut bytes, &text).unwrap();
        let mut input = bytes.as_slice();
        assert_eq!(read_reply(&mut input).unwrap(), Some(Reply::TryingTogether));
        assert_eq!(read_reply(&mut input).unwrap(), Some(text));
        assert_eq!(read_reply(&mut input).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        assert!(read_reply(&mut &b"@cupscale {\"text\":\n"[..]).is_err());
        assert!(read_reply(&mut vec![b'x'; 2 << 20].as_slice()).is_err());
        assert!(read_request(&mut &b"hello\n"[..]).is_err());
        let huge = br#"{"describe":{"id":1,"instruction":"","width":99999999,"height":9}}"#;
        assert!(read_request(&mut &huge[..]).is_err());
        let short = br#"{"describe":{"id":1,"instruction":"","width":9,"height":9}}"#;
        assert!(read_request(&mut &short[..]).is_err());
        // Nothing is reserved for what is claimed: as the largest pixels there are, this ends at once.
        let claimed = br#"{"describe":{"id":1,"instruction":"","width":16384,"height":16384}}"#;
        let error = read_request(&mut [&claimed[..], b"\n123"].concat().as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
