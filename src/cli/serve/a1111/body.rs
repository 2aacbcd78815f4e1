//! Bodies of A1111's requests as they come: JSON, with a bound of length, time and memory.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::{Map, Value};
use tokio::{sync::OwnedSemaphorePermit, time::timeout_at};
use tokio_stream::StreamExt as _;

use super::{
    super::{
        api::{Pace, too_slow},
        linger::linger,
    },
    door::Door,
    error::A1111Error,
};

/// The body of a request with pictures, and the room that it takes.
pub struct Large {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl FromRequest<Arc<Door>> for Large {
    type Rejection = A1111Error;

    async fn from_request(request: Request, door: &Arc<Door>) -> Result<Self, A1111Error> {
        check_kind(&request)?;
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse().ok());
        let most = door.jobs.limits.body;
        if length.is_some_and(|length| length > most) {
            linger(request.into_body()).await;
            return Err(door.jobs.limits.body_too_large().into());
        }
        let room = door.rooms.take(length).await;
        let mut pace = Pace::new();
        let mut bytes = Vec::with_capacity(length.unwrap_or_default() as usize);
        let mut stream = request.into_body().into_data_stream();
        while let Some(piece) =
            timeout_at(pace.deadline(), stream.next()).await.map_err(|_| too_slow())?
        {
            let piece = piece.map_err(|_| A1111Error::malformed("the body ended early"))?;
            if (bytes.len() + piece.len()) as u64 > most {
                return Err(door.jobs.limits.body_too_large().into());
            }
            pace.receive(piece.len());
            bytes.extend_from_slice(&piece);
        }
        Ok(Self { bytes, _room: room })
    }
}

impl Large {
    /// The JSON object. To be read where it may take a moment.
    ///
    /// # Errors
    /// A body that is none.
    pub fn object(self) -> Result<Map<String, Value>, A1111Error> {
        object(&self.bytes)
    }
}

/// The JSON object of a request without pictures.
pub struct Small(pub Map<String, Value>);

/// Bytes of such a request at most.
const SMALL: usize = 1 << 20;

impl<S: Send + Sync> FromRequest<S> for Small {
    type Rejection = A1111Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, A1111Error> {
        check_kind(&request)?;
        let bytes = to_bytes(request.into_body(), SMALL).await.map_err(|error| {
            A1111Error::too_large(format!("the body is not read: {error}; it may have 1 MiB"))
        })?;
        object(&bytes).map(Self)
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, A1111Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(A1111Error::malformed("the body is no JSON object")),
        Err(error) => Err(A1111Error::malformed(format!("the body is no JSON: {error}"))),
    }
}

fn check_kind(request: &Request) -> Result<(), A1111Error> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    // Any other kind could come from a page of another site without a question asked.
    match kind.is_some_and(is_json) {
        true => Ok(()),
        false => Err(A1111Error::unsupported(
            "the body is not marked as JSON: send it with Content-Type: application/json",
        )),
    }
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken_for_json() {
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/x+json"] {
            assert!(is_json(kind), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "json", ""] {
            assert!(!is_json(kind), "{kind}");
        }
    }
}
