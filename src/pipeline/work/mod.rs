//! State of a running job on disk, from which a killed job resumes.

mod difference;
pub mod files;
pub mod folder;
mod history;
pub mod journal;
pub mod lock;
pub mod maps;
mod place;
mod room;
pub mod rows;
