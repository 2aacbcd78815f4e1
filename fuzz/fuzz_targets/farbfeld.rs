//! Pictures in the format farbfeld.
#![no_main]

use cupscale::image::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| -> libfuzzer_sys::Corpus {
    cupscale_fuzz::picture(&[Format::Farbfeld.into()], file)
});
