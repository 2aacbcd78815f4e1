//! `config.json` of PixArt's transformers, of both classes.
#![no_main]

use cupscale::model::denoiser::pixart::{PixArtClass, PixArtConfig};
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    for class in [PixArtClass::PixArt, PixArtClass::Transformer2D] {
        config(file, |value| PixArtConfig::from_value(class, value), |_| ());
    }
});
