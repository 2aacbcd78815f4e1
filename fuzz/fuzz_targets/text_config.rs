//! `config.json` of CLIP's text encoders.
#![no_main]

use cupscale::model::text::clip::ClipTextConfig;
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| config(file, ClipTextConfig::from_json, |config| {
    assert!(config.hidden_size.is_multiple_of(config.num_attention_heads));
}));
