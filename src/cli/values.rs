//! Parsers of option values: numbers, sizes, byte counts, and files with a scale.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf};

use cupscale::{backend::MatmulPrecision, pipeline::ControlUse, weights::LoraScale};

/// A LoRA file and its scale.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg {
    pub path: PathBuf,
    pub scale: LoraScale,
}

impl LoraArg {
    /// True if a prompt means it by this name: that under which it is installed, or its file's.
    pub fn is_named(&self, name: &str) -> bool {
        self.path.as_os_str() == name || self.path.file_stem().is_some_and(|stem| stem == name)
    }
}

impl From<LoraArg> for (OsString, LoraScale) {
    fn from(LoraArg { path, scale }: LoraArg) -> Self {
        (path.into_os_string(), scale)
    }
}

/// A file of an embedding, or a folder, and the name that prompts have for it.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingArg {
    pub path: PathBuf,
    pub name: Option<String>,
}

impl From<EmbeddingArg> for (PathBuf, Option<String>) {
    fn from(EmbeddingArg { path, name }: EmbeddingArg) -> Self {
        (path, name)
    }
}

/// A ControlNet, its scale, and the share of the steps in which it works.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlArg {
    pub name: OsString,
    pub scale: f64,
    pub start: f64,
    pub end: f64,
}

/// Pages that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Number(NonZeroUsize),
    All,
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| "not a number".into())
}

fn within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value = number(text)?;
    if (low..=high).contains(&value) { Ok(value) } else { Err(format!("not in {low}..{high}")) }
}

pub fn positive(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if value > 0.0 { Ok(value) } else { Err("not above 0".into()) }
}

pub fn share(text: &str) -> Result<f64, String> {
    let value = within(text, 0.0, 1.0)?;
    if value > 0.0 { Ok(value) } else { Err("not above 0".into()) }
}

pub fn weight(text: &str) -> Result<f64, String> {
    within(text, 0.0, 1.0)
}

pub fn overlap(text: &str) -> Result<f64, String> {
    within(text, 0.0, 0.9)
}

pub fn sharpen(text: &str) -> Result<f64, String> {
    within(text, 0.0, 2.0)
}

pub fn grain(text: &str) -> Result<f64, String> {
    within(text, 0.0, 20.0)
}

pub fn temperature(text: &str) -> Result<f64, String> {
    within(text, 0.0, 2.0)
}

pub fn guidance(text: &str) -> Result<f64, String> {
    within(text, 0.0, 100.0)
}

/// Bits of a sample: 8, 16, or 32 for a float.
pub fn bit_depth(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "16" => Ok(16),
        "32" => Ok(32),
        _ => Err("8, 16 or 32".to_owned()),
    }
}

pub fn size(text: &str) -> Result<(u32, u32), String> {
    text.split_once(['x', 'X', '×'])
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
        .filter(|&(width, height): &(u32, u32)| width > 0 && height > 0)
        .ok_or_else(|| "a size is WIDTHxHEIGHT, as in 3840x2160".into())
}

/// Number of a page, or all of them.
pub fn page(text: &str) -> Result<Page, String> {
    match text {
        "all" => Ok(Page::All),
        _ => text.parse().map(Page::Number).map_err(|_| "a number from 1, or `all`".to_owned()),
    }
}

/// Lower limit of a byte count; a smaller number is taken for a forgotten unit.
const BYTES_LEAST: usize = 1 << 20;

/// Byte count with an optional binary unit: `8GiB`, `8G` and `8gb` are all 8·2³⁰ bytes.
pub fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || "a size is a number and KiB, MiB, GiB or TiB, as in 8GiB, or bytes".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * f64::from(power).exp2();
    if bytes >= usize::MAX as f64 {
        return Err("more than there can be".to_owned());
    }
    match bytes as usize {
        bytes if bytes < BYTES_LEAST => Err("less than 1 MiB: is the unit missing?".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Byte count as [`bytes`] reads it, or 0 for none.
pub fn bytes_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text).map(|bytes| bytes as u64) }
}

/// Matmul precision; `auto` selects the fastest one with hardware support on this processor.
pub fn products(text: &str) -> Result<MatmulPrecision, String> {
    match text {
        "f32" => Ok(MatmulPrecision::F32),
        "bf16" => Ok(MatmulPrecision::Bf16),
        "auto" if MatmulPrecision::Bf16.is_available() => Ok(MatmulPrecision::Bf16),
        "auto" => Ok(MatmulPrecision::F32),
        _ => Err("f32, bf16 or auto".to_owned()),
    }
}

