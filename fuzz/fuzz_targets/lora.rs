//! LoRA files: the first line is peft's configuration as diffusers keeps it in the file, every other line a tensor's key.
//! Shapes follow from the keys, so that names are what is tried.
#![no_main]

use std::sync::LazyLock;

use cupscale::fuzzing::weights::lora;
use cupscale_fuzz::{MIB, Scratch, told, within};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::json;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("lora.safetensors"));

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let mut lines = text.lines();
    let config = lines.next().unwrap_or_default();
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for key in lines.take(32) {
        let has = |parts: &[&str]| parts.iter().any(|part| key.contains(part));
        let shape = match () {
            () if key.ends_with("alpha") => vec![],
            () if has(&["mid"]) => vec![2, 2, 1, 1],
            () if has(&["down.", "_down", "lora_A"]) => {
                vec![2, if has(&["attn2.to_k", "te"]) { 6 } else { 8 }]
            }
            () => vec![8, 2],
        };
        let end = at + 4 * shape.iter().product::<usize>();
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        if header.insert(key.to_owned(), tensor).is_none() {
            at = end;
        } else {
            return Corpus::Reject;
        }
    }
    if !config.is_empty() {
        header.insert("__metadata__".to_owned(), json!({"lora_adapter_metadata": config}));
    }
    let header = serde_json::Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let path = FILE.write(&[&length[..], header.as_bytes(), &vec![0x3c; at]].concat());
    let first = within(2 * MIB + 256 * bytes.len(), || lora(path));
    assert_eq!(first, lora(path));
    match first {
        Ok(notes) => notes.iter().for_each(told),
        Err(error) => told(error),
    }
    Corpus::Keep
});
