//! Errors of a LLaVA model, as a captioner's.

use crate::caption::CaptionError;
use crate::model::llava::LlavaError;

/// The captioner's name.
pub(super) const NAME: &str = "llava";

/// What keeps the captioner from working, in these words.
pub(super) fn failed(message: &str) -> CaptionError {
    CaptionError::Engine { name: NAME.into(), message: message.to_owned() }
}

pub(super) fn engine(error: LlavaError) -> CaptionError {
    CaptionError::Engine { name: NAME.into(), message: one_line(&error) }
}

/// candle appends a backtrace where the environment asks for one.
pub(super) fn one_line(error: &LlavaError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
