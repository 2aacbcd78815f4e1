//! Weighted prompts, parted from a region's caption by a line of `---`: read in bounded memory, with weights that are numbers; words
//! that are escaped are read as they are, and a caption behind the prompt keeps all of both.
#![no_main]

use cupscale::model::text::{Piece, Prompt, PromptSyntax, escaped, without_networks};
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let (prompt, caption) = text.split_once("\n---\n").unwrap_or((text, ""));
    let room = MIB + 256 * text.len();
    let read = |text: &str| within(room, || Prompt::parse(PromptSyntax::Weighted, text));
    let text = match within(room, || without_networks(prompt)) {
        Ok((text, loras)) => {
            assert!(loras.iter().all(|lora| lora.scale.is_finite() && !lora.name.is_empty()));
            text
        }
        Err(error) => {
            told(error);
            return Corpus::Keep;
        }
    };
    let prompt = match read(&text) {
        Ok(prompt) => prompt,
        Err(error) => {
            told(error);
            return Corpus::Keep;
        }
    };
    for piece in prompt.pieces() {
        let Piece::Text(text, weight) = piece else { continue };
        assert!(!text.is_empty() && weight.is_finite(), "{piece:?}");
    }
    let words = prompt.words();
    assert!(words.len() <= text.len());
    let joined = within(room, || prompt.of_caption(&format!("{words}{caption}")));
    assert_eq!(joined.words(), format!("{words}{caption}"));
    // What it says by itself has no weight, and reads the same: but for tags, which no sign takes back.
    if let Ok(plain) = read(&escaped(caption)) {
        let has_break = plain.pieces().contains(&Piece::Break);
        assert!(has_break || plain.words() == caption.trim(), "{caption:?}");
    }
    Corpus::Keep
});
