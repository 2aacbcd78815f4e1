//! Texts about a picture as the web UI writes them: `info` of an answer, and what `/png-info` reads out of a file, the
//! settings of this program put in those words.

use cupscale::image::{self, Input, ReadOptions, settings_in};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{error::A1111Error, picture, sampling, values::Words};

/// Keyword of the text that the web UI writes into its pictures.
const PARAMETERS: &str = "parameters";

/// The picture whose text is asked for.
#[derive(Debug, Deserialize, ToSchema)]
pub struct InfoRequest {
    /// The picture, as base64 of its file.
    #[serde(default)]
    pub image: Words,
}

/// What a picture's file says of how it was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfoAnswer {
    /// The text of the web UI, or the settings of this program in its words; empty without either.
    info: String,
    /// The texts of the file by their keywords.
    #[schema(value_type = Object)]
    items: Map<String, Value>,
    /// The same as `info`, by names.
    #[schema(value_type = Object)]
    parameters: Map<String, Value>,
}

/// Reads the text of a picture.
///
/// # Errors
/// A file that is no picture.
pub fn read(request: &InfoRequest) -> Result<InfoAnswer, A1111Error> {
    let wrong = |reason: String| A1111Error::unfit(format!("image: {reason}"));
    let bytes = picture::decode(request.image.0.as_deref().unwrap_or_default()).map_err(wrong)?;
    let settings = settings_in(&bytes).and_then(|text| serde_json::from_str(&text).ok());
    let opened = image::open(&Input::Bytes(bytes.into()), &ReadOptions::default());
    let opened = opened.map_err(|error| wrong(error.to_string()))?;
    let texts = &opened.metadata().texts;
    let mut items: Map<String, Value> =
        texts.iter().map(|text| (text.keyword.clone(), json!(text.text))).collect();
    let info = match (items.remove(PARAMETERS), &settings) {
        (_, Some(settings)) => text_of(settings),
        (Some(Value::String(text)), None) => text,
        _ => String::new(),
    };
    if let Some(settings) = settings {
        items.insert("cupscale".to_owned(), Value::Object(settings).to_string().into());
    }
    Ok(InfoAnswer { parameters: parameters_of(&info), info, items })
}

/// The settings of a picture in the words of the web UI: the prompt, the negative prompt, and a line of the rest.
pub fn text_of(settings: &Map<String, Value>) -> String {
    let word = |name: &str| settings.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut lines = vec![word("prompt").replace('\n', " ")];
    if !word("negative_prompt").is_empty() {
        lines.push(format!("Negative prompt: {}", word("negative_prompt").replace('\n', " ")));
    }
    let mut rest = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            // A comma would end the value.
            let value =
                if value.contains([',', ':', '"']) { json!(value).to_string() } else { value };
            rest.push(format!("{name}: {value}"));
        }
    };
    let shown = |name: &str| match settings.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(value) => Some(value.to_string()),
    };
    add("Steps", shown("steps"));
    add("Sampler", Some(sampling::name_of(word("sampler")).to_owned()));
    add("Schedule type", shown("sigmas"));
    add("CFG scale", shown("guidance"));
    add("Seed", shown("seed"));
    add("Size", size_of(settings).map(|(width, height)| format!("{width}x{height}")));
    add("Model", shown("model"));
    add("Denoising strength", strength_of(settings).map(|share| share.to_string()));
    add("Version", shown("version").map(|version| format!("cupscale-fast {version}")));
    lines.push(rest.join(", "));
    lines.join("\n")
}

/// Width and height that a picture was made at.
fn size_of(settings: &Map<String, Value>) -> Option<(u64, u64)> {
    match settings.get("size")?.as_array()?.as_slice() {
        [width, height] => Some((width.as_u64()?, height.as_u64()?)),
        _ => None,
    }
}

/// Share of the steps that ran.
pub fn strength_of(settings: &Map<String, Value>) -> Option<f64> {
    let number = |name: &str| settings.get(name)?.as_f64();
    let share = number("denoise_steps")? / number("steps").filter(|steps| *steps > 0.0)?;
    Some((share * 100.0).round() / 100.0)
}

/// The parts of such a text by their names.
fn parameters_of(text: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    if text.is_empty() {
        return parameters;
    }
    let (prompts, rest) = match text.rsplit_once('\n') {
        Some((prompts, rest)) if rest.contains(": ") => (prompts, rest),
        _ if text.starts_with("Steps: ") => ("", text),
        _ => (text, ""),
    };
    let (prompt, negative) = match prompts.split_once("Negative prompt:") {
        Some((prompt, negative)) => (prompt.trim(), negative.trim()),
        None => (prompts.trim(), ""),
    };
    parameters.insert("Prompt".to_owned(), json!(prompt));
    parameters.insert("Negative prompt".to_owned(), json!(negative));
    for part in parts(rest) {
        let Some((name, value)) = part.split_once(':') else { continue };
        let value = value.trim();
        let value = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
        match value.split_once('x').filter(|_| name.trim() == "Size") {
            Some((width, height)) => {
                parameters.insert("Size-1".to_owned(), json!(width));
                parameters.insert("Size-2".to_owned(), json!(height));
            }
            None => drop(parameters.insert(name.trim().to_owned(), json!(value))),
        }
    }
    parameters
}

/// The parts of a line between commas that are in no quotes.
fn parts(line: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, sign) in line.char_indices() {
        match sign {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(line[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(line[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_as_the_web_ui_tells_them_and_read_again() {
        let settings = json!({"prompt": "a bird,\nperched", "negative_prompt": "blurry", "steps": 8, "denoise_steps": 3,
            "sampler": "dpmpp-2m", "sigmas": "karras", "guidance": 7.5, "seed": 42, "size": [128, 96], "model": "a, b",
            "version": "0.1.0", "gsp": 0.2});
        let text = text_of(settings.as_object().unwrap());
        let line = "Steps: 8, Sampler: DPM++ 2M, Schedule type: karras, CFG scale: 7.5, Seed: 42, Size: 128x96, Model: \"a, b\", Denoising strength: 0.38, Version: cupscale-fast 0.1.0";
        assert_eq!(text, format!("a bird, perched\nNegative prompt: blurry\n{line}"));
        let parameters = Value::Object(parameters_of(&text));
        for (name, value) in [
            ("Prompt", "a bird, perched"),
            ("Negative prompt", "blurry"),
            ("Seed", "42"),
            ("Size-1", "128"),
            ("Size-2", "96"),
            ("Model", "a, b"),
        ] {
            assert_eq!(parameters[name], value, "{parameters}");
        }
        assert!(parameters_of("").is_empty());
        assert_eq!(parameters_of("only a prompt")["Prompt"], "only a prompt");
        assert_eq!(parts(r#"a: "x \" , y", b: 2"#), [r#"a: "x \" , y""#, "b: 2"]);
    }
}
