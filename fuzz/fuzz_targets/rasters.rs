//! Pictures in the simple formats: BMP, TGA, QOI, ICO, DDS, GIF and Radiance HDR.
#![no_main]

use cupscale::image::InputKind;
use libfuzzer_sys::fuzz_target;

const KINDS: [InputKind; 7] = [
    InputKind::Bmp,
    InputKind::Tga,
    InputKind::Qoi,
    InputKind::Ico,
    InputKind::Dds,
    InputKind::Gif,
    InputKind::Radiance,
];

fuzz_target!(|file: &[u8]| -> libfuzzer_sys::Corpus { cupscale_fuzz::picture(&KINDS, file) });
