//! Events of `--progress json`: one JSON object a line on standard error, for programs that start this one.
//! docs/guide.md describes every field, and docs/progress.schema.json says the same for programs.

use std::time::Duration;

use cupscale::pipeline::Stage;
use serde::Serialize;

use crate::cli::print::json;

/// One line of `--progress json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// A file of a folder begins or ends.
    File {
        state: FileState,
        /// Number of the file, from 1 to `count`.
        index: usize,
        count: usize,
        input: &'a str,
        output: &'a str,
        /// Outcome, at the end of the stage.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
    },
    /// A frame of a stream is done.
    Frame {
        /// Number of the frame, from 1.
        frame: usize,
        /// Time that it took.
        seconds: f64,
    },
    /// A job begins whose plan is known.
    Job {
        #[serde(flatten)]
        file: Option<OfFile<'a>>,
        width: u32,
        height: u32,
        regions: usize,
        steps: usize,
        /// Seconds that it will take; `null` where nothing can be said yet.
        eta_s: Option<f64>,
    },
    /// A stage of a job begins, or work on a file of a model.
    Stage {
        stage: At,
        #[serde(flatten)]
        file: Option<OfFile<'a>>,
        /// Of a file of a model: the bytes that are there already.
        #[serde(skip_serializing_if = "Option::is_none")]
        done: Option<u64>,
        /// `null` for a file whose size is not known.
        total: Option<u64>,
        unit: &'static str,
    },
    /// Progress within the stage.
    Progress {
        stage: At,
        #[serde(flatten)]
        file: Option<OfFile<'a>>,
        done: u64,
        total: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unit: Option<&'static str>,
        /// Of a job.
        #[serde(flatten)]
        time: Option<JobTime>,
    },
    /// A preview has been written.
    Preview {
        #[serde(flatten)]
        file: Option<OfFile<'a>>,
        stage: Stage,
        step: usize,
        of: usize,
        width: u32,
        height: u32,
        path: &'a str,
    },
    /// A warning for the user.
    Note {
        #[serde(flatten)]
        file: Option<OfFile<'a>>,
        text: &'a str,
    },
    /// The job has succeeded.
    Done { seconds: f64, summary: &'a str },
}

/// State of a file of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// It is described, before its job begins.
    Captions,
    /// Its job begins.
    Begun,
    Done,
    Skipped,
    /// Another process works on it: its turn comes again after all others.
    Waiting,
    Failed,
}

/// Source of the progress: a stage of a job, or a file of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum At {
    Job(Stage),
    Model(Transfer),
}

/// Operation on a file of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    Download,
    Check,
    Quantize,
}

impl Transfer {
    /// The operation as a word.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Check => "check",
            Self::Quantize => "quantize",
        }
    }
}

/// The file that an event is about: the input of a job, or a file of a model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OfFile<'a> {
    pub file: &'a str,
}

/// Time of a job.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct JobTime {
    /// Seconds since the job began.
    pub elapsed_s: f64,
    /// Seconds that are left; `null` where nothing can be said yet.
    pub eta_s: Option<f64>,
}

/// Seconds for an event, to a tenth.
pub fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

impl Event<'_> {
    /// The event as one line, without its end; characters that a terminal would obey are escaped.
    pub fn line(&self) -> String {
        serde_json::to_string(self).map(|line| json(&line).into_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_fields_that_the_guide_promises() {
        let json = |event: Event| serde_json::to_value(event).unwrap();
        let stage = Event::Stage {
            stage: At::Job(Stage::Encode),
            file: None,
            done: None,
            total: Some(16),
            unit: "tiles",
        };
        let expected =
            serde_json::json!({"event": "stage", "stage": "encode", "total": 16, "unit": "tiles"});
        assert_eq!(json(stage), expected);
        let progress = Event::Progress {
            stage: At::Model(Transfer::Download),
            file: Some(OfFile { file: "a.gguf" }),
            done: 5,
            total: None,
            unit: Some("bytes"),
            time: None,
        };
        let expected = serde_json::json!({
            "event": "progress", "stage": "download", "file": "a.gguf", "done": 5, "total": null,
            "unit": "bytes",
        });
        assert_eq!(json(progress), expected);
        let (state, index, count) = (FileState::Begun, 1, 2);
        let file = Event::File { state, index, count, input: "a", output: "b", text: None };
        let expected = serde_json::json!({
            "event": "file", "state": "begun", "index": 1, "count": 2, "input": "a", "output": "b",
        });
        assert_eq!(json(file), expected);
        let expected = serde_json::json!({"event": "frame", "frame": 3, "seconds": 0.5});
        assert_eq!(json(Event::Frame { frame: 3, seconds: 0.5 }), expected);
    }
}
