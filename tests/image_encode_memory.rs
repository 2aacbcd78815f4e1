//! What the encoders hold does not grow with the picture. A program of its own, because the measure is the
//! process's peak.
#![cfg(target_os = "linux")]

use cupscale::image::{EncodeOptions, Encoder, Format, Output};

const WIDTH: u32 = 4096;
/// A hundred megabytes of samples.
const HEIGHT: u32 = 8192;
const BAND: u32 = 16;
/// Bands, buffers and an encoder's own state.
const ALLOWED_KIB: u64 = 16 << 10;

/// The most memory that the process has had resident so far, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_encoder_holds_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    // Gradients with some grain, neither flat nor noise; other bands are the same, shifted.
    let pixels = (0..WIDTH * BAND).flat_map(|i| {
        let (x, y) = (i % WIDTH, i / WIDTH);
        let grain = ((x * 7919 + y * 104_729) % 37) as f32 / 370.0;
        [0.8 * x as f32 / WIDTH as f32 + grain, 0.5 + grain, 0.3 + 0.01 * y as f32]
    });
    let mut band: Vec<f32> = pixels.collect();
    for format in Format::ALL {
        let start = peak_kib();
        let path = folder.path().join(format.extension());
        let options = EncodeOptions::default();
        let mut writer =
            Encoder::create(&Output::Path(path.clone()), format, WIDTH, HEIGHT, options).unwrap();
        for _ in (0..HEIGHT).step_by(BAND as usize) {
            writer.write_rows(&band, None).unwrap();
            band.rotate_right(3 * 17);
        }
        writer.finish().unwrap();
        let (end, bytes) = (peak_kib(), std::fs::metadata(&path).unwrap().len());
        println!("{format}: {bytes} bytes, peak {start} KiB before, {end} KiB after");
        std::fs::remove_file(path).unwrap();
        assert!(end - start < ALLOWED_KIB, "{format}: {start} KiB before, {end} KiB after");
    }
}
