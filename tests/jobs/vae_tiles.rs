//! The VAE in tiles against the VAE on the whole canvas, through the whole program, with an autoencoder
//! that has learned to show pictures (`tests/make_fixtures/make_trained_vae_fixture.py`), whose norms and attention look
//! at everything they are given. The UNet is the small random one, which hardly repaints in the last of a
//! thousand steps.

use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{backend::Params, model::vae::Vae};
use image::{GenericImageView as _, RgbImage, imageops::FilterType};

use crate::common::{Shell, fixture, stderr, tensors::flat};

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
        let whole = through_tiles(&shell, 4096, "");
        for (tile, bound) in bounds {
            let tiled = through_tiles(&shell, tile, "");
            let pairs = whole.as_raw().iter().zip(tiled.as_raw());
            let far = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            println!("{name}, tiles of {tile} px: {far}/255 at most");
            assert!(far <= bound, "{name}, tiles of {tile} px: {far}/255");
        }
    }
}

/// The picture after encoding and decoding untiled, as diffusers does (`tests/parity/vae.rs`), every norm with the
/// statistics of its own input.
fn through_the_whole(picture: &RgbImage) -> Vec<f32> {
    let folder = fixture("vae_trained");
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    let weights = safetensors::load(weights, &Device::Cpu).unwrap();
    let params = Params::from_tensors(weights, DType::F32, &Device::Cpu);
    let vae = Vae::load(&serde_json::from_slice(&config).unwrap(), &params).unwrap();
    let (width, height) = picture.dimensions();
    let pixels: Vec<f32> =
        picture.as_raw().iter().map(|&value| f32::from(value) / 127.5 - 1.0).collect();
    let shape = (1, height as usize, width as usize, 3);
    let pixels = Tensor::from_vec(pixels, shape, &Device::Cpu).unwrap();
    let decoded = vae.decode(&vae.encode(&pixels.into()).unwrap()).unwrap();
    let values = flat(&decoded);
    values.into_iter().map(|value| (value * 127.5 + 127.5).clamp(0.0, 255.0)).collect()
}

#[test]
fn statistics_of_samples_give_about_what_those_of_the_whole_give() {
    for (name, picture, bound) in
        [("gradient", gradient(512, 384), 4.5), ("photo", photo(512, 384), 1.8)]
    {
        let shell = Shell::new();
        picture.save(shell.path("in.png")).unwrap();
        let whole = through_the_whole(&picture);
        for tile in [4096, 128] {
            let tiled = through_tiles(&shell, tile, "--color-fix none --gsp 0 --rsp 0");
            let pairs = whole.iter().zip(tiled.as_raw());
            let sum: f32 = pairs.map(|(whole, tiled)| (whole - f32::from(*tiled)).abs()).sum();
            let mean = sum / whole.len() as f32;
            println!("{name}, tiles of {tile} px: {mean:.2}/255 in the mean");
            assert!(mean <= bound, "{name}, tiles of {tile} px: {mean}/255");
        }
    }
}
