//! Models by name: the known ones, the installed ones and their places, and what a name stands for.
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
use known::Registry;
pub use list::{Listed, State, list};
pub use pull::{PullReport, pull};
pub use remove::{RemoveReport, remove};
pub use resolve::{ResolvedModel, resolve, resolve_kind};
pub use store::Store;
pub use verify::{BadFile, Fault, VerifyReport, verify};
