//! Errors in the form of A1111's API, whose clients read `detail` and show it.

use std::fmt;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::{Kind, Refusal};

/// Seconds after which one who was told that the queue is full may ask again.
const RETRY: u64 = 10;

/// An error, with the status that a client gets.
#[derive(Debug)]
pub struct A1111Error {
    status: StatusCode,
    name: &'static str,
    detail: String,
    retry_after: Option<u64>,
}

/// The JSON of an error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = A1111Error)]
pub struct ErrorBody {
    /// The kind of the error, for programs.
    error: &'static str,
    /// One line for people.
    detail: String,
    /// Always empty.
    body: String,
    /// The same line.
    errors: String,
}

impl A1111Error {
    fn new(status: StatusCode, name: &'static str, detail: impl Into<String>) -> Self {
        Self { status, name, detail: detail.into(), retry_after: None }
    }

    /// A body that is no JSON, or no request.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "RequestValidationError", detail)
    }

    /// A request that cannot be done as it is asked for.
    pub fn unfit(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "HTTPException", detail)
    }

    /// A name of nothing that is here.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "HTTPException", detail)
    }

    /// A call that A1111 answers and this program does not.
    pub fn not_here(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "HTTPException", detail)
    }

    /// A body that is no JSON by its own header.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTPException", detail)
    }

    /// A body beyond the limit.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "HTTPException", detail)
    }

    /// Something that failed here.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "RuntimeError", detail)
    }

    /// The server ends, and with it the call.
    pub fn stopping() -> Self {
        Refusal::new(Kind::Stopping, "the server is about to end").into()
    }

    /// The same error of one of several pictures.
    pub fn of(mut self, what: &str) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }
}

impl From<Refusal> for A1111Error {
    fn from(Refusal { kind, message }: Refusal) -> Self {
        let name = match kind {
            Kind::Memory => "OutOfMemoryError",
            Kind::Failed | Kind::Fault | Kind::Disk => "RuntimeError",
            _ => "HTTPException",
        };
        let retry_after = (kind == Kind::Busy).then_some(RETRY);
        Self { status: kind.status(), name, detail: message, retry_after }
    }
}

impl fmt::Display for A1111Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl IntoResponse for A1111Error {
    fn into_response(self) -> Response {
        let Self { status, name, detail, retry_after } = self;
        let errors = detail.clone();
        let body = ErrorBody { error: name, detail, body: String::new(), errors };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
