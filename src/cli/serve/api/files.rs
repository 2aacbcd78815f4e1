//! Files as answers, sent in blocks as the client takes them.

use std::{fmt::Write as _, io, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use tokio::{fs::File, io::AsyncReadExt as _, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::super::{
    error::{Kind, Refusal},
    jobs::ResultFile,
};

const BLOCK: usize = 256 << 10;
/// Blocks that wait for the client.
const AHEAD: usize = 2;
/// Time for which a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The file as an answer; `is_attachment` for one that browsers keep instead of showing it.
///
/// # Errors
/// A file that cannot be read.
pub async fn send(file: ResultFile, is_attachment: bool) -> Result<Response, Refusal> {
    let gone = |_: io::Error| Refusal::new(Kind::NotFound, "the file is not there any more");
    let mut source = File::open(&file.path).await.map_err(gone)?;
    let length = source.metadata().await.map_err(gone)?.len();
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::spawn(async move {
        loop {
            let mut block = Vec::with_capacity(BLOCK);
            let read = (&mut source).take(BLOCK as u64).read_to_end(&mut block).await;
            let is_last = !matches!(read, Ok(1..));
            let part = match read {
                Ok(0) => return,
                Ok(_) => Ok(block.into()),
                Err(error) => Err(error),
            };
            // A client that has gone, or takes nothing, gets no more.
            match timeout(PATIENCE, sender.send(part)).await {
                Ok(Ok(())) if !is_last => {}
                _ => return,
            }
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    let media_type = HeaderValue::from_str(&file.media_type);
    let media_type = media_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, media_type);
    let disposition = disposition(&file.name, is_attachment);
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// The header that names a file (RFC 6266): in letters that every client reads, and as it is.
fn disposition(name: &str, is_attachment: bool) -> HeaderValue {
    let is_plain = |sign: char| sign.is_ascii_graphic() && !"\"\\%;".contains(sign) || sign == ' ';
    let plain: String = name.chars().map(|sign| if is_plain(sign) { sign } else { '_' }).collect();
    let mut whole = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            whole.push(char::from(byte));
        } else {
            let _ = write!(whole, "%{byte:02X}");
        }
    }
    let kind = if is_attachment { "attachment" } else { "inline" };
    let text = format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{whole}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_sent_in_two_forms_and_cannot_leave_its_header() {
        let of = |name: &str| disposition(name, true).to_str().unwrap().to_owned();
        assert_eq!(of("a b.png"), "attachment; filename=\"a b.png\"; filename*=UTF-8''a%20b.png");
        let odd = of("é\"\r\nx: 1.png");
        assert_eq!(
            odd,
            "attachment; filename=\"____x: 1.png\"; filename*=UTF-8''%C3%A9%22%0D%0Ax%3A%201.png"
        );
    }
}
