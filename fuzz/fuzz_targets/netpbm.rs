//! Pictures in netpbm's formats.
#![no_main]

use cupscale::image::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| -> libfuzzer_sys::Corpus {
    let format = if file.starts_with(b"P7") { Format::Pam } else { Format::Ppm };
    cupscale_fuzz::picture(format, file)
});
