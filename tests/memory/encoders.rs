//! The memory of the image encoders does not grow with the picture. A separate process, because the measured value is
//! the process's peak.
use std::env;

use cupscale::image::{EncodeOptions, Encoder, Format, Output};

use crate::{
    common::{only, stderr},
    peak_kib,
};

const WIDTH: u32 = 4096;
/// Fifty megabytes of samples.
const HEIGHT: u32 = 4096;
const BAND: u32 = 16;
/// Bands, buffers and an encoder's own state.
const ALLOWED_KIB: u64 = 16 << 10;

/// Set in the process that is measured.
const ALONE: &str = "CUPSCALE_TEST_ALONE";

#[test]
fn no_encoder_holds_the_picture() {
    if env::var_os(ALONE).is_some() {
        return encode_in_every_format();
    }
    let mut alone = only(module_path!(), "no_encoder_holds_the_picture");
    let output = alone.env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{}", stderr(&output));
}

fn encode_in_every_format() {
    let own_peak = || peak_kib("self").unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Gradients with some grain, neither flat nor noise; other bands are the same, shifted.
    let pixels = (0..WIDTH * BAND).flat_map(|i| {
        let (x, y) = (i % WIDTH, i / WIDTH);
        let grain = ((x * 7919 + y * 104_729) % 37) as f32 / 370.0;
        [0.8 * x as f32 / WIDTH as f32 + grain, 0.5 + grain, 0.3 + 0.01 * y as f32]
    });
    let mut band: Vec<f32> = pixels.collect();
    for format in Format::ALL {
        let start = own_peak();
        let path = folder.path().join(format.extension());
        let options = EncodeOptions::default();
        let mut writer =
            Encoder::create(&Output::Path(path.clone()), format, WIDTH, HEIGHT, options).unwrap();
        for _ in (0..HEIGHT).step_by(BAND as usize) {
            writer.write_rows(&band, None).unwrap();
            band.rotate_right(3 * 17);
        }
        writer.finish().unwrap();
        let (end, bytes) = (own_peak(), std::fs::metadata(&path).unwrap().len());
        println!("{format}: {bytes} bytes, peak {start} KiB before, {end} KiB after");
        std::fs::remove_file(path).unwrap();
        assert!(end - start < ALLOWED_KIB, "{format}: {start} KiB before, {end} KiB after");
    }
}
