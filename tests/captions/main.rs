//! Captions of regions: every captioner, their files, and the engines that are processes of their own.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod engines;
mod file;
mod llava;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod worker;
