//! Bounds of what a server takes: bodies, pixels, time, jobs that wait.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::error::{Kind, Refusal};
use crate::cli::args::ServerArgs;

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: u64,
    /// Pixels of a picture, before and after.
    pub pixels: u64,
    /// Longest time of a job.
    pub time: Option<Duration>,
    /// Jobs that may wait behind the one that runs.
    pub waiting: usize,
    /// Time for which jobs that have ended are kept.
    pub keep: Duration,
}

impl Limits {
    pub fn new(args: &ServerArgs) -> Self {
        Self {
            body: args.max_body as u64,
            pixels: args.max_pixels,
            time: args.max_time.map(|seconds| Duration::from_secs(seconds.into())),
            waiting: args.queue as usize,
            // A time beyond what a clock holds is forever.
            keep: Duration::try_from_secs_f64(args.keep * 3600.0).unwrap_or(Duration::MAX),
        }
    }

    /// Checks the size of a picture; `what` it is stands in the message.
    ///
    /// # Errors
    /// More pixels than the limit.
    pub fn check_pixels(&self, what: &str, (width, height): (u32, u32)) -> Result<(), Refusal> {
        if u64::from(width) * u64::from(height) <= self.pixels {
            return Ok(());
        }
        let message = format!(
            "{what} has {width} × {height} pixels, and this server takes {} at most",
            self.pixels
        );
        Err(Refusal::new(Kind::TooLarge, message))
    }

    /// The refusal of a body that is too long.
    pub fn body_too_large(&self) -> Refusal {
        let most = cupscale::units::bytes(self.body);
        Refusal::new(
            Kind::TooLarge,
            format!("the body is larger than {most}, the most this server takes"),
        )
    }

    /// The limits as the API tells them.
    pub fn view(&self) -> LimitsView {
        LimitsView {
            body: self.body,
            pixels: self.pixels,
            seconds: self.time.map(|time| time.as_secs()),
            waiting: self.waiting,
        }
    }
}

/// Bounds of what the server takes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limits)]
pub struct LimitsView {
    /// Bytes of a body.
    body: u64,
    /// Pixels of a picture, before and after.
    pixels: u64,
    /// Seconds that a job may run.
    seconds: Option<u64>,
    /// Jobs that may wait behind the one that runs.
    waiting: usize,
}
