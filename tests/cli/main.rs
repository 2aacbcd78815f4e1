//! The program as people and scripts meet it, each test a run of it or several; and models by name, pulled
//! from a hub on the loopback.

#[path = "../common/mod.rs"]
mod common;

mod devices;
mod doctor;
mod folder;
mod integrate;
#[cfg(unix)]
mod limits;
mod llava;
mod mistralrs;
mod models;
mod models_folder;
mod program;
mod pull;
mod quantize;
mod readme;
mod repaint;
