//! Jobs over HTTP: taken, listed, ended, and what they made fetched.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    super::{
        error::{ErrorBody, Kind, Refusal},
        served::Served,
        view::{JobView, Kind as JobKind},
    },
    JobId, aside, files, upload,
};

/// All jobs.
#[derive(Serialize, ToSchema)]
pub struct JobList {
    jobs: Vec<JobView>,
}

/// A job that is sent.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it describes a form, which is read part by part")]
pub struct JobForm {
    /// The picture: a file of any kind that is read.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    picture: Vec<u8>,
    /// Settings as a JSON object: options of the command line by their long names.
    settings: Option<String>,
    /// Form of the result as a JSON object: `{"format": "jpeg", "quality": 90}`; without it that of the picture.
    output: Option<String>,
    /// What to repaint: white is repainted, black is kept.
    #[schema(value_type = Option<String>, format = Binary, content_media_type = "application/octet-stream")]
    mask: Option<Vec<u8>>,
    /// Captions of the regions as JSON, in the form of the captions of a job.
    captions: Option<String>,
    /// What the job makes.
    kind: Option<JobKind>,
    /// Name of a model; without it the server's own.
    model: Option<String>,
    /// Name of the picture; without it that of the file.
    name: Option<String>,
    /// Longest time in seconds that the job may run.
    seconds: Option<f64>,
}

/// List the jobs
///
/// The newest comes first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "jobs",
    responses((status = 200, description = "All jobs that the server knows", body = JobList))
)]
pub async fn list(State(served): State<Arc<Served>>) -> Json<JobList> {
    Json(JobList { jobs: served.jobs.list() })
}

/// Send a job
///
/// It waits for its turn and runs; the answer comes as soon as it is taken. Settings, limits and the picture's header are
/// checked before.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    tag = "jobs",
    request_body(content = JobForm, content_type = "multipart/form-data"),
    responses(
        (status = 202, description = "The job is taken", body = JobView,
            headers(("Location" = String, description = "Where it is"))),
        (status = 400, description = "No such form", body = ErrorBody),
        (status = 408, description = "The body comes too slowly", body = ErrorBody),
        (status = 413, description = "The body or a picture is beyond a limit", body = ErrorBody),
        (status = 415, description = "Another type of body", body = ErrorBody),
        (status = 422, description = "Wrong settings, or a picture that cannot be read", body = ErrorBody),
        (status = 429, description = "The queue is full", body = ErrorBody,
            headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 503, description = "The server is about to end", body = ErrorBody),
        (status = 507, description = "The server's disk is full", body = ErrorBody),
    )
)]
pub async fn create(
    State(served): State<Arc<Served>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (draft, order) = upload::receive(&served, request).await?;
    let jobs = Arc::clone(&served.jobs);
    let view = aside(move || jobs.accept(draft, order)).await?;
    let place = [(header::LOCATION, format!("/v1/jobs/{}", view.id))];
    Ok((StatusCode::ACCEPTED, place, Json(view)).into_response())
}

/// Show a job
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
pub async fn show(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Json<JobView>, Refusal> {
    served.jobs.view(&id).map(Json).ok_or_else(Refusal::no_job)
}

/// Cancel or remove a job
///
/// One that waits or runs is cancelled and stays in the list; one that has ended is removed with its files.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 202, description = "It is cancelled, or ends at its next batch", body = JobView),
        (status = 204, description = "It is removed"),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
pub async fn end(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Response, Refusal> {
    aside(move || {
        let jobs = &served.jobs;
        let view = jobs.view(&id).ok_or_else(Refusal::no_job)?;
        if view.state.is_ended() && jobs.remove(&id) {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let view = jobs.cancel(&id).ok_or_else(Refusal::no_job)?;
        Ok((StatusCode::ACCEPTED, Json(view)).into_response())
    })
    .await
}

/// Fetch the result
///
/// The picture in the job's format; of a job of the kind `captions` the captions.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/result",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 200, description = "The result", content(
            (String = "image/png"), (String = "image/jpeg"), (String = "image/webp"), (String = "image/tiff"),
            (String = "image/x-portable-pixmap"), (String = "image/x-portable-arbitrarymap"),
            (String = "image/x-exr"), (String = "application/octet-stream"),
            (serde_json::Value = "application/json"),
        )),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "The job is not done", body = ErrorBody),
    )
)]
pub async fn result(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Response, Refusal> {
    files::send(served.jobs.result(&id)?, true).await
}

/// Fetch the preview
///
/// A small JPEG of the unfinished result, while the job runs. Previews are made while somebody follows the job's events, shows
/// the job, or has asked for one.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/preview",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 200, description = "The last preview", body = String, content_type = "image/jpeg"),
        (status = 404, description = "No such job, or no preview", body = ErrorBody),
    )
)]
pub async fn preview(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Response, Refusal> {
    let jpeg = served.jobs.preview(&id).ok_or_else(|| match served.jobs.view(&id) {
        Some(_) => Refusal::new(Kind::NotFound, "there is no preview of this job"),
        None => Refusal::no_job(),
    })?;
    Ok(([(header::CONTENT_TYPE, "image/jpeg")], Body::from(jpeg)).into_response())
}

/// Fetch the picture as it was sent
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/input",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 200, description = "The picture", content(
            (String = "image/png"), (String = "image/jpeg"), (String = "image/webp"), (String = "image/tiff"),
            (String = "image/x-portable-pixmap"), (String = "image/x-portable-arbitrarymap"),
            (String = "image/x-exr"), (String = "image/gif"), (String = "image/bmp"), (String = "image/x-icon"),
            (String = "image/jxl"), (String = "image/jp2"), (String = "image/vnd.adobe.photoshop"),
            (String = "image/heic"), (String = "image/avif"), (String = "application/octet-stream"),
        )),
        (status = 404, description = "No such job, or its picture is not kept", body = ErrorBody),
    )
)]
pub async fn input(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Response, Refusal> {
    files::send(served.jobs.input(&id)?, true).await
}

/// Fetch the captions
///
/// The captions of the regions as the job uses them, as soon as they are known; places are in pixels of the output. They can
/// be edited and sent with another job as its part `captions`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/captions",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 200, description = "The captions", body = serde_json::Value, content_type = "application/json"),
        (status = 404, description = "No such job, or they are not known", body = ErrorBody),
    )
)]
pub async fn captions(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Response, Refusal> {
    files::send(served.jobs.captions(&id)?, false).await
}
