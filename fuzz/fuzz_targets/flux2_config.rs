//! `config.json` of FLUX.2's transformers.
#![no_main]

use cupscale::model::denoiser::flux2::Flux2Config;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    // What is believed has sizes that can be multiplied.
    config(file, Flux2Config::from_value, |config| {
        assert!(config.width() > 0 && config.inner > 0 && config.time_features % 2 == 0);
        assert_eq!(config.axes_dims.iter().sum::<usize>(), config.head_width);
    });
});
