//! Pictures of the tests, read and written by crates that are not ours.
//!
//! Those are generic in what they read from and write to, and would be compiled anew in every test program; here they are
//! compiled once.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

pub use image::{ColorType, DynamicImage, ImageBuffer, Rgb, RgbImage, Rgba, imageops::FilterType};
use tiff::{
    decoder::{Decoder, DecodingResult},
    tags::Tag,
};

const ICC_PROFILE: u16 = 34675;

/// The picture in a file. Panics if there is none.
pub fn open(path: PathBuf) -> DynamicImage {
    image::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The picture in these bytes. Panics if there is none.
pub fn decode(bytes: &[u8]) -> DynamicImage {
    image::load_from_memory(bytes).unwrap()
}

/// Width and height of the picture in a file. Panics if there is none.
pub fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap()
}

/// Writes a picture in the format of the name. Panics if it cannot be written.
pub fn save(picture: DynamicImage, path: &Path) {
    picture.save(path).unwrap();
}

/// A part of a picture.
pub fn crop(picture: &RgbImage, x: u32, y: u32, width: u32, height: u32) -> RgbImage {
    image::imageops::crop_imm(picture, x, y, width, height).to_image()
}

/// ICC profile and 16-bit samples of a TIFF, without colour management. Panics if it has none.
pub fn tiff_samples(path: &Path) -> (Vec<u8>, Vec<u16>) {
    let mut tiff = Decoder::new(File::open(path).unwrap()).unwrap();
    let icc = tiff.get_tag_u8_vec(Tag::Unknown(ICC_PROFILE)).unwrap();
    let DecodingResult::U16(samples) = tiff.read_image().unwrap() else {
        panic!("16 bits expected");
    };
    (icc, samples)
}
