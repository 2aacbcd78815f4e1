//! Pictures in the format JPEG XL.
#![no_main]

use cupscale::image::InputKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| -> libfuzzer_sys::Corpus {
    cupscale_fuzz::picture(&[InputKind::JpegXl], file)
});
