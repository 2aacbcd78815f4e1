//! Decoding: files that Pillow wrote, and files that are broken in every way we could think of.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;

use cupscale::image::{
    ImageError, Input, MAX_PIXELS, Picture, ReadOptions, Warning, decode, decode_bytes, open,
};
use safetensors::SafeTensors;

use crate::common::tensors::stored;

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("image").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn read(name: &str) -> Picture {
    decode(&Input::Path(fixture(name))).unwrap()
}

/// Greatest difference from what Pillow reads, in 8-bit steps.
fn difference_from_pillow(name: &str, picture: &Picture) -> f32 {
    let bytes = bytes_of("pixels.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let &[height, width, channels] = view.shape() else {
        panic!("{name}: not [h, w, c]");
    };
    assert_eq!((picture.width as usize, picture.height as usize), (width, height), "{name}");
    let want = stored(&tensors, name);
    let mut worst = 0.0f32;
    for (i, want) in want.chunks_exact(channels).enumerate() {
        for (ours, want) in picture.rgb[3 * i..].iter().zip(&want[..3]) {
            worst = worst.max((ours - want).abs());
        }
        if channels == 4 {
            worst = worst.max((picture.alpha.as_ref().unwrap()[i] - want[3]).abs());
        }
    }
    worst * 255.0
}

#[test]
fn every_kind_of_file_has_the_pixels_that_pillow_reads() {
    // JPEG and lossy WebP leave decoders a step or two of freedom, and one more where chroma is
    // enlarged; the rest is exact.
    for (name, tolerance) in [
        ("rgb.jpg", 3.1),
        ("grey.jpg", 2.0),
        ("progressive.jpg", 3.1),
        ("cmyk.jpg", 2.5),
        ("grey16.png", 1e-3),
        ("rgba.png", 1e-3),
        ("palette.png", 1e-3),
        ("bilevel.png", 1e-3),
        ("rgb16.tif", 1e-3),
        ("lzw.tif", 1e-3),
        ("float.tif", 1e-3),
        ("bilevel.tif", 1e-3),
        ("cmyk.tif", 1e-3),
        ("lossless.webp", 1e-3),
        ("lossy.webp", 3.0),
    ] {
        let picture = read(name);
        let difference = difference_from_pillow(name, &picture);
        assert!(difference <= tolerance, "{name}: {difference} steps");
        let pixels = (picture.width * picture.height) as usize;
        assert_eq!(picture.rgb.len(), 3 * pixels, "{name}");
        assert!(picture.rgb.iter().all(|v| (0.0..=1.0).contains(v)), "{name}");
    }
}

#[test]
fn all_eight_orientations_are_turned_upright_and_marked_so() {
    for n in 1..=8 {
        let name = format!("orientation{n}.png");
        let picture = read(&name);
        assert!(difference_from_pillow(&name, &picture) < 1e-3, "{name}");
        // Orientation is the block's only entry: count, tag 274, SHORT, 1, value.
        let exif = picture.metadata.exif.unwrap();
        let entry = exif.windows(8).position(|w| {
            w == [0x12, 0x01, 3, 0, 1, 0, 0, 0] || w == [0x01, 0x12, 0, 3, 0, 0, 0, 1]
        });
        let at = entry.unwrap() + 8;
        assert_eq!(exif[at] + exif[at + 1], 1, "{name}");
    }
}

