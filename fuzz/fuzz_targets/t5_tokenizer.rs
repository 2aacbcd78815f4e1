//! Files of T5's tokenizer, parted by lines of `---`: tokenizer_config.json, then tokenizer.json or spiece.model, as its
//! first byte says; the last part is a text.
#![no_main]

use cupscale::model::text::{TextTokenizer, TokenizerFiles, t5::json_of_spiece};
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::{Corpus, fuzz_target};

const BREAK: &[u8] = b"\n---\n";

fn split(bytes: &[u8], at: Option<usize>) -> Option<(&[u8], &[u8])> {
    let at = at?;
    Some((&bytes[..at], &bytes[at + BREAK.len()..]))
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let first = bytes.windows(BREAK.len()).position(|window| window == BREAK);
    let Some((config, rest)) = split(bytes, first) else { return Corpus::Reject };
    let last = rest.windows(BREAK.len()).rposition(|window| window == BREAK);
    let Some((vocabulary, text)) = split(rest, last) else { return Corpus::Reject };
    let Ok(last) = std::str::from_utf8(text) else { return Corpus::Reject };
    let config = (!config.is_empty()).then_some(config);
    let is_json = vocabulary.first() == Some(&b'{');
    let files = TokenizerFiles {
        tokenizer_config_json: config,
        tokenizer_json: Some(vocabulary).filter(|_| is_json),
        spiece_model: Some(vocabulary).filter(|_| !is_json),
        ..TokenizerFiles::default()
    };
    let most = 8 * MIB + 1024 * bytes.len();
    let tokenizer = match within(most, || TextTokenizer::from_files(&files)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            told(error);
            return Corpus::Keep;
        }
    };
    let tokenizer = tokenizer.with_length(40);
    if matches!(tokenizer, TextTokenizer::Clip(_)) {
        return Corpus::Reject;
    }
    // A model of SentencePiece is the same vocabulary as the JSON that it becomes in a converted model.
    let json = (!is_json).then(|| json_of_spiece(vocabulary, config).unwrap().to_string());
    let converted = json.map(|json| {
        let files = TokenizerFiles {
            tokenizer_config_json: config,
            tokenizer_json: Some(json.as_bytes()),
            ..TokenizerFiles::default()
        };
        TextTokenizer::from_files(&files).unwrap().with_length(40)
    });
    for text in ["", "an old harbour, 12 boats!", "</s> e\u{301}\u{ad} \u{1F3F3}\u{FE0F}", last] {
        let Ok(tokens) = within(4 * MIB + 1024 * bytes.len(), || tokenizer.encode(text)) else {
            continue;
        };
        assert_eq!(tokens.ids.len(), 40);
        assert!((1..=40).contains(&tokens.count));
        assert!(tokens.ids.iter().all(|&id| id <= tokenizer.largest_id()));
        if let Some(converted) = &converted {
            assert_eq!(converted.encode(text).ok().as_ref(), Some(&tokens));
        }
        if let Ok(Some(cut)) = tokenizer.cut(text) {
            assert!(cut.tokens > cut.limit && text.is_char_boundary(cut.at), "{cut:?} of {text:?}");
        }
    }
    Corpus::Keep
});
