//! Shares of many pictures, for engines that run one process for each: which pictures are in a share, and what each share
//! records of them for `status`.

mod choice;
mod line;
mod record;
mod share;
mod summary;

pub use choice::ShardChoice;
pub use line::State;
pub use record::{Entry, List, Record};
pub use share::{PictureName, Share};
pub use summary::{OfShare, Summary};
