//! Events of a job (server-sent): its whole self first, then what changes. What comes faster than a client reads is left out,
//! but for the last of it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::mpsc::{self, Sender},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    super::{
        cell::{Changes, Watch},
        error::Refusal,
        served::Served,
    },
    JobId,
};

/// Time between two events of progress.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two signs of life.
const ALIVE: Duration = Duration::from_secs(15);
/// Time for which a client may read nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follow a job
///
/// Events: `job` (the whole job; first of all, and on every change of its state, its stage or its place in the queue),
/// `progress` (at most ten a second), `note`, `preview` and `captions` (they can be fetched). The stream ends after the `job`
/// event of a state in which nothing more happens, or when the server ends.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    tag = "jobs",
    params(JobId),
    responses(
        (status = 200, description = "Events", body = serde_json::Value, content_type = "text/event-stream"),
        (status = 404, description = "No such job", body = super::super::error::ErrorBody),
    )
)]
pub async fn events(
    State(served): State<Arc<Served>>,
    JobId { id }: JobId,
) -> Result<Sse<impl tokio_stream::Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let watch = served.jobs.watch(&id).ok_or_else(Refusal::no_job)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = closed.closed() => {}
            _ = follow(watch, &sender) => {}
        }
    });
    let alive = KeepAlive::new().interval(ALIVE).text("alive");
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(alive))
}

/// Sends what happens, until nothing more does or nobody listens.
async fn follow(mut watch: Watch, to: &Sender<Result<Event, Infallible>>) -> Option<()> {
    let mut told = watch.seen();
    let view = watch.view();
    send(to, "job", &view).await?;
    if view.state.is_ended() {
        return Some(());
    }
    told.notes = view.notes.len();
    let mut progress_at = Instant::now();
    loop {
        watch.changed().await;
        let now = watch.seen();
        let view = watch.view();
        let is_ended = view.state.is_ended();
        for text in view.notes.get(told.notes..).unwrap_or_default() {
            send(to, "note", &json!({ "text": text })).await?;
        }
        if now.captions != told.captions {
            send(to, "captions", &json!({})).await?;
        }
        if now.preview != told.preview
            && let Some(preview) = watch.preview()
        {
            let (stage, step, of) = (preview.stage, preview.step, preview.of);
            send(to, "preview", &json!({ "stage": stage, "step": step, "of": of })).await?;
        }
        if now.job != told.job || is_ended {
            send(to, "job", &view).await?;
        } else if now.progress != told.progress {
            sleep_until(progress_at).await;
            let latest = watch.view();
            // Its end is told by the change that it is.
            if !latest.state.is_ended() {
                send(to, "progress", &latest.progress).await?;
            }
            progress_at = Instant::now() + PAUSE;
        }
        if is_ended || now.is_over {
            return Some(());
        }
        told = Changes { notes: view.notes.len(), ..now };
    }
}

async fn send(
    to: &Sender<Result<Event, Infallible>>,
    name: &str,
    data: &impl Serialize,
) -> Option<()> {
    let event = Event::default().event(name).json_data(data).ok()?;
    timeout(PATIENCE, to.send(Ok(event))).await.ok()?.ok()
}
