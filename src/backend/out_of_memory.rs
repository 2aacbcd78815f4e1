//! Detection of exhausted memory among a backend's errors: with less at a time the work may still fit.

use std::error::Error as StdError;

use candle_core::Error;

/// `true` if the error itself says that the device's memory is used up. Its context, such as a file's
/// name, is not looked at.
#[must_use]
pub fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::Context { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::WithBacktrace { inner, .. } => is_out_of_memory(inner),
        Error::WrappedContext { wrapped, .. } => is_so(wrapped.as_ref()),
        Error::Cuda(cause) => is_so(cause.as_ref()),
        Error::Wrapped(cause) => says_so(&cause.to_string()),
        Error::Metal(_) | Error::Msg(_) => says_so(&error.to_string()),
        _ => false,
    }
}

/// The same of an error of any kind, and of those that it came from.
fn is_so(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<Error>() {
        return is_out_of_memory(error);
    }
    // A driver's error is of a type that only builds for its device have; what it prints is its code.
    error.source().map_or_else(|| says_so(&format!("{error} {error:?}")), is_so)
}

/// `true` for an out-of-memory message of CUDA's driver, of cuBLAS (which allocates its workspaces
/// itself), or of Metal (which makes no buffer).
fn says_so(message: &str) -> bool {
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "FailedToCreateResource"]
        .into_iter()
        .chain(["out of memory", "Failed to create metal resource: Buffer"])
        .any(|sign| message.contains(sign))
}

/// First line of candle's message: it appends a backtrace where the environment asks for one.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Error that prints as cudarc's driver error does.
    #[derive(Debug, thiserror::Error)]
    #[error("DriverError({0}, \"a text\")")]
    struct Driver(&'static str);

    /// An error that another one is the cause of.
    #[derive(Debug, thiserror::Error)]
    #[error("a kernel was not launched")]
    struct Launch(#[source] Error);

    #[test]
    fn exhausted_memory_is_found_below_contexts_and_causes() {
        let driver = |code| Error::Cuda(Box::new(Driver(code)));
        let exhausted = || driver("CUDA_ERROR_OUT_OF_MEMORY");
        let metal = "Failed to create metal resource: Buffer";
        for error in [
            exhausted(),
            exhausted().context("in a layer").with_path("model.safetensors"),
            Error::WithBacktrace {
                inner: Box::new(exhausted()),
                backtrace: Box::new(std::backtrace::Backtrace::force_capture()),
            },
            Error::wrap(Driver("CUBLAS_STATUS_ALLOC_FAILED")),
            Error::Cuda(Box::new(Launch(exhausted()))),
            Error::Msg(metal.to_owned()),
        ] {
            assert!(is_out_of_memory(&error), "{error}");
        }
        let other = driver("CUDA_ERROR_INVALID_VALUE");
        assert!(!is_out_of_memory(&other));
        assert!(!is_out_of_memory(&other.context("out of memory").with_path("out of memory")));
        assert!(!is_out_of_memory(&Error::UnwrapNone));
    }
}
