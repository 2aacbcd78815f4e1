//! `config.json` of ControlNets and of their unions.
#![no_main]

use cupscale::model::denoiser::unet::ControlNetConfig;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    for is_union in [false, true] {
        let read = |value: &_| ControlNetConfig::from_value(value, is_union);
        config(file, read, |config| {
            assert!(config.factor() > 0 && config.unet.mid.is_some());
            assert_eq!(config.union.is_some(), is_union);
            assert!(config.unet.control_shape(config.factor()).skips.len() > 1);
        });
    }
});
