//! Formats of pipes and of light as a script meets them: samples in and out, floats there and back, and what is said of
//! what a format cannot hold.

use std::{
    fs,
    io::{Cursor, Write as _},
    process::Stdio,
};

use cupscale::image::{Buffer, EncodeOptions, Encoder, Format, Light, Output};
use exr::prelude::{ReadChannels as _, ReadLayers as _, read};

use crate::common::{Shell, fixture, quick, stderr};

fn copied(shell: &Shell, name: &str) -> Vec<u8> {
    let bytes = fs::read(fixture("image/light").join(name)).unwrap();
    fs::write(shell.path(name), &bytes).unwrap();
    bytes
}

/// The brightest light of an OpenEXR and the mean of all, as the crate `exr` reads them.
fn light(file: &[u8]) -> (f32, f32) {
    let image = read()
        .no_deep_data()
        .largest_resolution_level()
        .rgb_channels(
            |_, _| Vec::new(),
            |all: &mut Vec<f32>, _, (r, g, b): (f32, f32, f32)| all.extend([r, g, b]),
        )
        .first_valid_layer()
        .all_attributes()
        .from_buffered(Cursor::new(file))
        .unwrap();
    let all = image.layer_data.channel_data.pixels;
    (all.iter().copied().fold(0.0, f32::max), all.iter().sum::<f32>() / all.len() as f32)
}

#[test]
fn a_ppm_goes_through_a_pipe_and_comes_out_as_a_pam() {
    let shell = Shell::new();
    let bytes = copied(&shell, "rgb8.ppm");
    let mut child = shell
        .command(&format!("-i - -o - --format pam {} --progress none --quiet", quick()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let header = b"P7\nWIDTH 54\nHEIGHT 42\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n";
    assert!(output.stdout.starts_with(header));
    assert_eq!(output.stdout.len(), header.len() + 54 * 42 * 3);
    // The samples are those of a PNG.
    shell.succeed(&format!("rgb8.ppm -o out.png {}", quick()));
    let png = pictures::decode(&shell.bytes("out.png")).to_rgb8().into_raw();
    assert!(png == output.stdout[header.len()..]);
    shell.succeed(&format!("rgb8.ppm {}", quick()));
    assert!(shell.bytes("rgb8_2x.ppm").starts_with(b"P6\n54 42\n255\n"));
    copied(&shell, "grey8.pgm");
    shell.succeed(&format!("grey8.pgm -o out.ff {}", quick()));
    assert_eq!(shell.bytes("out.ff").len(), 16 + 54 * 42 * 8);
}

/// An OpenEXR of 48 × 32 pixels, from black on the left to eight times white on the right.
fn slope() -> Vec<u8> {
    let mut options = EncodeOptions { bit_depth: 32, ..EncodeOptions::default() };
    options.light = Some(Light { peak: 8.0, linear: true });
    let buffer = Buffer::default();
    let output = Output::Buffer(buffer.clone());
    let mut writer = Encoder::create(&output, Format::Exr, 48, 32, options).unwrap();
    let row: Vec<f32> = (0..48 * 3).map(|at| (at / 3) as f32 / 47.0).collect();
    (0..32).for_each(|_| writer.write_rows(&row, None).unwrap());
    writer.finish().unwrap();
    buffer.take()
}

#[test]
fn light_above_white_comes_back_and_is_cut_where_there_is_no_room_for_it() {
    let shell = Shell::new();
    fs::write(shell.path("in.exr"), slope()).unwrap();
    let (peak, mean) = light(&slope());
    assert!((peak - 8.0).abs() < 1e-3 && mean > 0.7, "{peak} {mean}");
    // A model that has learnt something keeps the mean as well.
    shell.succeed("in.exr -s 2 --captioner none");
    let (ours, our_mean) = light(&shell.bytes("in_2x.exr"));
    assert!(ours > 4.0 && ours < 8.01, "{ours}");
    assert!((our_mean / mean - 1.0).abs() < 0.2, "{our_mean} {mean}");

    shell.succeed("in.exr -o out.tif -s 2 --captioner none");
    let float = pictures::decode(&shell.bytes("out.tif"));
    assert_eq!(float.color(), pictures::ColorType::Rgb32F);
    let brightest = float.to_rgb32f().into_raw().into_iter().fold(0.0, f32::max);
    assert!((brightest / ours - 1.0).abs() < 1e-3, "{brightest} {ours}");

    let cut = shell.run(&format!("in.exr -o out.png {}", quick()));
    assert!(cut.status.success() && stderr(&cut).contains("light above white was cut"));
    assert_eq!(pictures::decode(&shell.bytes("out.png")).color(), pictures::ColorType::Rgb16);
    shell.succeed(&format!("in.exr -o eight.tif --bit-depth 8 {}", quick()));
    assert_eq!(pictures::decode(&shell.bytes("eight.tif")).color(), pictures::ColorType::Rgb8);
    shell.succeed("in.exr -o half.exr --bit-depth 16 -s 2 --captioner none");
    assert!(shell.bytes("half.exr").len() < shell.bytes("in_2x.exr").len());
    // Nothing of this changes what is not asked for it.
    shell.picture("a.png", 24, 16);
    shell.succeed(&format!("a.png -o deep.png --bit-depth 16 {}", quick()));
    assert_eq!(pictures::decode(&shell.bytes("deep.png")).color(), pictures::ColorType::Rgb16);
}

#[test]
fn a_bitmap_becomes_a_greymap_in_name_and_in_fact() {
    let shell = Shell::new();
    copied(&shell, "bits.pbm");
    shell.succeed(&format!("bits.pbm {}", quick()));
    assert!(shell.bytes("bits_2x.pgm").starts_with(b"P5\n54 42\n255\n"));
    assert_eq!(shell.names(), ["bits.pbm", "bits_2x.pgm"]);
}

#[test]
fn a_radiance_hdr_becomes_an_openexr_with_its_light() {
    let shell = Shell::new();
    copied(&shell, "light.hdr");
    shell.succeed(&format!("light.hdr --blend 0 {}", quick()));
    let (brightest, mean) = light(&shell.bytes("light_2x.exr"));
    // Up to 63/16, of which half is the mean.
    assert!((3.5..=3.95).contains(&brightest), "{brightest}");
    assert!((1.7..=2.1).contains(&mean), "{mean}");
    let output = shell.run(&format!("light.hdr -o out.png --blend 0 {}", quick()));
    assert!(stderr(&output).contains("light above white was cut"), "{}", stderr(&output));
}
