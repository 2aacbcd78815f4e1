//! `info`: what a picture's file says of itself, and the settings that made it.

use cupscale::{
    image::{self, Input, Metadata, Opened, ReadOptions, profile_name, read_settings},
    pipeline::Error,
    units,
};
use serde_json::{Map, Value, json};

use super::{
    args::InfoArgs,
    error::CliError,
    print::{print, print_json},
};

/// Prints it; pixels are not read.
///
/// # Errors
/// A file that is no picture, or a standard output that cannot be written.
pub fn run(args: &InfoArgs) -> Result<(), CliError> {
    let opened = image::open(&Input::Path(args.file.clone()), &ReadOptions::default())
        .map_err(Error::from)?;
    let settings = read_settings(&args.file).map_err(Error::from)?;
    let settings = settings.and_then(|text| serde_json::from_str(&text).ok());
    let name = args.file.display().to_string();
    if args.json {
        return print_json(&format!("{:#}\n", as_json(&name, &opened, settings.as_ref())));
    }
    print(&as_text(&name, &opened, settings.as_ref()))
}

/// Blocks of metadata by name, with their bytes.
fn blocks(metadata: &Metadata) -> Vec<(&'static str, usize)> {
    let length = |block: &Option<Vec<u8>>| block.as_ref().map(Vec::len);
    let blocks = [
        ("EXIF", length(&metadata.exif)),
        ("XMP", length(&metadata.xmp)),
        ("IPTC", length(&metadata.photoshop)),
    ];
    blocks.into_iter().filter_map(|(name, length)| Some((name, length?))).collect()
}

fn as_json(name: &str, opened: &Opened, settings: Option<&Map<String, Value>>) -> Value {
    let (shape, metadata) = (opened.shape(), opened.metadata());
    let length = |block: &Option<Vec<u8>>| block.as_ref().map(Vec::len);
    let texts: Vec<&str> = metadata.texts.iter().map(|text| text.keyword.as_str()).collect();
    let notes: Vec<String> = opened.warnings().iter().map(ToString::to_string).collect();
    json!({
        "file": name,
        "format": opened.kind().to_string(),
        "width": shape.width,
        "height": shape.height,
        "bit_depth": opened.bit_depth(),
        "grey": opened.is_grey(),
        "alpha": shape.alpha,
        "profile": metadata.icc.as_deref().map(|icc| json!({"name": profile_name(icc), "bytes": icc.len()})),
        "dpi": metadata.dpi.map(|(x, y)| [x, y]),
        "orientation": opened.orientation(),
        "exif_bytes": length(&metadata.exif),
        "xmp_bytes": length(&metadata.xmp),
        "photoshop_bytes": length(&metadata.photoshop),
        "texts": texts,
        "notes": notes,
        "settings": settings,
    })
}

fn as_text(name: &str, opened: &Opened, settings: Option<&Map<String, Value>>) -> String {
    let (shape, metadata) = (opened.shape(), opened.metadata());
    let colours = if opened.is_grey() { "grey" } else { "colour" };
    let profile = metadata.icc.as_deref().map_or_else(
        || "none, so sRGB".to_owned(),
        |icc| {
            let name = profile_name(icc).unwrap_or_else(|| "without a name".to_owned());
            format!("{name} ({})", units::bytes(icc.len()))
        },
    );
    let orientation = match opened.orientation() {
        1 => "1, upright".to_owned(),
        other => format!("{other}, turned upright when it is read"),
    };
    let mut blocks: Vec<String> = blocks(metadata)
        .into_iter()
        .map(|(name, length)| format!("{name} ({})", units::bytes(length)))
        .collect();
    let mut keywords: Vec<&str> = metadata.texts.iter().map(|text| text.keyword.as_str()).collect();
    keywords.dedup();
    if !keywords.is_empty() {
        blocks.push(format!(
            "{} ({})",
            units::count(metadata.texts.len(), "text"),
            keywords.join(", ")
        ));
    }
    let rows = [
        ("format", opened.kind().to_string()),
        ("size", format!("{} × {}", shape.width, shape.height)),
        ("depth", format!("{} bits, {colours}", opened.bit_depth())),
        ("alpha", if shape.alpha { "yes" } else { "no" }.to_owned()),
        ("profile", profile),
        (
            "resolution",
            metadata
                .dpi
                .map_or_else(|| "not said".to_owned(), |(x, y)| format!("{x:.0} × {y:.0} dpi")),
        ),
        ("orientation", orientation),
        ("metadata", if blocks.is_empty() { "none".to_owned() } else { blocks.join(", ") }),
    ];
    let mut text = format!("{name}\n");
    let mut row = |key: &str, value: &str| text += &format!("  {key:<20} {value}\n");
    rows.iter().for_each(|(key, value)| row(key, value));
    for note in opened.warnings() {
        row("note", &note.to_string());
    }
    match settings {
        None => row("settings", "none: this program did not make it, or they were removed"),
        Some(settings) => {
            row("settings", "");
            for (key, value) in settings {
                let value =
                    value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"));
                row(&format!("  {key}"), &value);
            }
        }
    }
    text
}
