//! Files of Qwen's tokenizer, parted by lines of `---`: tokenizer_config.json, then tokenizer.json, or vocab.json and
//! merges.txt; the last part is a text.
#![no_main]

use cupscale::model::text::{TokenizerFiles, qwen3::QwenTokenizer};
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let parts: Vec<&str> = text.split("\n---\n").collect();
    let part =
        |index: usize| parts.get(index).map(|part| part.as_bytes()).filter(|part| !part.is_empty());
    let files = TokenizerFiles {
        tokenizer_config_json: part(0),
        tokenizer_json: part(1).filter(|_| parts.len() < 4),
        vocab_json: part(1).filter(|_| parts.len() >= 4),
        merges_txt: part(2).filter(|_| parts.len() >= 4),
        ..TokenizerFiles::default()
    };
    let tokenizer = match within(4 * MIB + 256 * bytes.len(), || QwenTokenizer::from_files(&files)) {
        Ok(tokenizer) => tokenizer.with_length(24),
        Err(error) => {
            told(error);
            return Corpus::Keep;
        }
    };
    let last = parts.last().copied().unwrap_or_default();
    for text in ["", "an old harbour, 12 boats!", "<|im_end|> é\u{301}\n\n \t\u{1F3F3}\u{FE0F}", last] {
        let Ok(tokens) = within(4 * MIB + 1024 * bytes.len(), || tokenizer.encode(text)) else {
            continue;
        };
        assert_eq!(tokens.ids.len(), tokenizer.length());
        assert!((1..=tokens.ids.len()).contains(&tokens.count));
        assert!(tokens.ids.iter().all(|&id| id <= tokenizer.largest_id()));
        assert_eq!(tokenizer.encode(text).ok(), Some(tokens));
        if let Ok(Some(cut)) = tokenizer.cut(text) {
            assert!(cut.tokens > cut.limit && text.is_char_boundary(cut.at), "{cut:?} of {text:?}");
        }
    }
    Corpus::Keep
});
