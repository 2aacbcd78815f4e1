//! `config.json` of CLIP's and of T5's text encoders.
#![no_main]

use cupscale::model::text::{clip::ClipTextConfig, t5::T5Config};
use cupscale_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    config(file, ClipTextConfig::from_json, |config| {
        assert!(config.hidden_size.is_multiple_of(config.num_attention_heads));
    });
    for class in ["T5EncoderModel", "UMT5EncoderModel"] {
        let read = |config: &_| T5Config::from_json(class, config);
        config(file, read, |config| {
            assert!(config.num_layers > 0 && config.num_heads > 0 && config.d_kv > 0);
            assert!(config.relative_attention_num_buckets.is_multiple_of(4));
        });
    }
});
