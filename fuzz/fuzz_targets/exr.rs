//! Pictures in the format OpenEXR.
#![no_main]

use cupscale::image::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| -> libfuzzer_sys::Corpus { cupscale_fuzz::picture(&[Format::Exr.into()], file) });
