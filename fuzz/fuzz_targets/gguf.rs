//! Headers of GGUF files: tensors lie apart within the file and have the sizes of their shapes; a decoder of llama.cpp
//! gives a configuration and a tokenizer, and a Qwen3 its own.
#![no_main]

use std::sync::LazyLock;

use cupscale::fuzzing::weights::{gguf, llama_cpp, qwen3};
use cupscale::model::llava::{LlavaConfig, LlavaTokenizer};
use cupscale::model::text::{TextTokenizer, TokenizerFiles};
use cupscale_fuzz::{MIB, Scratch, told, within};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("decoder.gguf"));

fuzz_target!(|file: &[u8]| {
    let most = MIB + 256 * file.len();
    if let Some(tensors) = within(most, || gguf(file)) {
        assert_eq!(gguf(file).as_ref(), Some(&tensors));
        let mut places: Vec<_> = tensors.iter().map(|(.., range)| range.clone()).collect();
        places.sort_by_key(|range| (range.start, range.end));
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start), "{places:?}");
        assert!(places.iter().all(|range| range.start <= range.end && range.end <= file.len()));
        // Bytes behind the last tensor change nothing.
        let longer = [file, &[0; 7]].concat();
        assert_eq!(gguf(&longer), Some(tensors));
    }
    let path = FILE.write(file);
    if let Some(tokenizer) = within(most, || qwen3(path)) {
        let json = tokenizer.to_string();
        let files = TokenizerFiles {
            tokenizer_json: Some(json.as_bytes()),
            tokenizer_config_json: Some(br#"{"tokenizer_class": "Qwen2Tokenizer"}"#),
            ..TokenizerFiles::default()
        };
        let _ = TextTokenizer::from_files(&files).map_err(told);
    }
    let Some((config, tokenizer)) = within(most, || llama_cpp(path)) else { return };
    if let Err(error) = LlavaConfig::from_json(&config, &Value::Null) {
        told(error);
    }
    let loaded = LlavaTokenizer::from_json(tokenizer.to_string().as_bytes());
    let _ = loaded.map_err(told);
});
