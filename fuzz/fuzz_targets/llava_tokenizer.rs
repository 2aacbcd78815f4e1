//! The `tokenizer.json` of LLaVA's decoders.
#![no_main]

use cupscale::fuzzing::llava_prompt;
use cupscale::model::llava::LlavaTokenizer;
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let tokenizer = match within(4 * MIB + 256 * file.len(), || LlavaTokenizer::from_json(file)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return told(error),
    };
    for text in ["", "Say <image> what <s>is\n there, 12 ü"] {
        let first = within(4 * MIB + 1024 * file.len(), || llava_prompt(&tokenizer, text, 3));
        if let Ok((before, after)) = first {
            assert!(!before.contains(&3) && !after.contains(&3));
            let again = llava_prompt(&tokenizer, text, 3).expect("a prompt that was split before");
            assert_eq!(again, (before, after.clone()));
            let _ = within(4 * MIB + 1024 * file.len(), || tokenizer.decode(&after));
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX]);
});
