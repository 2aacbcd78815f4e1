//! Keywords of what a job may take of the machine: its own, or an engine's for all of its jobs.

use cupscale::pipeline::Settings;
use pyo3::prelude::*;

use crate::{
    keywords::{Keywords, bytes, integer},
    values,
};

/// Reads them into settings.
///
/// # Errors
/// A value of another type, or out of its range.
pub fn machine(keywords: &Keywords<'_>, settings: &mut Settings) -> PyResult<()> {
    let whole = |name, range| {
        let value = keywords.get(name, |value| integer(value, range))?;
        PyResult::Ok(value.map(|value| value as usize))
    };
    settings.batch = whole("batch", 1..=1024)?;
    settings.tile = whole("tile", 32..=16384)?;
    settings.vae_disk = keywords.get("vae_disk", |value| bytes(value, values::bytes_or_none))?;
    settings.max_memory = keywords.get("max_memory", |value| bytes(value, values::bytes))?;
    Ok(())
}
