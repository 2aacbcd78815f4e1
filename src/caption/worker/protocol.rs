//! Protocol between the program and its captioning worker: requests on the worker's standard input, replies on its
//! standard output.
//!
//! A request is one line of JSON, and behind [`Request::Describe`] the pixels as they are. A reply is one line
//! of JSON behind a mark, so that what a library prints in between is told from it and passed over.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

/// Prefix of every reply.
const MARK: &str = "@cupscale ";

/// The longest line that is read; a caption is far shorter.
const LONGEST_LINE: u64 = 1 << 20;

/// The largest side of a picture that is read.
const LARGEST_SIDE: usize = 1 << 14;

/// Request to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First of all.
    Load(Load),
    /// A caption of a picture; its pixels follow, `height` × `width` × 3 bytes.
    Describe {
        /// For the reply.
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
pub struct Load {
    /// The model's folder.
    pub folder: String,
    /// Type of quantized weights, by the name that users give it; as they are without.
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
    /// The model captions a picture alone; two are tried together now, of which the worker may die, or refuse
    /// the model: then the next one is to try nothing.
    TryingTogether,
    /// Pictures may come.
    Ready {
        /// `true` if several requests may be sent before the first is answered.
        together: bool,
        /// Note for the user.
        note: Option<String>,
    },
    /// The model cannot be used.
    Refused(String),
    /// A picture's text.
    Text {
        /// The request's.
        id: u64,
        /// Text of the caption.
        text: String,
        /// `true` if the model ended the text itself; otherwise it was cut off.
        ended: bool,
    },
    /// A picture without a text.
    Failed {
        /// The request's.
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
        pixels.resize(width * height * 3, 0);
        input.read_exact(&mut pixels)?;
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
        let load = Request::Load(Load {
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
    }
}
