//! `config.json` of Z-Image's transformers.
#![no_main]

use cupscale::model::denoiser::z_image::ZImageConfig;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    // What is believed has sizes that can be multiplied.
    config(file, ZImageConfig::from_value, |config| {
        assert!(config.dim > 0 && config.largest() >= 2);
        assert_eq!(config.axes_dims.iter().sum::<usize>() * config.heads, config.dim);
    });
});
