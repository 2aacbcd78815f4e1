//! Work that is under way, on the disk: what lets a job that was killed go on where it was.

pub mod folder;
pub mod journal;
