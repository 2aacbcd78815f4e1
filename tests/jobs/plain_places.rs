//! Pages, black-and-white photos and tiny pictures through the whole program: what has nothing to add to stays as it is.
//! The model is random, so that everything else is repainted beyond recognition.

use pictures::{Rgb, RgbImage};

use crate::common::{Shell, fixture, stderr};

/// The picture enlarged twice.
fn enlarged(picture: &RgbImage, options: &str) -> RgbImage {
    let shell = Shell::new();
    pictures::save(picture.clone().into(), &shell.path("in.png"));
    let output = shell
        .command(&format!("in.png -o out.png --scale 2 --denoise-steps 1 --rap 0 -q {options}"))
        .arg("--model")
        .arg(fixture("img2img/model"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    pictures::open(shell.path("out.png")).to_rgb8()
}

#[test]
fn paper_stays_white_far_from_the_text_whatever_the_tiles() {
    let page = RgbImage::from_fn(64, 40, |x, y| {
        Rgb([if (4..12).contains(&x) && (4..12).contains(&y) { 20 } else { 255 }; 3])
    });
    let output = enlarged(&page, "");
    for (x, y, pixel) in output.enumerate_pixels() {
        assert!(pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2], "({x}, {y}) {pixel:?}");
        // Text, the resampling filter around it, and the distance that is looked at.
        if x >= 24 + 6 + 16 || y >= 24 + 6 + 16 {
            assert_eq!(pixel.0, [255; 3], "({x}, {y})");
        }
    }
    assert!(output.pixels().any(|pixel| pixel.0[0] < 255));
    assert_eq!(output, enlarged(&page, "--tile 32 --threads 2"));
}

#[test]
fn tiny_pictures_keep_their_mean() {
    for (width, height) in [(1, 1), (2, 3)] {
        let picture = RgbImage::from_fn(width, height, |x, y| {
            Rgb([90 + 40 * x as u8, 140 - 20 * y as u8, 120])
        });
        let output = enlarged(&picture, "");
        let mean = |picture: &RgbImage, channel: usize| {
            let sum: f64 = picture.pixels().map(|pixel| f64::from(pixel.0[channel])).sum();
            sum / f64::from(picture.width() * picture.height())
        };
        for channel in 0..3 {
            let (ours, theirs) = (mean(&output, channel), mean(&picture, channel));
            assert!((ours - theirs).abs() < 1.5, "{width} × {height}: {ours} for {theirs}");
        }
    }
}
