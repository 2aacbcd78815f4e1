//! Captions files: what is accepted fills its grid, and is written as a file that is read as the same.
#![no_main]

use cupscale::caption::document::Document;
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    match within(MIB + 64 * text.len(), || Document::parse(text, "captions.json")) {
        Ok(document) => {
            let grid = document.grid();
            assert_eq!(
                document.regions().len() as u64,
                u64::from(grid.rows) * u64::from(grid.cols)
            );
            let written = document.to_json();
            let read =
                Document::parse(&written, "captions.json").expect("what was read can be written");
            assert_eq!(read, document);
            assert_eq!(read.to_json(), written);
        }
        Err(error) => told(error),
    }
    Corpus::Keep
});