#[test]
fn depth_greyness_and_metadata_are_reported() {
    for (name, depth, grey) in [
        ("grey16.png", 16, true),
        ("rgb16.tif", 16, false),
        ("float.tif", 16, true),
        ("grey.jpg", 8, true),
        ("palette.png", 8, false),
        ("bilevel.tif", 8, true),
    ] {
        let picture = read(name);
        assert_eq!((picture.bit_depth, picture.grey), (depth, grey), "{name}");
    }
    let contains = |block: &Option<Vec<u8>>, text: &str| {
        block.as_ref().is_some_and(|b| b.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    for name in ["rgb.jpg", "lossless.webp"] {
        let picture = read(name);
        assert!(contains(&picture.metadata.icc, "acsp"), "{name}");
        assert!(contains(&picture.metadata.exif, "Fixture maker"), "{name}");
        assert!(picture.metadata.exif.unwrap()[..2] != *b"Ex", "{name}: without JPEG's prefix");
        assert!(contains(&picture.metadata.xmp, "dc:source"), "{name}");
    }
    let dpi = |name: &str| read(name).metadata.dpi.unwrap();
    let close = |(x, y): (f64, f64), want: f64| (x - want).abs() < 0.02 && (y - want).abs() < 0.02;
    assert!(close(dpi("rgb.jpg"), 300.0));
    assert!(close(dpi("lossless.webp"), 96.0));
    assert!(close(dpi("lzw.tif"), 240.0));
    assert_eq!(read("grey16.png").metadata.dpi, None);
}

#[test]
fn a_cmyk_picture_says_that_its_colours_become_rgb_only_when_it_had_a_profile() {
    assert_eq!(read("cmyk.jpg").warnings, []);
    assert_eq!(read("cmyk.tif").metadata.icc, None);
}

fn message(name: &str, bytes: &[u8]) -> String {
    let error = decode_bytes(name, bytes).expect_err(name);
    let message = error.to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    assert!(message.starts_with(name), "names the file: {message}");
    message
}

#[test]
fn every_truncation_of_every_format_is_an_error() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "grey.jpg",
        "rgba.png",
        "grey16.png",
        "lossless.webp",
        "lossy.webp",
        "rgb16.tif",
        "lzw.tif",
    ] {
        let whole = bytes_of(name);
        for keep in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            // Pillow puts the resolution and a trailing profile last in a TIFF; without these its pixels are whole.
            if name == "lzw.tif"
                && keep + 4096 > whole.len()
                && decode_bytes(name, &whole[..keep]).is_ok()
            {
                let picture = decode_bytes(name, &whole[..keep]).unwrap();
                assert!(difference_from_pillow(name, &picture) < 1e-3);
                continue;
            }
            // Without the two bytes of its end marker, a JPEG has all its pixels, and a note.
            if name.ends_with(".jpg") && keep + 2 >= whole.len() {
                let picture = decode_bytes(name, &whole[..keep]).unwrap();
                let rows = picture.height;
                assert_eq!(picture.warnings, [Warning::Truncated { rows_read: rows, rows }]);
                continue;
            }
            message(name, &whole[..keep]);
        }
    }
}

#[test]
fn a_jpeg_cut_in_its_pixels_is_called_truncated() {
    let mut bytes = bytes_of("rgb.jpg");
    bytes.truncate(bytes.len() - 200);
    let message = message("photo.jpg", &bytes);
    let stated = "photo.jpg: not a readable image (JPEG: truncated, 8 of 23 rows are there)";
    assert_eq!(message, stated);
}

#[test]
fn a_flipped_bit_in_a_png_is_found_and_its_place_named() {
    let mut bytes = bytes_of("rgba.png");
    let idat = bytes.windows(4).position(|w| w == b"IDAT").unwrap();
    bytes[idat + 40] ^= 4;
    assert_eq!(
        message("photo.png", &bytes),
        "photo.png: not a readable image (PNG: bad CRC in IDAT)"
    );
}

#[test]
fn a_png_without_its_end_or_of_no_size_is_refused() {
    let bytes = bytes_of("rgba.png");
    let without_end = &bytes[..bytes.len() - 12];
    assert!(message("a.png", without_end).contains("truncated"));
    let mut empty = bytes.clone();
    empty[16..20].fill(0);
    let crc = crc32(&empty[12..29]);
    empty[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(message("a.png", &empty).contains("size of 0 x"));
}

#[test]
fn an_absurd_size_is_refused_before_anything_is_allocated() {
    let mut bomb = bytes_of("rgba.png");
    bomb[16..24].copy_from_slice(&[0x10, 0, 0, 0, 0x10, 0, 0, 0]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode_bytes("bomb.png", &bomb).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: MAX_PIXELS, .. }), "{error}");
}

/// CRC-32 as PNG defines it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn what_is_no_picture_or_no_supported_one_is_named() {
    assert!(message("notes.txt", b"hello, world, this is text").contains("neither PNG"));
    assert!(message("a.svg", b"<svg width=\"1\">").contains("SVG is not read: render it"));
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0";
    assert!(message("phone.heic", heic).contains("HEIC"));
    for magic in [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8\xff", b"II*\0", b"RIFF\x04\0\0\0WEBP"] {
        message("stub", magic);
    }
}

