//! A job as it is sent: the parts of a form, of which files go to the disk as they come.

use std::{sync::Arc, time::Duration};

use axum::{
    body::HttpBody as _,
    extract::{
        FromRequest as _, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::{StatusCode, header},
};
use cupscale::pipe::request::OutputForm;
use serde::de::DeserializeOwned;
use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
    time::{timeout, timeout_at},
};

use super::{
    super::{
        accept::Order,
        error::{Kind, Refusal},
        jobs::Draft,
        linger::linger,
        served::Served,
        store::{GIVEN, INPUT, MASK},
        view,
    },
    body::{Pace, too_slow},
};

/// Bytes of a part that is no file.
const LARGEST_TEXT: usize = 1 << 20;
/// Time for which the rest of a refused form is read.
const REST: Duration = Duration::from_secs(5);
/// Bytes that are written at once.
const BLOCK: usize = 256 << 10;

/// Receives a job into a folder of its own, which is gone again if anything is wrong with it or if the client goes away.
///
/// # Errors
/// A full queue, what is no such form, a body beyond the limits, a disk that is full.
pub async fn receive(served: &Arc<Served>, request: Request) -> Result<(Draft, Order), Refusal> {
    let limits = &served.jobs.limits;
    let refusal = match served.jobs.draft() {
        Err(refusal) => refusal,
        Ok(_) if !is_form(&request) => {
            Refusal::new(Kind::Unsupported, "the body must be multipart/form-data")
        }
        Ok(_) if request.body().size_hint().lower() > limits.body => limits.body_too_large(),
        Ok(draft) => return receive_form(served, draft, request).await,
    };
    // Who waits to be told to go on has sent nothing yet.
    if !request.headers().contains_key(header::EXPECT) {
        linger(request.into_body()).await;
    }
    Err(refusal)
}

fn is_form(request: &Request) -> bool {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("multipart/form-data")
}

async fn receive_form(
    served: &Arc<Served>,
    draft: Draft,
    request: Request,
) -> Result<(Draft, Order), Refusal> {
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| Refusal::new(Kind::Request, error.body_text()))?;
    let received = receive_parts(served, &draft, &mut form).await;
    if received.is_err() {
        let rest = async {
            while let Ok(Some(mut part)) = form.next_field().await {
                while let Ok(Some(_)) = part.chunk().await {}
            }
        };
        let _ = timeout(REST, rest).await;
    }
    received.map(|order| (draft, order))
}

async fn receive_parts(
    served: &Arc<Served>,
    draft: &Draft,
    form: &mut Multipart,
) -> Result<Order, Refusal> {
    let broken = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => served.jobs.limits.body_too_large(),
        _ => Refusal::new(Kind::Request, format!("the form cannot be read: {}", error.body_text())),
    };
    let mut pace = Pace::new();
    let mut order = Order { is_kept: true, ..Order::default() };
    let (mut name, mut file_name) = (None, None);
    let mut seen: Vec<String> = Vec::new();
    loop {
        let part = timeout_at(pace.deadline(), form.next_field()).await.map_err(|_| too_slow())?;
        let Some(part) = part.map_err(broken)? else { break };
        let part_name = part.name().unwrap_or_default().to_owned();
        if seen.contains(&part_name) {
            return Err(Refusal::new(Kind::Request, format!("the part `{part_name}` comes twice")));
        }
        let file = match part_name.as_str() {
            "picture" => Some(INPUT),
            "mask" => Some(MASK),
            "captions" => Some(GIVEN),
            _ => None,
        };
        if part_name == "picture" {
            file_name = part.file_name().map(str::to_owned);
        }
        match file {
            Some(file) => save(draft, file, part, &mut pace, broken).await?,
            None => {
                let text = text(part, &part_name, &mut pace, broken).await?;
                match part_name.as_str() {
                    "settings" => order.settings = parsed(&part_name, &text)?,
                    "output" => order.output = parsed::<OutputForm>(&part_name, &text)?,
                    "kind" => {
                        let quoted = serde_json::Value::String(text);
                        order.kind = parsed::<view::Kind>(&part_name, &quoted.to_string())?;
                    }
                    "model" => order.model = Some(text).filter(|text| !text.is_empty()),
                    "name" => name = Some(text).filter(|text| !text.is_empty()),
                    "seconds" => order.most_seconds = Some(parsed(&part_name, &text)?),
                    _ => {
                        let shown: String = part_name.chars().take(60).collect();
                        let message = format!(
                            "the part `{shown}` is unknown: picture, mask, captions, settings, output, kind, model, name, seconds"
                        );
                        return Err(Refusal::new(Kind::Request, message));
                    }
                }
            }
        }
        seen.push(part_name);
    }
    if !seen.iter().any(|part| part == "picture") {
        return Err(Refusal::new(Kind::Request, "the part `picture` is missing"));
    }
    order.name = name.or(file_name).unwrap_or_default();
    Ok(order)
}

/// The next bytes of a part.
async fn chunk(
    part: &mut Field<'_>,
    pace: &mut Pace,
    broken: impl Fn(MultipartError) -> Refusal,
) -> Result<Option<axum::body::Bytes>, Refusal> {
    let next = timeout_at(pace.deadline(), part.chunk()).await.map_err(|_| too_slow())?;
    let bytes = next.map_err(broken)?;
    pace.receive(bytes.as_ref().map_or(0, |bytes| bytes.len()));
    Ok(bytes)
}

/// Writes a part into a file of the job.
async fn save(
    draft: &Draft,
    name: &str,
    mut part: Field<'_>,
    pace: &mut Pace,
    broken: impl Fn(MultipartError) -> Refusal,
) -> Result<(), Refusal> {
    let file = File::create(draft.file(name)).await.map_err(|error| Refusal::disk(&error))?;
    let mut file = BufWriter::with_capacity(BLOCK, file);
    while let Some(bytes) = chunk(&mut part, pace, &broken).await? {
        file.write_all(&bytes).await.map_err(|error| Refusal::disk(&error))?;
    }
    // Written before anybody reads it.
    file.shutdown().await.map_err(|error| Refusal::disk(&error))
}

/// The text of a part.
async fn text(
    mut part: Field<'_>,
    name: &str,
    pace: &mut Pace,
    broken: impl Fn(MultipartError) -> Refusal,
) -> Result<String, Refusal> {
    let mut text = Vec::new();
    let shown: String = name.chars().take(60).collect();
    while let Some(bytes) = chunk(&mut part, pace, &broken).await? {
        if text.len() + bytes.len() > LARGEST_TEXT {
            let message = format!("the part `{shown}` is larger than 1 MiB");
            return Err(Refusal::new(Kind::TooLarge, message));
        }
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text)
        .map_err(|_| Refusal::new(Kind::Request, format!("the part `{shown}` is no text in UTF-8")))
}

fn parsed<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| {
        Refusal::new(Kind::Request, format!("the part `{name}` is not what is asked for: {error}"))
    })
}
