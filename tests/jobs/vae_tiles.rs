//! The VAE in tiles against the VAE on the whole canvas, through the whole program, with an autoencoder
//! that has learned to show pictures (`tests/make_fixtures/make_trained_vae_fixture.py`), whose norms and attention look
//! at everything they are given. The UNet is the small random one, which hardly repaints in the last of a
//! thousand steps.

use std::{path::Path, process::Command};

use pictures::{FilterType, Rgb, RgbImage};

use crate::common::{Shell, fixture, stderr};

/// Levels of 255 by which tiles that share statistics of samples may differ from the whole.
const SAMPLED_MOST: u8 = 38;

/// A cut of a photo.
fn photo(width: u32, height: u32) -> RgbImage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/dogs.jpg");
    let photo = pictures::open(path);
    let full = photo.width();
    photo
        .crop_imm(0, 0, full, full * height / width)
        .resize_exact(width, height, FilterType::Triangle)
        .to_rgb8()
}

/// A clear sky: what shows steps of tone most.
fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        Rgb([60.0 + 90.0 * x, 110.0 + 60.0 * y, 230.0 - 50.0 * x - 40.0 * y].map(|v| v as u8))
    })
}

/// A job that encodes and decodes, and repaints next to nothing.
pub fn job(shell: &Shell, arguments: &str) -> Command {
    let mut command = shell
        .command(&format!("{arguments} --steps 1000 --denoise-steps 1 --rap 0 --captioner none"));
    command.arg("--model").arg(fixture("img2img/model"));
    command.arg("--vae").arg(fixture("vae_trained"));
    command
}

/// The picture after encoding and decoding in tiles of this side.
fn through_tiles(shell: &Shell, tile: u32, options: &str) -> RgbImage {
    let arguments = format!("in.png -o {tile}.png --scale 1 -q --tile {tile} {options}");
    let output = job(shell, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    pictures::open(shell.path(&format!("{tile}.png"))).to_rgb8()
}

/// Compares the picture in tiles of two sides with that in one tile, layer by layer and with samples. No sample may differ by
/// more than one level, for another order of sums can move a value across the border between two; with samples of a
/// part of the canvas by no more than `most`.
fn compare(name: &str, picture: RgbImage, most: u8) {
    let shell = Shell::new();
    pictures::save(picture.into(), &shell.path("in.png"));
    let whole = through_tiles(&shell, 4096, "");
    for (options, tile, most) in [("", 1), ("--vae-disk 0", most)]
        .into_iter()
        .flat_map(|(options, most)| [256, 128].map(|tile| (options, tile, most)))
    {
        let tiled = through_tiles(&shell, tile, options);
        let pairs = whole.as_raw().iter().zip(tiled.as_raw());
        let far: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
        let largest = far.iter().copied().max().unwrap();
        let mean = far.iter().map(|&far| f64::from(far)).sum::<f64>() / far.len() as f64;
        println!(
            "{name} {options}, tiles of {tile} px: {largest}/255 at most, {mean:.3} on average"
        );
        assert!(largest <= most, "{name} {options}, tiles of {tile} px: {largest}/255");
    }
}

/// A light and a dark half: what the norms of one tile and of another differ in most.
fn step(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| Rgb([if x < width / 2 { 40 } else { 220 }; 3]))
}

/// Bright points on a dark ground: rare values that make up most of a variance.
fn points(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let near = |at: u32, middle: u32| at.abs_diff(middle) < 14;
        let lit = near(x, width / 5) && near(y, height / 3)
            || near(x, width - 90) && near(y, height - 60);
        Rgb(if lit { [250, 240, 60] } else { [20, 40 + (x / 8 % 20) as u8, 30] })
    })
}

#[test]
fn tiles_of_an_autoencoder_with_norms_and_attention_equal_the_whole() {
    // The samples of a canvas of the smaller size are the whole canvas; of the larger they are two fifths.
    compare("gradient", gradient(512, 384), 1);
    compare("photo", photo(512, 384), 1);
    compare("step", step(512, 384), 1);
    compare("points", points(1024, 768), SAMPLED_MOST);
}
