//! Errors as the API tells them: a status, a kind for programs, and one line for people.

use std::io;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use cupscale::pipe::answer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Seconds after which one who was told that the queue is full may ask again.
const RETRY_AFTER: &str = "10";

/// Kind of an error, by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ErrorKind)]
pub enum Kind {
    /// What came is no request of this API.
    Request,
    /// A setting is unknown, out of its range, or does not go with another.
    Settings,
    /// The picture cannot be read.
    Input,
    /// The token is missing or wrong.
    Unauthorized,
    /// The request came by a name, or from a site, that is not allowed.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The address does not take this method.
    Method,
    /// It is not in a state in which that can be done.
    Conflict,
    /// The body or the picture is beyond a limit.
    TooLarge,
    /// A body of another type than is taken.
    Unsupported,
    /// Too many jobs wait.
    Busy,
    /// The job does not fit into the memory.
    Memory,
    /// The server's disk is full, or cannot be written to.
    Disk,
    /// The work failed.
    Failed,
    /// It took longer than the limit.
    Timeout,
    /// A fault in the program.
    Fault,
    /// The server is about to end.
    Stopping,
}

impl Kind {
    /// The status of an answer with such an error.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Request => StatusCode::BAD_REQUEST,
            Self::Settings | Self::Input => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Memory | Self::Disk => StatusCode::INSUFFICIENT_STORAGE,
            Self::Failed | Self::Fault => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<answer::Kind> for Kind {
    fn from(kind: answer::Kind) -> Self {
        match kind {
            answer::Kind::Request => Self::Request,
            answer::Kind::Settings => Self::Settings,
            answer::Kind::Input => Self::Input,
            answer::Kind::Busy => Self::Busy,
            answer::Kind::Memory => Self::Memory,
            answer::Kind::Failed => Self::Failed,
            answer::Kind::Fault => Self::Fault,
        }
    }
}

/// Why a request is refused, or why a job has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ErrorText)]
pub struct Refusal {
    pub kind: Kind,
    /// One line for people.
    pub message: String,
}

impl Refusal {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// There is no job of that name.
    pub fn no_job() -> Self {
        Self::new(Kind::NotFound, "there is no job with this id")
    }

    /// No more jobs are taken.
    pub fn stopping() -> Self {
        let message = "the server is about to end; its jobs go on when it is started again";
        Self::new(Kind::Stopping, message)
    }

    /// The disk takes nothing.
    pub fn disk(error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "is full",
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "cannot be written to"
            }
            _ => "does not take the files of the job",
        };
        Self::new(Kind::Disk, format!("the disk of the server {reason}"))
    }
}

/// Body of every answer that is an error.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    pub error: Refusal,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = self.kind;
        let mut response = (kind.status(), Json(ErrorBody { error: self })).into_response();
        let headers = response.headers_mut();
        match kind {
            Kind::Busy => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER.parse().expect("a number"));
            }
            Kind::Unauthorized => {
                let scheme = "Bearer realm=\"cupscale\"".parse().expect("plain text");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            _ => {}
        }
        response
    }
}
