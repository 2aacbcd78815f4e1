//! Requests: headers of the frames that the editor sends.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most characters of an id.
const LONGEST_ID: usize = 200;

/// Name of a request, chosen by who sends it and repeated in every answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    Number(u64),
    Text(String),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Enlarge the picture in the payload.
    Upscale {
        id: Id,
        /// Options of the command line, by their long names.
        #[serde(default)]
        settings: Map<String, Value>,
        /// Shape of raw pixels; without it the payload is a picture file.
        #[serde(default)]
        input: Option<RawInput>,
        /// Mask of the picture, behind it in the payload.
        #[serde(default)]
        mask: Option<MaskPart>,
        /// Form of the result; without it that of the input.
        #[serde(default)]
        output: OutputForm,
        /// Ask for pictures of the unfinished result.
        #[serde(default)]
        preview: bool,
    },
    /// Say what a request with these settings would do, without doing it.
    Plan {
        id: Id,
        #[serde(default)]
        settings: Map<String, Value>,
        input: PlanInput,
    },
    /// End the request of this name, whether it waits or runs.
    Cancel { id: Id },
    /// Answer at once.
    Ping {
        #[serde(default)]
        id: Option<Id>,
    },
    /// Cancel everything and end.
    Shutdown {},
}

/// Shape of raw pixels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawInput {
    /// Format of the pixels, by ffmpeg's name.
    pub pix: String,
    pub width: u32,
    pub height: u32,
}

/// The part of a payload that is a mask: its last bytes, a picture file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskPart {
    /// Their number.
    pub bytes: u64,
}

/// Form of a result: at most one of `format` and `pix`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputForm {
    /// Format of a picture file.
    #[serde(default)]
    pub format: Option<String>,
    /// JPEG quality.
    #[serde(default)]
    pub quality: Option<u8>,
    /// Format of raw pixels.
    #[serde(default)]
    pub pix: Option<String>,
}

/// Size of a picture that a plan is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    pub width: u32,
    pub height: u32,
    #[serde(default)]
    pub alpha: bool,
}

impl Request {
    /// The request that a header says.
    ///
    /// # Errors
    /// The reason in one line, with the id if there is one to be found.
    pub fn parse(header: &[u8]) -> Result<Self, (Option<Id>, String)> {
        let value: Value =
            serde_json::from_slice(header).map_err(|error| (None, format!("no JSON: {error}")))?;
        let id = value.get("id").and_then(|id| Id::deserialize(id).ok()).filter(Id::is_fit);
        let request = Self::deserialize(value).map_err(|error| (id.clone(), error.to_string()))?;
        match request.id() {
            Some(given) if !given.is_fit() => {
                Err((None, format!("an id has at most {LONGEST_ID} characters, and one at least")))
            }
            _ => Ok(request),
        }
    }

    fn id(&self) -> Option<&Id> {
        match self {
            Self::Upscale { id, .. } | Self::Plan { id, .. } | Self::Cancel { id } => Some(id),
            Self::Ping { id } => id.as_ref(),
            Self::Shutdown {} => None,
        }
    }
}

impl Id {
    fn is_fit(&self) -> bool {
        match self {
            Self::Number(_) => true,
            Self::Text(text) => !text.is_empty() && text.chars().count() <= LONGEST_ID,
        }
    }
}

/// Settings as words of a command line: `{"scale": 2, "no-caption-cache": true}` is `--scale=2 --no-caption-cache`. A list
/// repeats its option; `false` and `null` leave it out.
///
/// # Errors
/// A name that no option can have, or a value that is an object or a list of lists.
pub fn words(settings: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (name, value) in settings {
        let is_sign =
            |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '-';
        if !name.starts_with(|sign: char| sign.is_ascii_lowercase()) || !name.chars().all(is_sign) {
            let shown: String = name.chars().take(60).collect();
            return Err(format!(
                "`{shown}` is no setting: settings are named like long options, as `denoise-steps`"
            ));
        }
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            match value {
                Value::Null | Value::Bool(false) => {}
                Value::Bool(true) => words.push(format!("--{name}")),
                Value::Number(number) => words.push(format!("--{name}={number}")),
                Value::String(text) => words.push(format!("--{name}={text}")),
                Value::Array(_) | Value::Object(_) => {
                    return Err(format!("`{name}`: a number, a text, true or a list of them"));
                }
            }
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<Request, (Option<Id>, String)> {
        Request::parse(value.to_string().as_bytes())
    }

    #[test]
    fn requests_are_read_and_what_is_wrong_is_told_with_their_id() {
        let request = parse(json!({
            "type": "upscale", "id": "a", "settings": {"scale": 2},
            "input": {"pix": "rgb24", "width": 4, "height": 3}, "output": {"format": "png"},
        }));
        let Ok(Request::Upscale { id, input: Some(input), output, preview: false, .. }) = request
        else {
            panic!("{request:?}");
        };
        assert_eq!(id, Id::Text("a".to_owned()));
        assert_eq!((input.width, output.format.as_deref()), (4, Some("png")));
        assert!(parse(json!({"type": "upscale", "id": 7})).is_ok());
        assert!(parse(json!({"type": "shutdown"})).is_ok());
        assert!(parse(json!({"type": "ping"})).is_ok());
        for (wrong, id, said) in [
            (json!({"type": "upscale", "id": 7, "setings": {}}), Some(7), "setings"),
            (json!({"type": "enlarge", "id": 7}), Some(7), "enlarge"),
            (json!({"type": "upscale"}), None, "id"),
            (json!({"type": "cancel", "id": -1}), None, "id"),
            (json!({"type": "cancel", "id": ""}), None, "id"),
            (json!({"type": "cancel", "id": "x".repeat(201)}), None, "200"),
            (json!({"type": "plan", "id": 7, "input": {"width": -1}}), Some(7), "-1"),
            (json!([1, 2]), None, "type"),
        ] {
            let (found, reason) = parse(wrong).unwrap_err();
            assert_eq!(found, id.map(Id::Number), "{reason}");
            let reason = reason.replace("did not match any variant of untagged enum Id", "id");
            assert!(reason.contains(said), "{reason}");
            assert_eq!(reason.lines().count(), 1);
        }
        let (_, reason) = Request::parse(b"\xff{").unwrap_err();
        assert!(reason.starts_with("no JSON"), "{reason}");
    }

    #[test]
    fn settings_are_words_of_a_command_line() {
        let of = |value: Value| words(value.as_object().unwrap());
        let settings = json!({
            "scale": 2, "prompt": "-- an old = harbour", "gsp": 0.25, "no-caption-cache": true,
            "resume": false, "eta": null, "timesteps": [800, 400],
        });
        let mut found = of(settings).unwrap();
        found.sort();
        assert_eq!(
            found,
            [
                "--gsp=0.25",
                "--no-caption-cache",
                "--prompt=-- an old = harbour",
                "--scale=2",
                "--timesteps=400",
                "--timesteps=800",
            ]
        );
        for wrong in [
            json!({"scale=2 ": 1}),
            json!({"--scale": 1}),
            json!({"": 1}),
            json!({"denoise_steps": 1}),
            json!({"scale": {}}),
            json!({"scale": [[1]]}),
        ] {
            assert!(of(wrong).is_err());
        }
    }
}
