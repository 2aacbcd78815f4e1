//! Bodies as they come: JSON with a bound of length and time, and the time that a body may take.

use std::time::Duration;

use axum::{
    body::{HttpBody as _, to_bytes},
    extract::Request,
    http::header,
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::super::{
    error::{Kind, Refusal},
    linger::linger,
};

/// Time for a body, whatever its length.
const GRACE: Duration = Duration::from_secs(30);
/// Bytes each second that a body comes with at least.
const SLOWEST: u64 = 8 << 10;

/// The time that a body takes: from what has come follows until when the rest may.
pub struct Pace {
    begun: Instant,
    received: u64,
}

impl Pace {
    pub fn new() -> Self {
        Self { begun: Instant::now(), received: 0 }
    }

    /// So many bytes have come.
    pub fn receive(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// When the next bytes must be there.
    pub fn deadline(&self) -> Instant {
        self.begun + GRACE + Duration::from_secs(self.received / SLOWEST)
    }
}

/// The refusal of a body that comes too slowly.
pub fn too_slow() -> Refusal {
    Refusal::new(Kind::Timeout, "the body comes too slowly")
}

/// The JSON object in a body of at most so many bytes.
///
/// # Errors
/// Another type of body, one that is too long or too slow, or what is no such object.
pub async fn json<T: DeserializeOwned>(request: Request, most: u64) -> Result<T, Refusal> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    let refusal = if !media_type.eq_ignore_ascii_case("application/json") {
        Some(Refusal::new(Kind::Unsupported, "the body must be application/json"))
    } else if request.body().size_hint().lower() > most {
        Some(too_large(most))
    } else {
        None
    };
    if let Some(refusal) = refusal {
        linger(request.into_body()).await;
        return Err(refusal);
    }
    let length = request.body().size_hint().lower();
    let mut pace = Pace::new();
    pace.receive(length as usize);
    let read = to_bytes(request.into_body(), most as usize);
    let bytes = match timeout_at(pace.deadline(), read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(too_large(most)),
        Err(_) => return Err(too_slow()),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(Kind::Request, format!("the body is not what is asked for: {error}"))
    })
}

fn too_large(most: u64) -> Refusal {
    let most = cupscale::units::bytes(most);
    Refusal::new(Kind::TooLarge, format!("the body is larger than {most}, or ends early"))
}
