//! The routes of the API of its own, each file for one subject. What clients send is checked here or below; every answer is
//! described where it is made.

mod body;
mod events;
mod files;
mod info;
mod jobs;
mod upload;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Kind, Refusal},
    served::Served,
    store::is_id,
};

pub use body::{Pace, json, too_slow};
pub use info::{not_allowed, nothing_here};

/// The routes.
pub fn router() -> OpenApiRouter<Arc<Served>> {
    OpenApiRouter::default()
        .routes(routes!(info::health))
        .routes(routes!(info::info))
        .routes(routes!(info::plan))
        .routes(routes!(jobs::list, jobs::create))
        .routes(routes!(jobs::show, jobs::end))
        .routes(routes!(events::events))
        .routes(routes!(jobs::result))
        .routes(routes!(jobs::preview))
        .routes(routes!(jobs::input))
        .routes(routes!(jobs::captions))
}

/// Work that may take a moment, off the threads that answer.
///
/// # Errors
/// Those of the work; a fault of it.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refusal::new(Kind::Fault, "a fault in the program")))
}

/// The id of a job in an address. What cannot be one is none that is known.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct JobId {
    /// Id of a job
    #[param(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for JobId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) if is_id(&id) => Ok(Self { id }),
            _ => Err(Refusal::no_job()),
        }
    }
}
