//! Colour profiles: the first byte says of which kind the picture is, and the rest is its profile, in a TIFF of a few
//! pixels.
#![no_main]

use cupscale::image::Format;
use libfuzzer_sys::{Corpus, fuzz_target};

const WIDTH: u32 = 8;
const HEIGHT: u32 = 4;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((kind, profile)) = bytes.split_first() else { return Corpus::Reject };
    // Photometric interpretation, and samples per pixel.
    let (photometric, samples) = [(1, 1), (2, 3), (5, 4)][usize::from(kind % 3)];
    cupscale_fuzz::picture(&[Format::Tiff.into()], &tiff(photometric, samples, profile))
});

/// A picture whose samples go from 0 to 255.
fn tiff(photometric: u32, samples: u32, profile: &[u8]) -> Vec<u8> {
    let count = WIDTH * HEIGHT * samples;
    let entries = 10;
    let pixels = 8 + 2 + 12 * entries + 4;
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    file.extend((entries as u16).to_le_bytes());
    for (tag, kind, number, value) in [
        (256u16, 4u16, 1, WIDTH),
        (257, 4, 1, HEIGHT),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, pixels),
        (277, 3, 1, samples),
        (278, 4, 1, HEIGHT),
        (279, 4, 1, count),
        (34_675, 7, profile.len() as u32, pixels + count),
    ] {
        file.extend([tag, kind].map(u16::to_le_bytes).concat());
        file.extend([number, value].map(u32::to_le_bytes).concat());
    }
    file.extend([0; 4]);
    file.extend((0..count).map(|at| (at * 255 / (count - 1)) as u8));
    file.extend(profile);
    file
}
