//! A job as the API shows it.

use cupscale::pipeline::Stage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::Refusal;

/// What a job makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = JobKind)]
pub enum Kind {
    /// The enlarged picture.
    #[default]
    Upscale,
    /// The captions of its regions, as JSON.
    Captions,
}

/// Where a job is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = JobState)]
pub enum State {
    Waiting,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl State {
    /// `true` once nothing more happens to the job.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A stage of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = JobStage)]
pub enum StageName {
    Caption,
    Enlarge,
    Encode,
    Denoise,
    Decode,
}

impl From<Stage> for StageName {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Caption => Self::Caption,
            Stage::Enlarge => Self::Enlarge,
            Stage::Encode => Self::Encode,
            Stage::Denoise => Self::Denoise,
            Stage::Decode => Self::Decode,
        }
    }
}

/// How far a running job is.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = JobProgress)]
pub struct ProgressView {
    pub stage: Option<StageName>,
    /// Of `total`, within the stage.
    pub done: usize,
    pub total: usize,
    /// What `total` counts.
    #[schema(value_type = Option<String>)]
    pub unit: Option<&'static str>,
    /// Share of the whole job that is done, 0 to 1.
    pub share: f64,
    /// Seconds that are left, if anything can be said of it yet.
    pub eta_s: Option<f64>,
}

/// A job.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    pub id: String,
    pub kind: Kind,
    /// Name of the picture, as it was sent.
    pub name: String,
    pub state: State,
    /// Waiting jobs before this one.
    pub ahead: usize,
    #[serde(flatten)]
    pub progress: ProgressView,
    /// Width of the output in pixels.
    pub width: u32,
    /// Height of the output in pixels.
    pub height: u32,
    pub source_width: u32,
    pub source_height: u32,
    /// Format of the result: a picture's, or `json`.
    pub format: String,
    /// Bytes of the result.
    pub bytes: Option<u64>,
    /// Seconds that it has run.
    pub seconds: Option<f64>,
    /// Name of the model.
    pub model: String,
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// What the user should know that is no error.
    pub notes: Vec<String>,
    pub error: Option<Refusal>,
    /// A small picture of the unfinished result can be fetched.
    pub has_preview: bool,
    /// The captions of the regions can be fetched.
    pub has_captions: bool,
    /// Seconds since 1970.
    pub created: f64,
    pub started: Option<f64>,
    pub ended: Option<f64>,
}
