//! What makes a job that job: everything that decides the bytes of its output. Work that was left
//! unfinished is taken up only by the very same one.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    image::{Format, Picture},
    units,
};

use super::{Engine, Plan, Settings};

/// Describes a job: the `record` of its settings and, as digests, what is too long to be written down;
/// `captions` is what they follow from beside that.
/// Batch size and threads are not in it, for the output does not depend on them; the VAE's tiles are,
/// because the canvas is encoded and decoded by them.
pub(super) fn identity(
    engine: &Engine,
    picture: &Picture,
    format: Format,
    settings: &Settings,
    plan: &Plan,
    record: &Value,
    captions: &str,
) -> Value {
    let mut job = record.clone();
    let mut entry = |key: &str, value: Value| job[key] = value;
    entry("input", digest(|hash| picture.hash_into(hash)).into());
    entry("captions", digest(|hash| hash.update(captions)).into());
    entry("weights", engine.fingerprint().into());
    entry("device", engine.device_name().into());
    entry("format", format.extension().into());
    if format == Format::Jpeg {
        entry("quality", settings.jpeg_quality.into());
    }
    entry("vae_tiles", serde_json::json!([plan.tile_columns.len(), plan.tile_rows.len()]));
    job
}

fn digest(feed: impl FnOnce(&mut Sha256)) -> String {
    let mut hash = Sha256::new();
    feed(&mut hash);
    units::hex(&hash.finalize())
}
