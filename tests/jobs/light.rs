//! Netpbm's formats, farbfeld, OpenEXR, Radiance HDR and light above white: files that other programs wrote
//! (`tests/make_fixtures/make_light_fixtures.py`), and files of ours as another reader sees them.

use cupscale::image::{
    Buffer, EncodeOptions, Encoder, Format, Input, Output, Picture, Warning, decode, decode_bytes,
};
use exr::prelude::{ReadChannels as _, ReadLayers as _, read};

const SIZE: (usize, usize) = (27, 21);

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(crate::common::fixture("image/light").join(name)).unwrap()
}

fn picture(name: &str) -> Picture {
    let picture = decode_bytes(name, &fixture(name)).unwrap();
    assert_eq!((picture.width as usize, picture.height as usize), SIZE, "{name}");
    picture
}

/// The formula of all fixtures, for each channel of each pixel.
fn numbers() -> impl Iterator<Item = usize> {
    let (width, height) = SIZE;
    (0..width * height * 3).map(move |at| {
        let (x, y, channel) = (at / 3 % width, at / 3 / width, at % 3);
        x * 7 + y * 13 + channel * 29
    })
}

/// Light of the fixtures that have it: up to 63/16.
fn light() -> Vec<f32> {
    numbers().map(|number| (number % 64) as f32 / 16.0).collect()
}

fn written(
    picture: &Picture,
    format: Format,
    change: impl Fn(&mut EncodeOptions),
) -> (Vec<u8>, Vec<Warning>) {
    let mut options = EncodeOptions::like(picture);
    change(&mut options);
    let buffer = Buffer::default();
    let output = Output::Buffer(buffer.clone());
    let mut writer =
        Encoder::create(&output, format, picture.width, picture.height, options).unwrap();
    // Bands that end inside of blocks.
    let (width, alpha) = (picture.width as usize, picture.alpha.as_deref());
    for top in (0..picture.height as usize).step_by(5) {
        let end = (top + 5).min(picture.height as usize);
        let alpha = alpha.map(|alpha| &alpha[top * width..end * width]);
        writer.write_rows(&picture.rgb[top * width * 3..end * width * 3], alpha).unwrap();
    }
    let warnings = writer.finish().unwrap();
    (buffer.take(), warnings)
}

/// Pixels of an OpenEXR as the crate `exr` reads them.
fn pixels_of_exr(file: &[u8]) -> Vec<[f32; 4]> {
    let image = read()
        .no_deep_data()
        .largest_resolution_level()
        .rgba_channels(
            |size, _| (size.0, vec![[0.0f32; 4]; size.0 * size.1]),
            |(width, pixels), at, (r, g, b, a): (f32, f32, f32, f32)| {
                pixels[at.1 * *width + at.0] = [r, g, b, a];
            },
        )
        .first_valid_layer()
        .all_attributes()
        .from_buffered(std::io::Cursor::new(file))
        .unwrap();
    image.layer_data.channel_data.pixels.1
}

fn near(got: f32, want: f32, relative: f32) -> bool {
    (got - want).abs() <= relative * want.abs() + 1e-6
}

#[test]
fn whole_numbers_of_other_programs_are_read_to_the_sample() {
    for name in ["rgb8.ppm", "rgb8_plain.ppm"] {
        let got = picture(name);
        let want = numbers().map(|number| (number % 256) as f32 / 255.0);
        assert!(got.rgb.iter().zip(want).all(|(got, want)| *got == want), "{name}");
        assert_eq!((got.bit_depth, got.grey), (8, false));
    }
    for name in ["grey8.pgm", "grey8_plain.pgm", "grey8.pam"] {
        let got = picture(name);
        let want = numbers().step_by(3).map(|number| (number % 256) as f32 / 255.0);
        assert!(got.rgb.iter().step_by(3).zip(want).all(|(got, want)| *got == want), "{name}");
    }
    for name in ["bits.pbm", "bits_plain.pbm"] {
        let got = picture(name);
        let want = numbers().step_by(3).map(|number| f32::from(u8::from(number % 3 == 0)));
        assert!(got.rgb.iter().step_by(3).zip(want).all(|(got, want)| *got == want), "{name}");
        assert!(got.grey);
    }
    for name in ["rgb16.ppm", "rgba16.ff"] {
        let got = picture(name);
        assert_eq!(got.bit_depth, 16);
        let alpha = got.alpha.as_deref();
        for (at, want) in
            numbers().map(|number| (number * 401 % 65536) as f32 / 65535.0).enumerate()
        {
            let is_visible = alpha.is_none_or(|alpha| alpha[at / 3] > 0.0);
            assert!(!is_visible || got.rgb[at] == want, "{name} {at}");
        }
    }
    for name in ["rgba8.pam", "rgba16.ff"] {
        let got = picture(name).alpha.unwrap();
        for (at, got) in got.iter().enumerate() {
            let want = (at % 27 * 3 + at / 27 * 5) % 256;
            assert!((got - want as f32 / 255.0).abs() < 1e-6, "{name} {at}");
        }
    }
}

