//! Work that is under way, on the disk: what lets a job that was killed go on where it was.

mod difference;
pub mod files;
pub mod folder;
mod history;
pub mod journal;
mod lock;
mod place;
mod rows;
