//! What clients ask outside of the API to see whether a server is there and works.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::jobs::Jobs;

/// The queue, as the web UI's pages see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueStatus {
    msg: &'static str,
    rank: Option<u64>,
    /// Jobs that wait or run.
    queue_size: usize,
    avg_event_process_time: Option<f64>,
    avg_event_concurrent_process_time: Option<f64>,
    rank_eta: Option<f64>,
    queue_eta: f64,
}

/// Answers at once.
#[utoipa::path(get, path = "/internal/ping", tag = "A1111", responses((status = 200, body = Object)))]
pub async fn ping() -> Json<Map<String, Value>> {
    Json(Map::new())
}

/// Length of the queue.
#[utoipa::path(get, path = "/queue/status", tag = "A1111", responses((status = 200, body = QueueStatus)))]
pub async fn queue_status(State(jobs): State<Arc<Jobs>>) -> Json<QueueStatus> {
    let (waiting, running) = jobs.load();
    Json(QueueStatus {
        msg: "estimation",
        rank: None,
        queue_size: waiting + usize::from(running.is_some()),
        avg_event_process_time: None,
        avg_event_concurrent_process_time: None,
        rank_eta: None,
        queue_eta: 0.0,
    })
}

/// Who is logged in: nobody.
#[utoipa::path(get, path = "/user", tag = "A1111", responses((status = 200, body = Option<String>)))]
pub async fn user() -> Json<Option<String>> {
    Json(None)
}