#[test]
fn every_kind_of_openexr_and_radiance_hdr_gives_back_its_light() {
    for name in [
        "no.exr",
        "rle.exr",
        "zips.exr",
        "zip.exr",
        "piz.exr",
        "pxr24.exr",
        "b44.exr",
        "b44a.exr",
        "tiles.exr",
        "decreasing.exr",
        "layers.exr",
        "parts.exr",
        "aces.exr",
        "float_alpha.exr",
        "light.hdr",
    ] {
        let got = picture(name);
        let light = got.light.unwrap();
        assert!(light.linear && near(light.peak, 63.0 / 16.0, 0.02), "{name}: {light:?}");
        let (file, warnings) = written(&got, Format::Exr, |_| {});
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        // B44 is lossy: OpenEXR itself reads numbers that are up to 0.91 from those that were written.
        let within = match name {
            "b44.exr" | "b44a.exr" => 0.95,
            "light.hdr" => 0.02,
            _ => 0.0,
        };
        for (at, (pixel, want)) in
            pixels_of_exr(&file).iter().zip(self::light().chunks(3)).enumerate()
        {
            let alpha = got.alpha.as_ref().map_or(1.0, |alpha| alpha[at]);
            assert!(near(pixel[3], alpha, 1e-4), "{name}");
            for (got, want) in pixel.iter().zip(want) {
                let is_near = near(*got, want * alpha, 1e-3) || (got - want).abs() < within;
                assert!(is_near, "{name} at {at}: {got} {want} {alpha}");
            }
        }
        let said: String = got.warnings.iter().map(ToString::to_string).collect();
        let expected = matches!(name, "layers.exr" | "parts.exr");
        assert_eq!(said.contains("only the first picture"), expected, "{name}: {said}");
    }
    let grey = picture("grey.exr");
    assert!(grey.grey && grey.light.is_some());
    let (file, _) = written(&grey, Format::Exr, |_| {});
    let again = decode_bytes("grey", &file).unwrap();
    assert!(again.grey && again.rgb[..] == grey.rgb[..]);
}

