//! `--report`: one page beside the output that shows what the job did: before and after with a border to drag, the regions
//! with their captions, times and settings. It is one file without any request to the network, of a bounded size.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cupscale::{
    caption::document::RegionEntry,
    image::{Comparison, Detail, Input, Output, Picture},
    pipeline::{self, Error},
    units,
};
use serde_json::{Value, json};

use super::{
    error::CliError,
    progress::{Timeline, words},
};

const TEMPLATE: &str = include_str!("template.html");

/// Bytes of captions in a page at most; the regions beyond have none, and the page says how many.
const CAPTIONS: usize = 2 << 20;

/// What a page is about.
pub struct Job<'a> {
    pub input: &'a str,
    pub picture: &'a Picture,
    /// The file of the output.
    pub output: &'a Output,
    /// Where a user finds it.
    pub named: &'a Output,
    pub done: &'a pipeline::Report,
    pub timeline: &'a Timeline,
    pub notes: &'a [String],
    pub computes_on: &'a str,
}

/// Where the page of an output goes: to `asked`, or beside the output, with its whole name and `.html`.
///
/// # Errors
/// An output that cannot be read again, or a place that cannot be written to.
pub fn place(asked: &Path, output: &Output) -> Result<Output, CliError> {
    let Output::Path(path) = output else {
        let reason =
            "--report shows the output file, and standard output is none: name one with -o";
        return Err(CliError::Usage(reason.to_owned()));
    };
    let page = if asked.as_os_str().is_empty() {
        let mut name = path.clone().into_os_string();
        name.push(".html");
        PathBuf::from(name)
    } else {
        asked.to_owned()
    };
    let page = Output::Path(page);
    page.check_writable().map_err(Error::from)?;
    Ok(page)
}

/// Writes the page of a job that has ended, and returns its size in bytes.
///
/// # Errors
/// An output that cannot be read again, or a page that cannot be written.
pub fn write(page: &Output, job: &Job<'_>) -> Result<usize, CliError> {
    let output = match job.output {
        Output::Path(path) => Input::Path(path.clone()),
        _ => return Err(CliError::Usage("--report shows an output file".to_owned())),
    };
    let after = cupscale::image::decode(&output).map_err(Error::from)?;
    let shown = Comparison::new(job.picture, &after).map_err(Error::from)?;
    let html = page_of(job, &shown);
    page.write(html.as_bytes()).map_err(Error::from)?;
    Ok(html.len())
}

fn page_of(job: &Job<'_>, shown: &Comparison) -> String {
    let data = script_json(&data(job));
    let crops: String = shown.details.iter().map(crop_of).collect();
    filled(TEMPLATE, |name| match name {
        "title" => escaped(&job.named.name()),
        "before" => url(&shown.before),
        "after" => url(&shown.after),
        "crops" => crops.clone(),
        "data" => data.clone(),
        _ => String::new(),
    })
}

/// The template with every `{{name}}` replaced once: what comes in its place is not looked at again.
fn filled(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        page += &value(name);
        page += rest;
    }
    page
}

/// The address of a JPEG that holds it.
fn url(jpeg: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg))
}

/// A detail with its own border.
fn crop_of(detail: &Detail) -> String {
    let Detail { x, y, width, height, before, after, .. } = detail;
    let (before, after) = (url(before), url(after));
    format!(
        "<figure><div class=\"pair\" style=\"--at: 50%; width: {width}px\">\
         <img class=\"before\" alt=\"Detail of the enlarged input\" src=\"{before}\">\
         <img class=\"after\" alt=\"The same detail of the output\" src=\"{after}\">\
         <input type=\"range\" min=\"0\" max=\"100\" step=\"0.5\" value=\"50\" \
         aria-label=\"Border between before and after of this detail\"></div>\
         <figcaption>{width} × {height} px at {x}, {y}</figcaption></figure>"
    )
}

/// What the page's script shows.
fn data(job: &Job<'_>) -> Value {
    let &Job { input, picture, named, done, timeline, notes, computes_on, .. } = job;
    let grid = done.captions.grid();
    let mut bytes = 0;
    let fits = |region: &&RegionEntry| {
        bytes += region.caption.len() + 100;
        bytes <= CAPTIONS
    };
    let regions: Vec<&RegionEntry> = done.captions.regions().iter().take_while(fits).collect();
    let count = match done.captions.regions().len() - regions.len() {
        0 => units::count(regions.len(), "region"),
        left => format!(
            "{} and {left} more that do not fit in here",
            units::count(regions.len(), "region")
        ),
    };
    let mut times: Vec<Value> = Vec::new();
    let mut time = |name: &str, seconds: f64| times.push(json!({"name": name, "seconds": seconds}));
    if let Some(seconds) = timeline.preparation() {
        time("preparing", seconds);
    }
    timeline.seconds().for_each(|(stage, seconds)| time(stage.verb(), seconds));
    let total = timeline.elapsed();
    let facts = format!(
        "{input}, {} × {} px, became {}, {} × {} px, in {}, on {computes_on}.",
        picture.width,
        picture.height,
        named.name(),
        done.width,
        done.height,
        said(total)
    );
    json!({
        "facts": facts,
        "width": done.width,
        "height": done.height,
        "columns": grid.cols,
        "regions": regions,
        "count": count,
        "times": times,
        "settings": done.settings,
        "notes": notes,
    })
}

/// A time that has passed: to a tenth of a second while that matters.
fn said(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        words(time)
    }
}

/// JSON that may stand within a script element: neither its end nor a comment can be written with it.
fn script_json(value: &Value) -> String {
    let mut safe = String::new();
    for sign in value.to_string().chars() {
        match sign {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(safe, "\\u{:04x}", u32::from(sign));
            }
            _ => safe.push(sign),
        }
    }
    safe
}

/// Text for an element or an attribute of a page.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for sign in text.chars() {
        match sign {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            _ => safe.push(sign),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        assert_eq!(escaped("<b>\"a\" & 'b'"), "&lt;b&gt;&quot;a&quot; &amp; &#39;b&#39;");
        let value = json!({"caption": "</script><!--\u{2028}&"});
        let safe = script_json(&value);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}']), "{safe}");
        assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), value);
    }

    #[test]
    fn a_value_that_looks_like_a_place_of_the_template_is_left_alone() {
        let page = filled("a {{one}} b {{two}} c", |name| match name {
            "one" => "{{two}}".to_owned(),
            _ => name.to_uppercase(),
        });
        assert_eq!(page, "a {{two}} b TWO c");
    }

    #[test]
    fn the_template_asks_for_nothing_from_outside() {
        // A namespace is a name, and nothing is read from there.
        let template = TEMPLATE.replace("http://www.w3.org/2000/svg", "");
        assert!(!template.contains("http:") && !template.contains("https:"));
        assert!(TEMPLATE.contains("default-src 'none'"));
        for name in ["title", "before", "after", "crops", "data"] {
            assert!(TEMPLATE.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
    }
}
