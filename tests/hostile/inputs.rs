//! Formats that are only read: sizes that no bytes stand for, places beyond the file, files cut short.

use std::fs;

use crate::{Case, End, all_right};

fn sample(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read(folder.join("tests/fixtures/image/inputs").join(name)).unwrap()
}

fn refused(name: impl Into<String>, bytes: Vec<u8>) -> Case {
    Case::picture(name, "png", bytes, End::Refused)
}

#[test]
fn files_cut_short_and_damaged() {
    let mut cases = Vec::new();
    for name in [
        "rgb.bmp",
        "rgba.tga",
        "rgba.qoi",
        "icon.ico",
        "rgba.dds",
        "palette.gif",
        "rgb.psd",
        "palette.psd",
        "rgb.jp2",
        "grey.j2k",
        "rgb.jxl",
    ] {
        let good = sample(name);
        for cut in [10, 20, 32, good.len() / 3, good.len() * 2 / 3] {
            cases.push(refused(format!("{name} cut at {cut}"), good[..cut].to_vec()));
        }
    }
    all_right(cases, 55);
}

#[test]
fn sizes_that_no_bytes_stand_for() {
    let with = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = sample(name);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refused(format!("{name} with {bytes:02x?} at {at}"), file)
    };
    let large = 16_384u32.to_le_bytes();
    let huge = 0x7fff_ffffu32.to_le_bytes();
    let cases = vec![
        with("rgb.bmp", 18, &[large, large].concat()),
        with("rgb.bmp", 18, &[huge, huge].concat()),
        with("rgb.tga", 12, &[0xff, 0xff, 0xff, 0xff]),
        with("rgb.tga", 12, &[0, 0x40, 0, 0x40]),
        with("rgba.qoi", 4, &[0, 0, 0x40, 0, 0, 0, 0x40, 0]),
        with("rgba.qoi", 4, &[0xff; 8]),
        with("rgba.dds", 12, &[large, large].concat()),
        with("icon.ico", 30, &[0xff; 8]),
        with("palette.gif", 6, &[0xff, 0xff, 0xff, 0xff]),
        with("rgb.psd", 14, &[0, 0, 0x40, 0, 0, 0, 0x40, 0]),
        with("rgb.psd", 14, &[0xff; 8]),
        with("palette.psd", 14, &[0, 0, 0x40, 0, 0, 0, 0x40, 0]),
        with("grey.j2k", 8, &[0, 0, 0x40, 0, 0, 0, 0x40, 0]),
        with("grey.j2k", 8, &[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]),
    ];
    all_right(cases, 14);
}

#[test]
fn a_frame_larger_than_its_picture() {
    // 24 × 3 pixels of two colours, and a frame of 14,648 × 6,241.
    let mut file = b"GIF89a\x18\0\x03\0\xf0\0\0\x33\x66\xcc\0\0\0".to_vec();
    file.extend(b",\0\0\0\0\x38\x39\x61\x18\0\x02\x02\x4c\x01\0;");
    all_right(vec![refused("a large frame", file)], 1);
}
