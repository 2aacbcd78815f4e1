//! The VAE in tiles against the VAE on the whole canvas, through the whole program, with an autoencoder
//! that has learned to show pictures (`tests/make_fixtures/make_trained_vae_fixture.py`), whose norms and attention look
//! at everything they are given. The UNet is the small random one, which hardly repaints in the last of a
//! thousand steps.

use std::path::Path;

use image::{GenericImageView as _, RgbImage, imageops::FilterType};

use crate::common::{Shell, fixture, stderr};

/// A cut of a photo.
fn photo(width: u32, height: u32) -> RgbImage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/dogs.jpg");
    let photo = image::open(path).unwrap();
    let (full, _) = photo.dimensions();
    photo
        .crop_imm(0, 0, full, full * height / width)
        .resize_exact(width, height, FilterType::Triangle)
        .to_rgb8()
}

/// A clear sky: what shows steps of tone most.
fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        image::Rgb(
            [60.0 + 90.0 * x, 110.0 + 60.0 * y, 230.0 - 50.0 * x - 40.0 * y].map(|v| v as u8),
        )
    })
}

/// The picture after encoding and decoding in tiles of this side.
fn through_tiles(shell: &Shell, tile: u32, options: &str) -> RgbImage {
    let mut command = shell.command(&format!(
        "in.png -o {tile}.png --scale 1 --steps 1000 --denoise-steps 1 --rap 0 \
         --captioner none -q --tile {tile} {options}"
    ));
    command.arg("--model").arg(fixture("img2img/model"));
    command.arg("--vae").arg(fixture("vae_trained"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    image::open(shell.path(&format!("{tile}.png"))).unwrap().to_rgb8()
}

/// A light and a dark half: what the norms of one tile and of another differ in most.
fn step(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| image::Rgb([if x < width / 2 { 40 } else { 220 }; 3]))
}

/// Bright points on a dark ground: rare values that make up most of a variance.
fn points(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let near = |at: u32, middle: u32| at.abs_diff(middle) < 14;
        let lit = near(x, width / 5) && near(y, height / 3)
            || near(x, width - 90) && near(y, height - 60);
        image::Rgb(if lit { [250, 240, 60] } else { [20, 40 + (x / 8 % 20) as u8, 30] })
    })
}

#[test]
fn tiles_of_an_autoencoder_with_norms_and_attention_equal_the_whole() {
    // Another order of sums, and where kernels round otherwise, can move a value across the border between two levels.
    for (name, picture) in [
        ("gradient", gradient(512, 384)),
        ("photo", photo(512, 384)),
        ("step", step(512, 384)),
        ("points", points(1024, 768)),
    ] {
        let shell = Shell::new();
        picture.save(shell.path("in.png")).unwrap();
        let whole = through_tiles(&shell, 4096, "");
        for tile in [256, 128] {
            let tiled = through_tiles(&shell, tile, "");
            let pairs = whole.as_raw().iter().zip(tiled.as_raw());
            let far = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            println!("{name}, tiles of {tile} px: {far}/255 at most");
            assert!(far <= 1, "{name}, tiles of {tile} px: {far}/255");
        }
    }
}