#[test]
fn an_openexr_that_is_not_read_is_refused_with_what_converts_it() {
    for (name, words) in [("whole_numbers.exr", "whole numbers"), ("dwaa.exr", "oiiotool")] {
        let refused = decode_bytes(name, &fixture(name)).map(|picture| picture.light);
        match refused {
            Err(error) => assert!(error.to_string().contains(words), "{error}"),
            // Later versions of the crate read it.
            Ok(light) => assert!(name == "dwaa.exr" && light.is_some()),
        }
    }
    let whole = fixture("zip.exr");
    for length in (0..whole.len()).step_by(37) {
        assert!(decode_bytes("cut", &whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn light_goes_from_a_float_tiff_into_one_and_into_an_openexr() {
    let got = picture("light.tif");
    // Without a profile its numbers are encoded by sRGB's curve, as those of any TIFF.
    let peak = got.light.unwrap();
    assert!(!peak.linear && near(peak.peak, ((63.0 / 16.0 + 0.055) / 1.055f32).powf(2.4), 1e-4));
    let (file, warnings) = written(&got, Format::Tiff, |_| {});
    assert!(warnings.is_empty());
    let again = pictures::decode(&file).to_rgb32f().into_raw();
    assert_eq!(again.len(), light().len());
    for (got, want) in again.iter().zip(light()) {
        assert!(near(*got, want, 1e-3), "{got} {want}");
    }
    let (file, _) = written(&got, Format::Exr, |_| {});
    for (pixel, want) in pixels_of_exr(&file).iter().zip(light().chunks(3)) {
        for (got, v) in pixel.iter().zip(want) {
            let light = if *v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) };
            assert!(near(*got, light, 1e-3), "{got} {light}");
        }
    }
    // An OpenEXR's light is the number in a TIFF, whose profile says so.
    let linear = picture("zip.exr");
    let (file, _) = written(&linear, Format::Tiff, |_| {});
    let numbers = pictures::decode(&file).to_rgb32f().into_raw();
    assert!(numbers.iter().zip(light()).all(|(got, want)| near(*got, want, 1e-3)));
    let again = decode_bytes("linear", &file).unwrap();
    assert!(again.metadata.icc.is_some());
    assert!(again.rgb.iter().zip(linear.rgb.iter()).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn whole_numbers_end_at_white_and_that_is_said() {
    let got = picture("zip.exr");
    for format in [Format::Png, Format::Ppm, Format::Tiff] {
        let (file, warnings) = written(&got, format, |options| options.bit_depth = 16);
        assert!(warnings.contains(&Warning::HighlightsCut(format)), "{warnings:?}");
        let again = decode_bytes("cut", &file).unwrap();
        assert!(again.light.is_none() && again.bit_depth == 16);
        for (got, light) in again.rgb.iter().zip(light()) {
            let light = light.min(1.0);
            let want = if light <= 0.003_130_8 {
                12.92 * light
            } else {
                1.055 * light.powf(1.0 / 2.4) - 0.055
            };
            assert!((got - want).abs() < 2e-5, "{format}: {got} {want}");
        }
    }
}

#[test]
fn a_picture_of_whole_numbers_becomes_light_and_comes_back() {
    let got = picture("rgb8.ppm");
    for bits in [16, 32] {
        let (file, warnings) = written(&got, Format::Exr, |options| options.bit_depth = bits);
        assert!(warnings.is_empty());
        let again = decode_bytes("exr", &file).unwrap();
        assert!(again.light.is_some_and(|light| light.linear && light.peak <= 1.0));
        let (file, _) = written(&again, Format::Png, |options| options.bit_depth = 8);
        let back = decode_bytes("png", &file).unwrap();
        assert!(back.rgb[..] == got.rgb[..], "{bits}");
    }
    // Numbers that ended at 1 are the same as ever, as floats too.
    let (file, _) = written(&got, Format::Tiff, |options| options.bit_depth = 32);
    let again = decode_bytes("float", &file).unwrap();
    assert!(again.light.is_none() && again.rgb[..] == got.rgb[..]);
}

#[test]
fn what_formats_of_samples_cannot_hold_is_converted_or_said() {
    let mut got = picture("rgba8.pam");
    let aces = picture("aces.exr");
    got.metadata.icc.clone_from(&aces.metadata.icc);
    assert!(got.metadata.icc.is_some());
    got.metadata.xmp = Some(b"<x/>".to_vec());
    for format in [Format::Ppm, Format::Pam, Format::Farbfeld] {
        let (file, warnings) = written(&got, format, |_| {});
        let dropped = |warning: &Warning| matches!(warning, Warning::ProfileDropped(why) if why.contains("holds none"));
        assert!(warnings.iter().any(dropped), "{format}: {warnings:?}");
        assert!(warnings.contains(&Warning::MetadataDropped("XMP", format)));
        let again = decode_bytes("again", &file).unwrap();
        assert_eq!(again.alpha.is_some(), format != Format::Ppm);
        assert_eq!(warnings.contains(&Warning::AlphaFlattened(format)), format == Format::Ppm);
        assert!(again.rgb[..] != got.rgb[..], "converted to sRGB");
    }
    let grey = picture("grey8.pgm");
    let (file, warnings) = written(&grey, Format::Ppm, |_| {});
    assert!(file.starts_with(b"P5\n27 21\n255\n") && warnings.is_empty());
    assert!(file.ends_with(&fixture("grey8.pgm")[fixture("grey8.pgm").len() - 27 * 21..]));
    let (file, _) = written(&picture("rgb16.ppm"), Format::Ppm, |_| {});
    assert!(file.starts_with(b"P6\n27 21\n65535\n"));
    assert!(file.ends_with(&fixture("rgb16.ppm")[fixture("rgb16.ppm").len() - 27 * 21 * 6..]));
    let (file, _) = written(&picture("rgba16.ff"), Format::Farbfeld, |_| {});
    let pixels = |file: &[u8]| {
        file[16..]
            .chunks(8)
            .filter(|pixel| pixel[6..] != [0; 2])
            .flatten()
            .copied()
            .collect::<Vec<u8>>()
    };
    assert_eq!(pixels(&file), pixels(&fixture("rgba16.ff")));
}

#[test]
fn the_picture_of_a_path_is_that_of_its_bytes() {
    let path = crate::common::fixture("image/light").join("tiles.exr");
    assert!(decode(&Input::Path(path)).unwrap() == picture("tiles.exr"));
}