/// LoRA file with an optional scale, and optional weights of blocks after it. Only a number after the last colon is a
/// scale, and only numbers with commas between them are weights: `C:\lora.safetensors` is a path.
pub fn lora(text: OsString) -> Result<LoraArg, String> {
    let Some(whole) = text.to_str() else {
        return Ok(LoraArg { path: text.into(), scale: LoraScale::from(1.0) });
    };
    let (rest, blocks) = match whole.rsplit_once(':') {
        Some((rest, list)) if list.contains(',') => match numbers(list) {
            Some(blocks) => (rest, blocks),
            None => (whole, Vec::new()),
        },
        _ => (whole, Vec::new()),
    };
    let scaled = rest.rsplit_once(':');
    let (path, scale) = scaled
        .and_then(|(path, end)| Some((path, end.parse::<f64>().ok()?)))
        .unwrap_or((rest, 1.0));
    if path.is_empty() {
        return Err("no file before the scale".to_owned());
    }
    if !scale.is_finite() || blocks.iter().any(|weight| !weight.is_finite()) {
        return Err("the scale is not a number".to_owned());
    }
    Ok(LoraArg { path: path.into(), scale: LoraScale { scale, blocks } })
}

/// Numbers with commas between them, perhaps after the `lbw=` of those who know them from there.
fn numbers(list: &str) -> Option<Vec<f64>> {
    let list = list.strip_prefix("lbw=").unwrap_or(list);
    list.split(',').map(|number| number.trim().parse().ok()).collect()
}

/// An embedding with an optional name. A path that exists is itself, though it may have a sign of equality in it.
pub fn embedding(text: OsString) -> Result<EmbeddingArg, String> {
    let split = text.to_str().filter(|text| !std::path::Path::new(text).exists());
    match split.and_then(|text| text.split_once('=')) {
        None => Ok(EmbeddingArg { path: text.into(), name: None }),
        Some((name, path)) if !name.trim().is_empty() && !path.is_empty() => {
            Ok(EmbeddingArg { path: path.into(), name: Some(name.trim().to_owned()) })
        }
        Some(_) => Err("a name and a file, as in NAME=FILE".to_owned()),
    }
}

/// ControlNet with an optional scale, and behind that an optional range of steps, `NAME:0.6:0-0.8`. As for a LoRA, only
/// numbers after the last colons are meant so.
pub fn control(text: OsString) -> Result<ControlArg, String> {
    let whole = |name: OsString| ControlArg { name, scale: 1.0, start: 0.0, end: 1.0 };
    let Some(text) = text.to_str() else { return Ok(whole(text)) };
    let scaled = |text: &str| {
        let (name, scale) = text.rsplit_once(':')?;
        Some((name.to_owned(), scale.parse::<f64>().ok()?))
    };
    let range = |text: &str| {
        let (start, end) = text.split_once('-')?;
        Some((start.parse::<f64>().ok()?, end.parse::<f64>().ok()?))
    };
    let (mut start, mut end) = (0.0, 1.0);
    let (name, scale) = match (scaled(text), text.rsplit_once(':')) {
        (Some(scaled), _) => scaled,
        (None, Some((before, behind))) => match (scaled(before), range(behind)) {
            (Some(scaled), range) => {
                let within = |&(start, end): &(f64, f64)| 0.0 <= start && start < end && end <= 1.0;
                (start, end) = range.filter(within).ok_or_else(|| {
                    format!("`{behind}`: a range of the steps is START below END within 0 to 1, as 0-0.8")
                })?;
                scaled
            }
            (None, Some(_)) => {
                return Err(format!(
                    "the range {behind} stands behind a scale: {before}:1:{behind}"
                ));
            }
            (None, None) => return Ok(whole(text.into())),
        },
        (None, None) => return Ok(whole(text.into())),
    };
    if name.is_empty() {
        return Err("no name before the scale".to_owned());
    }
    if !(0.0..=ControlUse::MOST_SCALE).contains(&scale) {
        return Err(format!("the scale {scale} is not from 0 to {}", ControlUse::MOST_SCALE));
    }
    Ok(ControlArg { name: name.into(), scale, start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_bytes_may_have_a_unit() {
        for (text, expected) in [
            ("8GiB", 8 << 30),
            ("8G", 8 << 30),
            ("8 gb", 8 << 30),
            ("1.5g", 3 << 29),
            ("512MiB", 512 << 20),
            ("2097152", 2 << 20),
            ("2048k", 2 << 20),
            ("1T", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "8QiB", "-8G", "1e9", "8", "0G", "1.2.3G", "99999999T", "8G iB"] {
            assert!(bytes(text).is_err() && bytes_or_none(text).is_err(), "{text}");
        }
        assert!(bytes("0").is_err());
        assert_eq!((bytes_or_none("0"), bytes_or_none("2M")), (Ok(0), Ok(2 << 20)));
    }
}
