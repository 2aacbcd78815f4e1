//! Keywords of how a picture's file is read.

use cupscale::image::ReadOptions;
use pyo3::prelude::*;

use crate::{
    keywords::{Fault, Keywords, bytes, integer},
    values::{self, Page},
};

/// How a picture is read.
///
/// # Errors
/// A value of another type, or out of its range.
pub fn read_options(keywords: &Keywords<'_>) -> PyResult<ReadOptions> {
    let mut options = ReadOptions::default();
    options.allow_truncated = keywords.flag("allow_truncated")?;
    let page = keywords.get("page", |value| match integer(value, 1..=u32::MAX.into()) {
        Ok(number) => values::page(&number.to_string()).map_err(Fault::Value),
        Err(fault) => Err(fault),
    })?;
    if let Some(Page::Number(number)) = page {
        options.picture = Some(number);
    }
    if let Some(limit) = keywords.get("max_metadata", |value| bytes(value, values::bytes))? {
        options.max_metadata = limit as u64;
    }
    Ok(options)
}
