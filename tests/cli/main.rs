//! The program as people and scripts meet it, each test a run of it or several; and models by name, pulled
//! from a hub on the loopback.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "serve")]
mod a1111;
mod control;
mod devices;
mod doctor;
mod edit;
mod first;
mod folder;
mod formats;
mod help;
mod info;
mod integrate;
#[cfg(unix)]
mod limits;
mod llava;
mod mistralrs;
mod models;
mod models_folder;
mod pages;
mod pipe;
mod program;
mod progress;
mod prompt;
mod pull;
mod quantize;
mod raw;
mod readme;
mod repaint;
mod report;
#[cfg(feature = "serve")]
mod serve;
#[cfg(unix)]
mod shares;
mod status;
