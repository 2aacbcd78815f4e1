//! `config.json` of Stable Diffusion 3's transformers.
#![no_main]

use cupscale::model::denoiser::sd3::Sd3Config;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    // What is believed has sizes that can be multiplied.
    config(file, Sd3Config::from_value, |config| {
        assert!(config.width() > 0 && config.largest() >= config.patch_size);
    });
});
