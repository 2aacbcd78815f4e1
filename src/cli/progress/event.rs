//! Events of `--progress json`: one JSON object a line on standard error, for programs that start this one.
//! docs/guide.md describes every field.

use cupscale::pipeline::Stage;
use serde::Serialize;

use crate::cli::print::say_json;

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
        frame: u64,
        /// Time that it took.
        seconds: f64,
    },
    /// A stage of a job begins, or work on a file of a model.
    Stage {
        stage: At,
        #[serde(flatten)]
        bytes: Option<TransferBytes<'a>>,
        /// `null` for a file whose size is not known.
        total: Option<u64>,
        unit: &'static str,
    },
    /// Progress within the stage.
    Progress {
        stage: At,
        #[serde(flatten)]
        file: Option<TransferFile<'a>>,
        done: u64,
        total: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unit: Option<&'static str>,
    },
    /// A warning for the user.
    Note { text: &'a str },
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

/// The file of a transfer.
#[derive(Debug, Serialize)]
pub struct TransferFile<'a> {
    pub file: &'a str,
}

/// The file of a transfer, with the bytes already done at its start.
#[derive(Debug, Serialize)]
pub struct TransferBytes<'a> {
    pub file: &'a str,
    pub done: u64,
}

impl Event<'_> {
    /// Writes the event to standard error.
    pub fn say(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            say_json(&line);
        }
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
            bytes: None,
            total: Some(16),
            unit: "tiles",
        };
        let expected =
            serde_json::json!({"event": "stage", "stage": "encode", "total": 16, "unit": "tiles"});
        assert_eq!(json(stage), expected);
        let progress = Event::Progress {
            stage: At::Model(Transfer::Download),
            file: Some(TransferFile { file: "a.gguf" }),
            done: 5,
            total: None,
            unit: Some("bytes"),
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
