//! CLIP's tokenizer, for forms without one: its merges are inside the program, and the ids of its tokens follow
//! from them (OpenAI's `clip/simple_tokenizer.py`). `models/clip/README.md` says where the list comes from.

use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

use super::part::TokenizerBytes;

static MERGES: &[u8] = include_bytes!("../../models/clip/merges.txt.gz");

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Token that fills up a text encoder's sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenPadding {
    /// `<|endoftext|>`: SD 1.x, and SDXL's first encoder
    EndOfText,
    /// `!`, which is id 0: SD 2.x, and SDXL's second encoder
    Zero,
}

/// Files of the tokenizer as diffusers' folders of these models have them.
pub(super) fn tokenizer(padding: TokenPadding) -> TokenizerBytes {
    let mut merges = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut merges).expect("the embedded list is whole");
    let special = |content: &str| json!({"content": content, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false});
    let pad = match padding {
        TokenPadding::EndOfText => END,
        TokenPadding::Zero => "!",
    };
    let config = json!({
        "bos_token": special(START),
        "eos_token": special(END),
        "unk_token": special(END),
        "pad_token": pad,
        "model_max_length": 77,
    });
    TokenizerBytes {
        vocab_json: Some(vocabulary(&merges).to_string().into_bytes()),
        merges_txt: Some(merges.into_bytes()),
        tokenizer_config_json: Some(config.to_string().into_bytes()),
        place: "CLIP's vocabulary".to_owned(),
        ..TokenizerBytes::default()
    }
}

/// Vocabulary with ids in this order: bytes, bytes at a word's end, merges, the two special tokens.
fn vocabulary(merges: &str) -> Value {
    let bytes = byte_symbols();
    let tokens = bytes
        .iter()
        .map(char::to_string)
        .chain(bytes.iter().map(|byte| format!("{byte}</w>")))
        .chain(merges.lines().skip(1).map(|merge| merge.replacen(' ', "", 1)))
        .chain([START.to_owned(), END.to_owned()]);
    let ids: Map<String, Value> =
        tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    Value::Object(ids)
}

/// Characters that stand for bytes: printable ones for themselves, the first ones after Latin-1 for the rest
/// (`bytes_to_unicode`, which has the same order).
fn byte_symbols() -> Vec<char> {
    let visible = (b'!'..=b'~').chain(0xA1..=0xAC).chain(0xAE..=0xFF).map(char::from);
    let stand_ins = ('\u{100}'..).take(256 - 188);
    visible.chain(stand_ins).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::{TextTokenizer, TokenizerFiles};

    #[test]
    fn odd_texts_get_the_ids_of_transformers_with_either_padding() {
        let fixture =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/single_file/tokens.json");
        let cases: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
        let texts: Vec<String> = serde_json::from_value(cases["texts"].clone()).unwrap();
        for (kind, padding) in [("first", TokenPadding::EndOfText), ("second", TokenPadding::Zero)]
        {
            let expected: Vec<Vec<u32>> =
                serde_json::from_value(cases["ids"][kind].clone()).unwrap();
            let files = tokenizer(padding);
            let tokenizer = TextTokenizer::from_files(&TokenizerFiles {
                vocab_json: files.vocab_json.as_deref(),
                merges_txt: files.merges_txt.as_deref(),
                tokenizer_config_json: files.tokenizer_config_json.as_deref(),
                ..TokenizerFiles::default()
            })
            .unwrap();
            assert_eq!(texts.len(), expected.len());
            for (text, ids) in texts.iter().zip(&expected) {
                assert_eq!(&tokenizer.encode(text).unwrap().ids, ids, "{kind}: {text:?}");
            }
        }
    }

    #[test]
    fn the_vocabulary_has_clips_size_and_its_known_ids() {
        let mut merges = String::new();
        GzDecoder::new(MERGES).read_to_string(&mut merges).unwrap();
        let vocabulary = vocabulary(&merges);
        assert_eq!(vocabulary.as_object().unwrap().len(), 49408);
        for (token, id) in [
            ("!", 0),
            ("!</w>", 256),
            ("a</w>", 320),
            ("the</w>", 518),
            ("of</w>", 539),
            ("photo</w>", 1125),
            ("cat</w>", 2368),
            (START, 49406),
            (END, 49407),
        ] {
            assert_eq!(vocabulary[token], id, "{token}");
        }
    }
}
