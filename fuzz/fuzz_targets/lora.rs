//! LoRA files: the first line is peft's configuration as diffusers keeps it in the file, every other line a tensor's key,
//! with a shape after a space where it is another one than the key suggests. What is accepted is applied, too.
#![no_main]

use std::sync::LazyLock;

use cupscale::fuzzing::weights::lora;
use cupscale_fuzz::{MIB, Scratch, told, within};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::json;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("lora.safetensors"));

/// Shape that a key's last piece has in a module of eight rows and columns.
fn usual_shape(key: &str) -> Vec<usize> {
    let has = |parts: &[&str]| parts.iter().any(|part| key.contains(part));
    let inputs = if has(&["attn2.to_k", "te"]) { 6 } else { 8 };
    match () {
        () if key.ends_with("alpha") || has(&["scalar", "on_input"]) => vec![],
        () if has(&["magnitude", "_norm", "diff_b"]) => vec![8],
        () if has(&["dora_scale", "rescale"]) => vec![8, 1],
        () if has(&["oft_blocks"]) => vec![2, 4, 4],
        () if has(&["oft_R"]) => vec![inputs / 2, 1],
        () if has(&["mid"]) => vec![2, 2, 1, 1],
        () if has(&["hada_t", "lokr_t"]) => vec![2, 2, 3, 3],
        () if has(&["down.", "_down", "lora_A", "w1_b", "w2_b", ".a2", ".b2"]) => vec![2, inputs],
        () if has(&["lokr_w1"]) => vec![2, 2],
        () if has(&["lokr_w2"]) => vec![4, inputs / 2],
        () if has(&[".diff"]) => vec![8, inputs],
        () => vec![8, 2],
    }
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let mut lines = text.lines();
    let config = lines.next().unwrap_or_default();
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for key in lines.take(32) {
        let (key, shape) = match key.split_once(' ') {
            Some((key, sizes)) => {
                let sizes = sizes.split('x').map(|size| size.parse().map(|size: u8| size.into()));
                let Ok(shape) = sizes.collect::<Result<Vec<usize>, _>>() else {
                    return Corpus::Reject;
                };
                (key, shape)
            }
            None => (key, usual_shape(key)),
        };
        let Some(count) = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size)) else {
            return Corpus::Reject;
        };
        if count > 1 << 16 {
            return Corpus::Reject;
        }
        let end = at + 4 * count;
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
    let first = within(4 * MIB + 256 * bytes.len() + 8 * at, || lora(path));
    assert_eq!(first, lora(path));
    match first {
        Ok(notes) => notes.iter().for_each(told),
        Err(error) => told(error),
    }
    Corpus::Keep
});
