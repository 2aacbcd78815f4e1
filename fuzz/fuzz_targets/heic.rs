//! Pictures in the format HEIC.
#![no_main]

use cupscale::image::InputKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| -> libfuzzer_sys::Corpus {
    cupscale_fuzz::picture(&[InputKind::Heic], file)
});
