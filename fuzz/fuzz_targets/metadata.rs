//! Metadata of picture files of every format: bounded by the limit that was asked for, and the same every time.
#![no_main]

use std::sync::LazyLock;

use cupscale::{fuzzing, image};
use cupscale_fuzz::{MIB, Scratch, within};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Bytes of all blocks together.
const LIMIT: u64 = 32 << 10;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("picture"));

fuzz_target!(|file: &[u8]| -> Corpus {
    let Ok(kind) = image::kind_of("fuzz", file) else { return Corpus::Reject };
    let most = MIB + 4 * LIMIT as usize + 8 * file.len();
    for page in 0..2 {
        let read = || within(most, || fuzzing::metadata(kind, file, page, LIMIT));
        let Some((metadata, warnings)) = read() else { continue };
        assert_eq!(read(), Some((metadata.clone(), warnings)));
        let blocks = [&metadata.icc, &metadata.exif, &metadata.xmp, &metadata.photoshop]
            .map(|block| block.as_ref().map_or(0, Vec::len));
        let texts = metadata.texts.iter().map(|text| {
            text.keyword.len() + text.text.len() + text.language.len() + text.translated.len()
        });
        let chunks = metadata.colour_chunks.iter().map(|chunk| chunk.data.len());
        let all = blocks.into_iter().chain(texts).chain(chunks).sum::<usize>();
        // Texts become UTF-8: at most twice their bytes.
        assert!(all <= 2 * LIMIT as usize + 4096, "{all} bytes of metadata");
        if let Some((x, y)) = metadata.dpi {
            assert!(x.is_finite() && y.is_finite() && x > 0.0 && y > 0.0);
        }
    }
    // The settings are read without the pixels.
    let path = FILE.write(file);
    let settings = within(most + 64 * MIB, || image::read_settings(path));
    assert_eq!(settings.expect("a file"), image::read_settings(path).expect("a file"));
    Corpus::Keep
});
