//! `config.json` of autoencoders.
#![no_main]

use cupscale::model::vae::VaeConfig;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| config(file, VaeConfig::from_json, |_| ()));