#[test]
fn missing_empty_and_directory_inputs_have_their_own_errors() {
    let folder = tempfile::tempdir().unwrap();
    let input = |name: &str| Input::parse(folder.path().join(name).as_os_str());
    assert!(matches!(decode(&input("missing.png")), Err(ImageError::NotFound { .. })));
    std::fs::write(folder.path().join("empty.png"), b"").unwrap();
    assert!(matches!(decode(&input("empty.png")), Err(ImageError::Empty { .. })));
    assert!(matches!(
        decode(&Input::parse(OsStr::new(folder.path()))),
        Err(ImageError::IsDirectory { .. })
    ));
}

#[test]
fn damage_anywhere_in_a_file_never_panics() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "palette.png",
        "lzw.tif",
        "rgb16.tif",
        "lossless.webp",
        "lossy.webp",
    ] {
        let whole = bytes_of(name);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xA5;
            // Some damage cannot be seen; what matters is that we come back, and with whole pixels.
            if let Ok(picture) = decode_bytes(name, &bytes) {
                let pixels = picture.width as usize * picture.height as usize;
                assert_eq!(picture.rgb.len(), 3 * pixels);
            }
        }
    }
}

#[test]
fn only_the_first_page_of_a_tiff_is_read_and_the_user_told() {
    let mut bytes = bytes_of("rgb16.tif");
    // A second directory: the first one's copy, which points to the same pixels.
    let entries = usize::from(u16::from_be_bytes([bytes[8], bytes[9]]));
    let link = 10 + 12 * entries;
    let mut directory = bytes[8..link + 4].to_vec();
    directory[2 + 12 * entries..].fill(0);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let at = (bytes.len() as u32).to_be_bytes();
    bytes[link..link + 4].copy_from_slice(&at);
    bytes.extend(directory);
    let picture = decode_bytes("pages.tif", &bytes).unwrap();
    assert!(matches!(picture.warnings[..], [Warning::FirstFrameOnly(_)]));
}

/// Decodes what there is.
fn read_truncated(bytes: &[u8]) -> Result<Picture, ImageError> {
    let mut options = ReadOptions::default();
    options.allow_truncated = true;
    open(&Input::Bytes(bytes.into()), &options)?.decode()
}

#[test]
fn with_allow_truncated_the_rows_that_a_file_has_are_read_and_the_last_one_repeated() {
    for name in ["rgba.png", "grey16.png", "lossless.webp", "lossy.webp"] {
        let whole = read(name);
        let bytes = bytes_of(name);
        let row = 3 * whole.width as usize;
        let (mut some, mut before) = (0, 0);
        for keep in (0..bytes.len()).step_by(13) {
            // Too early for a single row is an error as before.
            let Ok(picture) = read_truncated(&bytes[..keep]) else { continue };
            let Some(&Warning::Truncated { rows_read, rows }) = picture.warnings.last() else {
                panic!("{name}: {:?}", picture.warnings)
            };
            assert_eq!((picture.width, rows), (whole.width, whole.height), "{name}");
            let read = rows_read as usize * row;
            assert!(rows_read >= before && rows_read <= rows, "{name}: {rows_read} of {rows}");
            if whole.alpha.is_none() {
                assert!(picture.rgb[..read] == whole.rgb[..read], "{name}: {rows_read} of {rows}");
                let last = &picture.rgb[read - row..read];
                assert!(picture.rgb[read..].chunks(row).all(|row| row == last), "{name}");
            }
            some += u32::from(rows_read < rows);
            before = rows_read;
        }
        assert!(some > 3 && before > whole.height / 2, "{name}: {some} {before}");
        // A whole file is not said to be cut.
        let same = read_truncated(&bytes).unwrap();
        assert!(same.rgb == whole.rgb && same.warnings == whole.warnings);
    }
}

#[test]
fn a_png_whose_end_alone_is_missing_is_said_to_have_all_rows() {
    let bytes = bytes_of("rgba.png");
    let picture = read_truncated(&bytes[..bytes.len() - 12]).unwrap();
    let rows = picture.height;
    assert_eq!(picture.warnings, [Warning::Truncated { rows_read: rows, rows }]);
    assert!(picture.warnings[0].to_string().contains("all of its"));
    assert!(picture.rgb == read("rgba.png").rgb);
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc32(&body).to_be_bytes()].concat()
}

