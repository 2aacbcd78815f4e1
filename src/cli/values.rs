//! The values of options: what was typed, as a number, a size or a file with a scale.

use std::{ffi::OsString, path::PathBuf};

/// A LoRA file and its scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    pub path: PathBuf,
    pub scale: f64,
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

pub fn guidance(text: &str) -> Result<f64, String> {
    within(text, 0.0, 100.0)
}

pub fn size(text: &str) -> Result<(u32, u32), String> {
    text.split_once(['x', 'X', '×'])
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
        .filter(|&(width, height): &(u32, u32)| width > 0 && height > 0)
        .ok_or_else(|| "a size is WIDTHxHEIGHT, as in 3840x2160".into())
}

/// Only a number after the last colon is a scale: `C:\lora.safetensors` is a path.
pub fn lora(text: OsString) -> Result<Lora, String> {
    let split = text.to_str().and_then(|text| text.rsplit_once(':'));
    let Some((path, scale)) = split.and_then(|(path, end)| Some((path, end.parse::<f64>().ok()?)))
    else {
        return Ok(Lora { path: text.into(), scale: 1.0 });
    };
    if path.is_empty() {
        return Err("no file before the scale".to_owned());
    }
    if !scale.is_finite() {
        return Err("the scale is not a number".to_owned());
    }
    Ok(Lora { path: path.into(), scale })
}
