//! `/progress`, `/interrupt` and `/skip`: how far the call is that a client waits for, and its end.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::{Query, State as FromState, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    super::view::{JobView, StageName, State},
    door::Door,
    error::{A1111Error, ErrorBody},
    picture,
    turns::Ticket,
    values::Flag,
};

/// What a client asks with the progress.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// True: the answer has no picture.
    #[serde(default)]
    #[param(value_type = Flag, required = false)]
    skip_current_image: Flag,
}

/// How far the call is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// Share that is done, 0 to 1; 0 where no call waits.
    progress: f64,
    /// Seconds that are left, 0 where nothing can be said of it.
    eta_relative: f64,
    state: CallState,
    /// The unfinished picture, a PNG as base64.
    current_image: Option<String>,
    /// One line for people.
    textinfo: Option<String>,
}

/// What the call is at.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CallState {
    skipped: bool,
    interrupted: bool,
    stopping_generation: bool,
    /// What is made; empty where no call waits.
    job: String,
    /// Pictures that the call makes.
    job_count: usize,
    /// When the call began, as `20260131235959`, in UTC.
    job_timestamp: String,
    /// Pictures that are done.
    job_no: usize,
    /// Of `sampling_steps`: regions of the stage that runs.
    sampling_step: usize,
    sampling_steps: usize,
}

/// How far the call is that waits, with the unfinished picture.
#[utoipa::path(get, path = "/progress", tag = "A1111", params(Asked),
    responses((status = 200, body = Progress), (status = 422, body = ErrorBody)))]
pub async fn progress(
    FromState(door): FromState<Arc<Door>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Progress>, A1111Error> {
    let Query(asked) = asked.map_err(|error| A1111Error::malformed(error.body_text()))?;
    let Some(ticket) = door.turns.current(&door.jobs) else {
        let (interrupted, skipped) = door.turns.last();
        let state = CallState {
            interrupted,
            skipped,
            job_timestamp: "0".to_owned(),
            ..CallState::default()
        };
        let (current_image, textinfo) = (None, None);
        return Ok(Json(Progress {
            progress: 0.0,
            eta_relative: 0.0,
            state,
            current_image,
            textinfo,
        }));
    };
    let view = ticket.job.as_ref().and_then(|job| door.jobs.view(job));
    let wants_picture = asked.skip_current_image.0 != Some(true);
    let preview =
        ticket.job.as_ref().filter(|_| wants_picture).and_then(|job| door.jobs.preview(job));
    let current_image = match preview {
        None => None,
        // One that cannot be read is left out: there will be another.
        Some(jpeg) => {
            door.blocking(move |_| Ok(picture::as_png(&jpeg).ok().map(|png| picture::encode(&png))))
                .await?
        }
    };
    Ok(Json(answer(&ticket, view.as_ref(), current_image)))
}

fn answer(ticket: &Ticket, view: Option<&JobView>, current_image: Option<String>) -> Progress {
    let Ticket { what, done, count, begun, is_interrupted, is_skipped, .. } = *ticket;
    let running = view.filter(|view| view.state == State::Running);
    let share = running.map_or(0.0, |view| view.progress.share.clamp(0.0, 1.0));
    // Above 0 from the beginning: clients take 0 for an end.
    let progress = ((done as f64 + share) / count as f64).clamp(0.01, 1.0);
    let left = running.and_then(|view| view.progress.eta_s);
    let whole = running.and_then(|view| Some(left? + view.seconds?));
    let later = count.saturating_sub(done + 1) as f64;
    let (step, steps) = running.map_or((0, 0), |view| (view.progress.done, view.progress.total));
    let textinfo = match view {
        Some(view) if view.state == State::Waiting && view.ahead > 0 => {
            Some(format!("waiting behind {}", cupscale::units::count(view.ahead, "job")))
        }
        Some(JobView { state: State::Waiting, .. }) => Some("waiting".to_owned()),
        Some(view) => view.progress.stage.map(|stage| stage_text(stage).to_owned()),
        None => None,
    };
    Progress {
        progress,
        eta_relative: left.unwrap_or(0.0) + later * whole.unwrap_or(0.0),
        state: CallState {
            skipped: is_skipped,
            interrupted: is_interrupted,
            stopping_generation: is_interrupted,
            job: what.to_owned(),
            job_count: count,
            job_timestamp: timestamp(begun),
            job_no: done,
            sampling_step: step,
            sampling_steps: steps,
        },
        current_image,
        textinfo,
    }
}

fn stage_text(stage: StageName) -> &'static str {
    match stage {
        StageName::Caption => "describing regions",
        StageName::Enlarge => "enlarging",
        StageName::Encode => "encoding",
        StageName::Denoise => "repainting",
        StageName::Decode => "decoding",
    }
}

/// Ends the call that waits; it is answered with the pictures that are done. Nothing happens where none waits.
#[utoipa::path(post, path = "/interrupt", tag = "A1111", responses((status = 200, body = Object)))]
pub async fn interrupt(
    FromState(door): FromState<Arc<Door>>,
) -> Result<Json<Map<String, Value>>, A1111Error> {
    door.blocking(|door| Ok(door.turns.stop(&door.jobs, true))).await?;
    Ok(Json(Map::new()))
}

/// Ends the picture that the call is at; the call goes on with the next one.
#[utoipa::path(post, path = "/skip", tag = "A1111", responses((status = 200, body = Value)))]
pub async fn skip(FromState(door): FromState<Arc<Door>>) -> Result<Json<Value>, A1111Error> {
    door.blocking(|door| Ok(door.turns.stop(&door.jobs, false))).await?;
    Ok(Json(Value::Null))
}

/// Year, month, day, hour, minute and second of a moment in UTC, without marks between them.
pub fn timestamp(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March 0000, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_told_in_utc() {
        for (seconds, text) in [
            (0, "19700101000000"),
            (951_782_399, "20000228235959"),
            (951_782_400, "20000229000000"),
            (1_709_251_199, "20240229235959"),
            (4_107_542_400, "21000301000000"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