/// A grey PNG of 8 bits; `interlaced` in seven passes.
fn grey_png(
    width: usize,
    height: usize,
    interlaced: bool,
    grey: impl Fn(usize, usize) -> u8,
) -> Vec<u8> {
    let passes: &[[usize; 4]] = if interlaced {
        &[
            [0, 8, 0, 8],
            [4, 8, 0, 8],
            [0, 4, 4, 8],
            [2, 4, 0, 4],
            [0, 2, 2, 4],
            [1, 2, 0, 2],
            [0, 1, 1, 2],
        ]
    } else {
        &[[0, 1, 0, 1]]
    };
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    for &[left, across, top, down] in passes {
        for y in (top..height).step_by(down).filter(|_| left < width) {
            let row = (left..width).step_by(across).map(|x| grey(x, y));
            let row: Vec<u8> = std::iter::once(0).chain(row).collect();
            zlib.write_all(&row).unwrap();
        }
    }
    let size = [(width as u32).to_be_bytes(), (height as u32).to_be_bytes()].concat();
    let header = [&size[..], &[8, 0, 0, 0, u8::from(interlaced)]].concat();
    let pixels = zlib.finish().unwrap();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        chunk(b"IDAT", &pixels),
        chunk(b"IEND", &[]),
    ]
    .concat()
}

#[test]
fn an_interlaced_png_is_read_like_a_plain_one_and_truncated_as_its_coarser_passes() {
    let grey = |x: usize, y: usize| (x * 7 + y * 13) as u8;
    for (width, height) in [(1, 1), (3, 2), (5, 9), (37, 21)] {
        let [plain, passes] = [false, true].map(|way| grey_png(width, height, way, grey));
        let plain = decode_bytes("a.png", &plain).unwrap();
        let picture = decode_bytes("a.png", &passes).unwrap();
        assert!(plain.rgb == picture.rgb && plain.grey && picture.grey, "{width} {height}");
        message("a.png", &passes[..passes.len() - 20]);
        let mut read = Vec::new();
        for keep in 0..passes.len() {
            let Ok(picture) = read_truncated(&passes[..keep]) else { continue };
            let Some(&Warning::Truncated { rows_read, .. }) = picture.warnings.last() else {
                panic!("{:?}", picture.warnings)
            };
            let whole = rows_read as usize * 3 * width;
            assert!(picture.rgb[..whole] == plain.rgb[..whole], "{width} {height} {keep}");
            read.push(rows_read);
        }
        assert!(read.is_sorted() && read.last() == Some(&(height as u32)));
    }
}

#[test]
fn the_header_alone_tells_the_size_of_a_picture_whose_pixels_would_take_gigabytes() {
    let small = grey_png(8, 8, false, |_, _| 0);
    let mut large = small.clone();
    large[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let crc = crc32(&large[12..29]);
    large[29..33].copy_from_slice(&crc.to_be_bytes());
    let opened = open(&Input::Bytes(large.into()), &ReadOptions::default()).unwrap();
    let shape = opened.shape();
    assert_eq!((shape.width, shape.height, shape.alpha), (16384, 16384, false));
    assert_eq!(shape.decoder_bytes, 0);
    assert_eq!(shape.memory_bytes(), 0);
    assert_eq!(shape.file_bytes(), 3 << 30);
}

#[test]
fn pictures_of_other_kinds_and_files_that_are_none_are_refused_with_what_helps() {
    for (name, head, words) in [
        ("a.jpg", &b"<!DOCTYPE html>\n<html>"[..], "is an HTML page, not a picture: "),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("a.tga", &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 48, 0, 40, 0, 24, 0, 1], "TGA"),
        ("a.ppm", b"P6\n48 40\n255\n", "PPM: truncated"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "heif-convert"),
    ] {
        let line = message(name, head);
        assert!(line.contains(words), "{line}");
    }
    let apple = [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"CgBI", &[0x50, 0, 0x20, 2])].concat();
    assert!(message("icon.png", &apple).contains("iPhone-optimised PNG"));
}
