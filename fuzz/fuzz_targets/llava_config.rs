//! `config.json` of LLaVA models, with `generation_config.json` behind a line of `---`.
#![no_main]

use cupscale::model::llava::LlavaConfig;
use cupscale_fuzz::{config, json};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|file: &[u8]| {
    let at = file.windows(5).position(|window| window == b"\n---\n");
    let (file, generation) = at.map_or((file, &b""[..]), |at| (&file[..at], &file[at + 5..]));
    let generation = json(generation).unwrap_or(Value::Null);
    config(file, |value| LlavaConfig::from_json(value, &generation), |_| ());
});
