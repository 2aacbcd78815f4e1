//! Answers: headers of the frames that the program sends.

use serde::Serialize;

use super::request::Id;

/// An answer, or the greeting.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Answer<'a> {
    /// The first message of all.
    Hello(Box<Hello<'a>>),
    /// The request is in turn behind `waiting` others.
    Accepted { id: &'a Id, waiting: usize },
    /// A stage of the request has got so far.
    Progress {
        id: &'a Id,
        stage: &'a str,
        done: usize,
        total: usize,
        /// What `total` counts.
        unit: &'a str,
        /// Seconds that are left of the request, if anything can be said of it yet.
        eta_s: Option<f64>,
    },
    /// Something the user should know that is no error.
    Note { id: &'a Id, text: &'a str },
    /// The unfinished result, small, as a picture file in the payload.
    Preview {
        id: &'a Id,
        /// The stage, and the steps that have been taken of how many.
        stage: &'a str,
        step: usize,
        of: usize,
        width: u32,
        height: u32,
        format: &'a str,
    },
    /// The result is the payload.
    Result {
        id: &'a Id,
        width: u32,
        height: u32,
        #[serde(flatten)]
        form: Form<'a>,
        seconds: f64,
    },
    /// What the request would do.
    Plan(Box<PlanAnswer<'a>>),
    /// The request has ended without a result, as was asked.
    Cancelled { id: &'a Id },
    /// The answer to a ping.
    Pong { id: Option<&'a Id> },
    /// The request has failed, or what came was none.
    Error { id: Option<&'a Id>, kind: Kind, message: &'a str },
    /// The last message of all.
    Bye,
}

/// What the program is and takes.
#[derive(Debug, Serialize)]
pub struct Hello<'a> {
    pub protocol: &'a str,
    pub version: u32,
    pub program: &'a str,
    pub model: &'a str,
    pub devices: Vec<String>,
    pub computes_on: String,
    /// Types of requests.
    pub requests: &'a [&'a str],
    /// Formats of picture files that results can have.
    pub formats: Vec<&'a str>,
    /// Formats of raw pixels, of inputs and results.
    pub pix: Vec<&'a str>,
    /// Names of the settings of a request.
    pub settings: Vec<String>,
    pub limits: Limits,
}

/// Bounds of what the program takes.
#[derive(Debug, Serialize)]
pub struct Limits {
    /// Bytes of a header.
    pub header: u32,
    /// Bytes of a payload.
    pub payload: u64,
    /// Requests that may wait behind the running one.
    pub waiting: usize,
    /// Bytes of the payloads of those that wait.
    pub waiting_bytes: u64,
}

/// Form of a result.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form<'a> {
    Format(&'a str),
    Pix(&'a str),
}

/// The plan of a request.
#[derive(Debug, Serialize)]
pub struct PlanAnswer<'a> {
    pub id: &'a Id,
    pub width: u32,
    pub height: u32,
    pub regions: usize,
    pub steps: usize,
    pub tiles: usize,
    /// Regions that the denoiser computes in all.
    pub calls: usize,
    /// What `plan` of the command line prints.
    pub text: &'a str,
}

/// Kind of an error, by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What came is no request of this protocol.
    Request,
    /// A setting is unknown, out of its range, or does not go with another.
    Settings,
    /// The picture cannot be read.
    Input,
    /// Too many requests wait.
    Busy,
    /// The memory does not suffice.
    Memory,
    /// The work failed.
    Failed,
    /// A fault in the program.
    Fault,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_have_the_fields_that_the_protocol_promises() {
        let id = Id::Number(7);
        let of = |answer: Answer| serde_json::to_value(answer).unwrap();
        let (width, height, seconds) = (8, 6, 0.5);
        let result = Answer::Result { id: &id, width, height, form: Form::Format("png"), seconds };
        assert_eq!(
            of(result),
            json!({"type": "result", "id": 7, "width": 8, "height": 6, "format": "png", "seconds": 0.5})
        );
        let error = Answer::Error { id: None, kind: Kind::Request, message: "no JSON" };
        assert_eq!(
            of(error),
            json!({"type": "error", "id": null, "kind": "request", "message": "no JSON"})
        );
        assert_eq!(of(Answer::Bye), json!({"type": "bye"}));
    }
}
