//! Formats that are only read, frames of animations and pages: each has the pixels that another program reads.

use std::num::NonZeroUsize;

use cupscale::image::{
    Format, ImageError, Input, InputKind, Picture, ReadOptions, Warning, kind_of, open,
};
use safetensors::SafeTensors;

use crate::common::tensors::stored;

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(crate::common::fixture("image/inputs").join(name)).unwrap()
}

fn read(name: &str, bytes: &[u8], picture: Option<usize>) -> Result<Picture, ImageError> {
    let mut options = ReadOptions::default();
    options.picture = picture.and_then(NonZeroUsize::new);
    open(&Input::Bytes(bytes.into()), &options).and_then(|opened| {
        let shape = opened.shape();
        let picture = opened.decode()?;
        assert_eq!((shape.width, shape.height), (picture.width, picture.height), "{name}");
        assert_eq!(shape.alpha, picture.alpha.is_some(), "{name}");
        Ok(picture)
    })
}

/// Greatest difference of the visible colours and of the alpha from a fixture's, in 8-bit steps.
fn difference(name: &str, picture: &Picture) -> f32 {
    let bytes = bytes_of("pixels.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let shape = tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!([picture.height as usize, picture.width as usize], shape[..2], "{name}");
    let want = stored(&tensors, name);
    let mut most = 0.0f32;
    for (at, want) in want.chunks(shape[2]).enumerate() {
        let alpha = picture.alpha.as_ref().map_or(1.0, |alpha| alpha[at]);
        most = most.max((alpha - want.get(3).unwrap_or(&1.0)).abs());
        if alpha > 0.0 {
            let colours = picture.rgb[3 * at..3 * at + 3].iter().zip(want);
            most = colours.fold(most, |most, (a, b)| most.max((a - b).abs()));
        }
    }
    most * 255.0
}

#[test]
fn every_format_that_is_only_read_has_its_pixels_depth_alpha_and_grey() {
    for (name, tolerance, bits, alpha, grey) in [
        ("rgb.bmp", 1e-3, 8, false, false),
        ("rgba.bmp", 1e-3, 8, true, false),
        ("grey.bmp", 1e-3, 8, false, true),
        ("rgb.tga", 1e-3, 8, false, false),
        ("rgba.tga", 1e-3, 8, true, false),
        ("grey.tga", 1e-3, 8, false, true),
        ("rgba.qoi", 1e-3, 8, true, false),
        ("icon.ico", 1e-3, 8, true, false),
        // Decoders round the steps between two colours of a block in different ways.
        ("rgba.dds", 1.01, 8, true, false),
        ("palette.gif", 1e-3, 8, false, false),
        ("grey.gif", 1e-3, 8, false, true),
        ("offset.gif", 1e-3, 8, true, false),
        ("rgb.psd", 1e-3, 8, false, false),
        ("deep.psd", 1e-3, 16, false, false),
        ("deep_grey.psb", 1e-3, 16, false, true),
        ("cmyk.psd", 1.0, 8, false, false),
        ("palette.psd", 1e-3, 8, false, false),
        ("rgb.jp2", 1e-3, 8, false, false),
        ("rgba.jp2", 1e-3, 8, true, false),
        ("grey.j2k", 1e-3, 8, false, true),
        ("deep.jp2", 1e-3, 16, false, false),
        ("rgb.jxl", 1e-3, 8, false, false),
        ("rgba.jxl", 1e-3, 8, true, false),
        ("deep.jxl", 1e-3, 16, false, false),
        ("grey.jxl", 1e-3, 8, false, true),
        ("side.jxl", 1e-3, 8, false, false),
    ] {
        let picture = read(name, &bytes_of(name), None).unwrap_or_else(|error| panic!("{error}"));
        let difference = difference(name, &picture);
        assert!(difference <= tolerance, "{name}: {difference} steps");
        let shape = (picture.bit_depth, picture.alpha.is_some(), picture.grey);
        assert_eq!(shape, (bits, alpha, grey), "{name}");
        assert_eq!(picture.warnings, [], "{name}");
    }
}

#[test]
fn exif_and_xmp_of_boxes_are_kept_and_the_picture_is_upright() {
    for name in ["rgb.jp2", "side.jxl"] {
        let metadata = read(name, &bytes_of(name), None).unwrap().metadata;
        let (exif, xmp) = (metadata.exif.unwrap(), metadata.xmp.unwrap());
        assert!(exif.windows(8).any(|bytes| bytes == b"Somebody"), "{name}");
        assert!(String::from_utf8(xmp).unwrap().contains("A title"), "{name}");
    }
    let psd = read("deep_grey.psb", &bytes_of("deep_grey.psb"), None).unwrap();
    let (across, down) = psd.metadata.dpi.unwrap();
    assert!((across - 300.0).abs() < 1e-3 && (down - 300.0).abs() < 1e-3);
}

#[cfg(feature = "heic")]
#[test]
fn heic_has_the_pixels_that_libheif_reads() {
    for (name, bits, alpha) in [
        ("rgb.heic", 8, false),
        ("rgba.heic", 8, true),
        ("deep.heic", 16, false),
        ("side.heic", 8, false),
    ] {
        let picture = read(name, &bytes_of(name), None).unwrap();
        let mean = mean_difference(name, &picture);
        assert!(mean < 0.6, "{name}: {mean} steps");
        assert_eq!((picture.bit_depth, picture.alpha.is_some()), (bits, alpha), "{name}");
    }
    // The container says how a picture lies, and nothing here; EXIF does not count.
    let side = read("side.heic", &bytes_of("side.heic"), None).unwrap();
    assert_eq!((side.width, side.height), (27, 21));
    assert!(side.metadata.exif.unwrap().windows(8).any(|bytes| bytes == b"Somebody"));
}

#[cfg(feature = "avif")]
#[test]
fn avif_has_the_pixels_that_libavif_reads() {
    for (name, bits, alpha, grey) in [
        ("rgb.avif", 8, false, false),
        ("rgba.avif", 8, true, false),
        ("grey.avif", 8, false, true),
        ("side.avif", 8, false, false),
        ("deep.avif", 16, false, false),
        ("tiles.avif", 8, false, false),
    ] {
        let picture = read(name, &bytes_of(name), None).unwrap();
        let mean = mean_difference(name, &picture);
        assert!(mean < 1.0, "{name}: {mean} steps");
        let shape = (picture.bit_depth, picture.alpha.is_some(), picture.grey);
        assert_eq!(shape, (bits, alpha, grey), "{name}");
    }
    let side = read("side.avif", &bytes_of("side.avif"), None).unwrap();
    assert_eq!((side.width, side.height), (21, 27));
    let cut = bytes_of("rgb.avif");
    let refusal = read("rgb.avif", &cut[..cut.len() - 60], None).unwrap_err().to_string();
    assert!(refusal.contains("AVIF: "), "{refusal}");
}

/// Mean difference of the colours from a fixture's, in 8-bit steps.
#[cfg(any(feature = "avif", feature = "heic"))]
fn mean_difference(name: &str, picture: &Picture) -> f32 {
    let bytes = bytes_of("pixels.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let channels = tensors.tensor(name).unwrap().shape()[2];
    let want = stored(&tensors, name);
    let want = want.chunks(channels).flat_map(|pixel| &pixel[..3]);
    let sum: f32 = picture.rgb.iter().zip(want).map(|(a, b)| (a - b).abs()).sum();
    sum / picture.rgb.len() as f32 * 255.0
}

#[cfg(not(feature = "heic"))]
#[test]
fn heic_is_refused_by_name_with_what_converts_it() {
    let refusal = read("rgb.heic", &bytes_of("rgb.heic"), None).unwrap_err().to_string();
    assert!(refusal.contains("HEIC is not read: `heif-convert"), "{refusal}");
}

#[cfg(not(feature = "avif"))]
#[test]
fn avif_is_refused_by_name_with_what_converts_it() {
    let refusal = read("rgb.avif", &bytes_of("rgb.avif"), None).unwrap_err().to_string();
    assert!(refusal.contains("AVIF is not read: `avifdec"), "{refusal}");
}

#[test]
fn frames_are_composed_as_a_viewer_shows_them() {
    // The decoder of WebP rounds where it blends.
    for (name, tolerance) in
        [("frames.gif", 1e-3), ("frames.png", 1e-3), ("frames.webp", 1.01), ("frames.jxl", 1e-3)]
    {
        let bytes = bytes_of(name);
        for frame in 1..=4 {
            let picture = read(name, &bytes, Some(frame)).unwrap();
            let difference = difference(&format!("{name}/{frame}"), &picture);
            assert!(difference <= tolerance, "{name} {frame}: {difference} steps");
            assert_eq!(picture.warnings, [], "{name}");
        }
        let first = read(name, &bytes, None).unwrap();
        assert!(matches!(first.warnings[..], [Warning::FirstFrameOnly(_)]), "{name}");
        assert!(difference(&format!("{name}/1"), &first) <= tolerance, "{name}");
        let refusal = read(name, &bytes, Some(5)).unwrap_err().to_string();
        assert!(refusal.contains("has no picture 5: there are 4 in this"), "{refusal}");
    }
}

#[test]
fn each_page_of_a_tiff_is_read_and_a_file_of_one_picture_has_no_second() {
    let bytes = bytes_of("pages.tif");
    for page in 1..=3 {
        let picture = read("pages.tif", &bytes, Some(page)).unwrap();
        assert!(difference(&format!("pages.tif/{page}"), &picture) <= 1e-3, "{page}");
        assert_eq!(picture.warnings, []);
    }
    let first = read("pages.tif", &bytes, None).unwrap();
    assert_eq!(first.warnings, [Warning::FirstFrameOnly(Format::Tiff.into())]);
    assert!(read("pages.tif", &bytes, Some(4)).unwrap_err().to_string().contains("there are 3"));
    assert!(read("rgb.bmp", &bytes_of("rgb.bmp"), Some(1)).is_ok());
    let refusal = read("rgb.bmp", &bytes_of("rgb.bmp"), Some(2)).unwrap_err().to_string();
    assert!(refusal.contains("has no picture 2: there is 1 in this BMP file"), "{refusal}");
}

#[test]
fn files_that_end_early_are_refused_in_one_line() {
    for name in [
        "rgb.bmp",
        "rgb.tga",
        "rgba.qoi",
        "icon.ico",
        "rgba.dds",
        "palette.gif",
        "rgb.psd",
        "deep.psd",
        "rgb.jp2",
        "deep.jxl",
    ] {
        let whole = bytes_of(name);
        for length in [whole.len() * 2 / 3, whole.len() / 3, 24] {
            let cut = &whole[..length];
            let Err(error) = read(name, cut, None) else { panic!("{name}: {length} bytes") };
            let message = error.to_string();
            assert!(
                message.contains("not a readable image") && !message.contains('\n'),
                "{message}"
            );
        }
    }
}

#[test]
fn jpeg_xl_and_jpeg_2000_that_end_early_are_read_as_far_as_they_go_when_that_is_allowed() {
    let mut options = ReadOptions::default();
    options.allow_truncated = true;
    let whole = bytes_of("deep.jp2");
    let input = Input::Bytes(whole[..whole.len() - 300].into());
    let picture = open(&input, &options).unwrap().decode().unwrap();
    assert_eq!(picture.warnings, [Warning::DetailMissing(InputKind::Jpeg2000)]);
    assert!(difference("deep.jp2", &picture) < 40.0);
}

#[test]
fn files_are_told_by_their_bytes() {
    for (name, kind) in [
        ("icon.ico", InputKind::Ico),
        ("deep_grey.psb", InputKind::Psd),
        ("grey.j2k", InputKind::Jpeg2000),
        ("grey.tga", InputKind::Tga),
        ("frames.png", InputKind::Written(Format::Png)),
    ] {
        assert_eq!(kind_of(name, &bytes_of(name)).unwrap(), kind, "{name}");
        assert_eq!(InputKind::from_extension(name.as_ref()), Some(kind), "{name}");
    }
}
