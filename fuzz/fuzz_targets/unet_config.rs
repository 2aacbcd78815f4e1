//! `config.json` of UNets.
#![no_main]

use cupscale::model::denoiser::unet::UNetConfig;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    config(file, UNetConfig::from_value, |_| ());
    if let Ok(text) = std::str::from_utf8(file) {
        let _ = UNetConfig::from_json(text);
    }
});
