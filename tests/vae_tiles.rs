//! The VAE in tiles against the VAE on the whole canvas, through the whole program, with an autoencoder
//! that has learned to show pictures (`tests/parity/make_trained_vae_fixture.py`), whose norms and attention look
//! at everything they are given. The UNet is the small random one, which hardly repaints in the last of a
//! thousand steps.

mod common;

use std::path::Path;

use common::Shell;
use image::{GenericImageView as _, RgbImage, imageops::FilterType};

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

/// What becomes of a picture, encoded and decoded in tiles of this side.
fn through_tiles(shell: &Shell, tile: u32) -> RgbImage {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut command = shell.command(&format!(
        "in.png -o {tile}.png --scale 1 --steps 1000 --denoise-steps 1 --rap 0 \
         --captioner none -q --tile {tile}"
    ));
    command.arg("--model").arg(fixtures.join("img2img/model"));
    command.arg("--vae").arg(fixtures.join("vae_trained"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", common::stderr(&output));
    image::open(shell.path(&format!("{tile}.png"))).unwrap().to_rgb8()
}

#[test]
fn tiles_of_an_autoencoder_with_norms_differ_little_from_the_whole() {
    // With statistics of their own, tiles of the gradient differ by 12 and 13; what is left on the photo is
    // the attention's, which sees a tile. Where kernels round otherwise a level more is possible.
    for (name, picture, bounds) in [
        ("gradient", gradient(512, 384), [(256, 2), (128, 2)]),
        ("photo", photo(512, 384), [(256, 3), (128, 4)]),
    ] {
        let shell = Shell::new();
        picture.save(shell.path("in.png")).unwrap();
        let whole = through_tiles(&shell, 4096);
        for (tile, bound) in bounds {
            let tiled = through_tiles(&shell, tile);
            let pairs = whole.as_raw().iter().zip(tiled.as_raw());
            let far = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            println!("{name}, tiles of {tile} px: {far}/255 at most");
            assert!(far <= bound, "{name}, tiles of {tile} px: {far}/255");
        }
    }
}
