//! Models by name: which ones are known, which are installed and where, and what a name stands for.
//!
//! The models folder (`$CUPSCALE_MODELS`, or the platform's place for data):
//!
//! ```text
//! NAME/manifest.json                 an installed model: what it is and where its files are
//! files/OWNER--REPO/COMMIT/…         what was downloaded, once, for all models that share it
//! registry.json                      additions to the known models (optional)
//! .locks/                            so that two processes do not get in each other's way
//! ```

mod add;
mod check;
mod entry;
mod error;
mod known;
mod list;
mod pull;
mod remove;
mod resolve;
mod store;
mod verify;

pub use add::{OwnWeights, add};
pub use entry::{FileEntry, Kind, Licence, LoraRef, ModelEntry, Role, RunDefaults, Source};
pub use error::ModelError;
pub use known::Registry;
pub use list::{Listed, State, list};
pub use pull::{PullReport, pull};
pub use remove::{RemoveReport, remove};
pub use resolve::{ResolvedModel, resolve};
pub use store::Store;
pub use verify::{BadFile, Fault, VerifyReport, verify};

/// Bytes as people read them: `512 B`, `7.3 GB` (powers of 1000, as disks and hubs count).
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 || unit == "GB" {
            let decimals = usize::from(unit != "B");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1000.0;
    }
    unreachable!("the last unit returns")
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_are_shown_with_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_960, "1.0 MB"),
            (7_273_000_000, "7.3 GB"),
            (5_000_000_000_000, "5000.0 GB"),
        ] {
            assert_eq!(human(bytes), expected);
        }
    }
}
