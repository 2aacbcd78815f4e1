//! `config.json` of Qwen3's text encoders.
#![no_main]

use cupscale::model::text::qwen3::Qwen3Config;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| config(file, Qwen3Config::from_json, |config| {
    assert!(config.hidden_size() > 0 && config.num_hidden_layers > 1);
}));
