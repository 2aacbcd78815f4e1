//! What the server is, whether it lives, and what a job would do.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::Uri,
};
use cupscale::image::{Format, PictureShape};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    super::{
        error::{ErrorBody, Kind, Refusal},
        host,
        limits::LimitsView,
        served::Served,
    },
    aside, json,
};
use crate::cli::{args::setting_names, request::format_name};

/// Bytes of the body of a plan.
const LARGEST_PLAN: u64 = 1 << 20;

/// The server lives.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok`
    status: &'static str,
}

/// A model that a job may name.
#[derive(Serialize, ToSchema)]
pub struct ModelView {
    name: String,
    /// Its weights are in memory, or are read by the next job.
    loaded: bool,
    /// The one of jobs that name none.
    is_default: bool,
}

/// What the server is and takes.
#[derive(Serialize, ToSchema)]
pub struct Info {
    program: &'static str,
    models: Vec<ModelView>,
    devices: Vec<String>,
    computes_on: String,
    /// Formats of results.
    formats: Vec<&'static str>,
    /// Names of settings.
    settings: Vec<String>,
    limits: LimitsView,
    /// Number of jobs that wait.
    waiting: usize,
    /// Id of the job that runs.
    running: Option<String>,
    captioner: String,
}

/// A job that is only thought of.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Pixels per row of the picture.
    #[schema(minimum = 1)]
    width: u32,
    /// Rows of the picture.
    #[schema(minimum = 1)]
    height: u32,
    /// It has transparency.
    #[serde(default)]
    alpha: bool,
    #[serde(default)]
    #[schema(value_type = Object)]
    settings: Map<String, Value>,
    /// Name of a model; without it the server's own.
    #[serde(default)]
    model: Option<String>,
}

/// What a job would do.
#[derive(Serialize, ToSchema)]
pub struct PlanView {
    /// Width of the output.
    width: u32,
    /// Height of the output.
    height: u32,
    regions: usize,
    steps: usize,
    /// Tiles of the autoencoder.
    tiles: usize,
    /// Regions that the denoiser computes in all.
    calls: usize,
    /// What `cupscale-fast plan` prints.
    text: String,
}

/// Ask whether the server lives
#[utoipa::path(
    get,
    path = "/health",
    tag = "server",
    responses((status = 200, description = "It does", body = Health))
)]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Ask what the server is and takes
#[utoipa::path(
    get,
    path = "/v1/info",
    tag = "server",
    responses((status = 200, description = "Models, devices, settings, limits", body = Info))
)]
pub async fn info(State(served): State<Arc<Served>>) -> Result<Json<Info>, Refusal> {
    aside(move || {
        let host = &served.jobs.host;
        let models = host.models().into_iter();
        let models = models.map(|model| ModelView {
            name: model.name,
            loaded: model.is_loaded,
            is_default: model.is_default,
        });
        let (waiting, running) = served.jobs.load();
        Ok(Json(Info {
            program: concat!("cupscale-fast ", env!("CARGO_PKG_VERSION")),
            models: models.collect(),
            devices: host.devices.clone(),
            computes_on: host.computes_on.clone(),
            formats: Format::ALL.into_iter().map(format_name).collect(),
            settings: settings(),
            limits: served.jobs.limits.view(),
            waiting,
            running,
            captioner: host.captioner.clone(),
        }))
    })
    .await
}

/// Settings of a job, without those that name files of the server's disk.
fn settings() -> Vec<String> {
    let is_sent = |name: &String| !host::is_of_the_disk(name);
    setting_names().into_iter().filter(is_sent).collect()
}

/// Ask what a job would do
///
/// Nothing of it is done.
#[utoipa::path(
    post,
    path = "/v1/plan",
    tag = "server",
    request_body = PlanRequest,
    responses(
        (status = 200, description = "The plan", body = PlanView),
        (status = 400, description = "No such request", body = ErrorBody),
        (status = 408, description = "The body comes too slowly", body = ErrorBody),
        (status = 413, description = "The body or the picture is beyond a limit", body = ErrorBody),
        (status = 415, description = "Another type of body", body = ErrorBody),
        (status = 422, description = "Wrong settings", body = ErrorBody),
        (status = 507, description = "The job does not fit into the memory", body = ErrorBody),
    )
)]
pub async fn plan(
    State(served): State<Arc<Served>>,
    request: Request,
) -> Result<Json<PlanView>, Refusal> {
    let asked: PlanRequest = json(request, LARGEST_PLAN).await?;
    aside(move || {
        let (host, limits) = (&served.jobs.host, &served.jobs.limits);
        host::check(&asked.settings, &Default::default())?;
        let name = host.choose(asked.model.as_deref())?;
        limits.check_pixels("the picture", (asked.width, asked.height))?;
        let refusal = |error| host.refusal(&error);
        let model = host.for_plan(&name).map_err(refusal)?;
        let mut shape = PictureShape::from((asked.width, asked.height));
        shape.alpha = asked.alpha;
        limits.check_pixels("the result", host::size(&asked.settings, shape).map_err(refusal)?)?;
        let plan = model.plan(&asked.settings, shape).map_err(refusal)?;
        let canvas = &plan.geometry.canvas;
        Ok(Json(PlanView {
            width: canvas.width as u32,
            height: canvas.height as u32,
            regions: plan.geometry.grid.len(),
            steps: plan.sampling.steps_run,
            tiles: plan.tiles(),
            calls: plan.denoiser_calls(),
            text: host.words.clean(&plan.to_string()),
        }))
    })
    .await
}

/// The answer where there is nothing.
pub async fn nothing_here(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(100).collect();
    Refusal::new(
        Kind::NotFound,
        format!("there is nothing at {path}: /openapi.json says what there is"),
    )
}

/// The answer to a method that an address does not take.
pub async fn not_allowed() -> Refusal {
    Refusal::new(
        Kind::Method,
        "this address does not take this method: /openapi.json says which it takes",
    )
}
