//! Encoding: what goes in comes out again, for every format, and nothing half-written stays behind.

use std::path::Path;

use cupscale::image::{
    EncodeOptions, Encoder, Format, ImageError, Input, Output, Picture, Result, Text, Warning,
    decode, read_settings,
};

use crate::common::{fixture, tensors::largest_difference};

const SETTINGS: &str = r#"{"scale":4.0,"prompt":"a <harbour> & \"boats\", dusk – ü"}"#;

/// Formats with a place for all of a picture's metadata; `light.rs` has the others.
const WITH_METADATA: [Format; 4] = [Format::Png, Format::Jpeg, Format::WebP, Format::Tiff];

/// A picture with every bit pattern one can think of: odd size, gradients, noise, alpha.
fn picture(width: u32, height: u32, depth: u8, alpha: bool) -> Picture {
    let steps = if depth == 16 { 65535u64 } else { 255 };
    let noise = |i: usize| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % (steps + 1);
    let pixels = (width * height) as usize;
    let rgb = (0..3 * pixels).map(|i| noise(i) as f32 / steps as f32).collect();
    let mut picture = Picture::from_rgb(width, height, rgb).unwrap();
    picture.bit_depth = depth;
    // From 1 up, since colour under alpha 0 is not kept.
    picture.alpha = alpha.then(|| {
        let value = |i| (1 + noise(i + 7) % steps) as f32 / steps as f32;
        (0..pixels).map(value).collect()
    });
    picture
}

/// Writes in bands of `band` rows.
fn write(
    picture: &Picture,
    path: &Path,
    format: Format,
    options: EncodeOptions,
    band: u32,
) -> Result<Vec<Warning>> {
    let (w, h) = (picture.width, picture.height);
    let mut writer = Encoder::create(&Output::Path(path.into()), format, w, h, options)?;
    for y in (0..h).step_by(band as usize) {
        let rows = (y * w) as usize..((y + band).min(h) * w) as usize;
        let alpha = picture.alpha.as_ref().map(|a| &a[rows.clone()]);
        writer.write_rows(&picture.rgb[3 * rows.start..3 * rows.end], alpha)?;
    }
    writer.finish()
}

fn read(path: &Path) -> Picture {
    decode(&Input::Path(path.into())).unwrap()
}

#[test]
fn lossless_formats_return_every_sample_at_every_depth_with_alpha_and_odd_sizes() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Png, Format::Tiff, Format::WebP] {
        for depth in [8, 16] {
            if depth == 16 && !format.has_16_bit() {
                continue;
            }
            for alpha in [false, true] {
                for (w, h, band) in [(1, 1, 1), (37, 23, 5), (64, 64, 64), (1, 50, 7), (301, 3, 1)]
                {
                    let want = picture(w, h, depth, alpha);
                    let path = folder.path().join("out");
                    let options = EncodeOptions::like(&want);
                    let warnings = write(&want, &path, format, options, band).unwrap();
                    assert_eq!(warnings, []);
                    let got = read(&path);
                    let what = format!("{format} {depth} bits, alpha {alpha}, {w} x {h}");
                    assert_eq!((got.width, got.height, got.bit_depth), (w, h, depth), "{what}");
                    assert!(largest_difference(&got.rgb, &want.rgb) < 1e-6, "{what}");
                    match (got.alpha, want.alpha) {
                        (None, None) => {}
                        (Some(got), Some(want)) => {
                            assert!(largest_difference(&got, &want) < 1e-6, "{what}")
                        }
                        _ => panic!("{what}: alpha"),
                    }
                }
            }
        }
    }
}

#[test]
fn jpeg_comes_close_and_is_the_same_in_any_bands() {
    let folder = tempfile::tempdir().unwrap();
    let (w, h) = (67, 45);
    let rgb = (0..w * h).flat_map(|i| {
        let (x, y) = ((i % w) as f32 / w as f32, (i / w) as f32 / h as f32);
        [x, y, 0.5 * (x + y)]
    });
    let want = Picture::from_rgb(w, h, rgb.collect()).unwrap();
    let mut files = Vec::new();
    for band in [1, 8, 13, 45] {
        let path = folder.path().join(format!("{band}.jpg"));
        write(&want, &path, Format::Jpeg, EncodeOptions::default(), band).unwrap();
        assert!(largest_difference(&read(&path).rgb, &want.rgb) < 6.0 / 255.0);
        files.push(std::fs::read(&path).unwrap());
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn jpeg_quality_decides_the_size_and_one_pixel_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let want = picture(64, 64, 8, false);
    let size = |quality| {
        let path = folder.path().join("q.jpg");
        let options = EncodeOptions { quality, ..EncodeOptions::default() };
        write(&want, &path, Format::Jpeg, options, 64).unwrap();
        read(&path);
        std::fs::metadata(&path).unwrap().len()
    };
    assert!(size(100) > size(90) && size(90) > size(50));
    let one = picture(1, 1, 8, false);
    let path = folder.path().join("one.jpg");
    write(&one, &path, Format::Jpeg, EncodeOptions::default(), 1).unwrap();
    assert_eq!((read(&path).width, read(&path).height), (1, 1));
}

/// A picture with metadata of every kind, from the fixture files.
fn with_metadata() -> Picture {
    let fixtures = fixture("image");
    let source = read(&fixtures.join("rgb.jpg"));
    let mut result = picture(60, 40, 8, false);
    result.metadata.icc = source.metadata.icc;
    result.metadata.exif = source.metadata.exif;
    result.metadata.xmp = source.metadata.xmp;
    result.metadata.dpi = Some((300.0, 150.0));
    assert!(
        result.metadata.icc.is_some()
            && result.metadata.exif.is_some()
            && result.metadata.xmp.is_some()
    );
    result
}

fn holds(block: &Option<Vec<u8>>, text: &str) -> bool {
    let find = |b: &Vec<u8>| b.windows(text.len()).any(|w| w == text.as_bytes());
    block.as_ref().is_some_and(find)
}

#[test]
fn profile_exif_xmp_resolution_and_settings_survive_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let want = with_metadata();
    for format in WITH_METADATA {
        let path = folder.path().join(format!("out.{}", format.extension()));
        let mut options = EncodeOptions::like(&want);
        options.settings = Some(SETTINGS.into());
        let warnings = write(&want, &path, format, options, 16).unwrap();
        assert_eq!(warnings, [], "{format}");
        let got = read(&path);
        assert_eq!(got.metadata.icc, want.metadata.icc, "{format}");
        assert!(holds(&got.metadata.exif, "Fixture maker"), "{format}");
        assert!(holds(&got.metadata.xmp, "dc:source"), "{format}");
        assert_eq!(read_settings(&path).unwrap().as_deref(), Some(SETTINGS), "{format}");
        // WebP has no field of its own: the EXIF block's 96 dpi stand.
        let dpi = if format == Format::WebP { (96.0, 96.0) } else { (300.0, 150.0) };
        let (x, y) = got.metadata.dpi.unwrap();
        assert!((x - dpi.0).abs() < 0.02 && (y - dpi.1).abs() < 0.02, "{format}: {x} {y}");
        // The size fields were 31 x 23 in the source: SHORT 60 now, in either byte order.
        let exif = got.metadata.exif.unwrap();
        let field = exif.windows(9).any(|w| {
            *w == [0x02, 0xA0, 3, 0, 1, 0, 0, 0, 60] || (w[..8] == [0xA0, 0x02, 0, 3, 0, 0, 0, 1])
        });
        assert!(field, "{format}");
    }
}

#[test]
fn resolution_alone_survives_every_format_and_files_without_settings_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut want = picture(8, 8, 8, false);
    want.metadata.dpi = Some((240.0, 240.0));
    for format in WITH_METADATA {
        let path = folder.path().join("out");
        write(&want, &path, format, EncodeOptions::like(&want), 8).unwrap();
        let (x, y) = read(&path).metadata.dpi.unwrap();
        assert!((x - 240.0).abs() < 0.02 && (y - 240.0).abs() < 0.02, "{format}");
        assert_eq!(read_settings(&path).unwrap(), None, "{format}");
    }
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "cupscale:settings=\"no\"").unwrap();
    assert_eq!(read_settings(&text).unwrap(), None);
    let missing = folder.path().join("missing.png");
    assert!(matches!(read_settings(&missing), Err(ImageError::NotFound { .. })));
}

#[test]
fn a_wide_gamut_picture_keeps_its_profile_and_every_sample() {
    let folder = tempfile::tempdir().unwrap();
    for profile in [
        moxcms::ColorProfile::new_display_p3(),
        moxcms::ColorProfile::new_adobe_rgb(),
        moxcms::ColorProfile::new_pro_photo_rgb(),
    ] {
        let icc = profile.encode().unwrap();
        let raw = picture(40, 30, 16, false);
        // Written without a profile these are file samples; then the profile is put on them.
        let path = folder.path().join("raw.png");
        let mut info = png::Info::with_size(40, 30);
        info.color_type = png::ColorType::Rgb;
        info.bit_depth = png::BitDepth::Sixteen;
        info.icc_profile = Some(icc.clone().into());
        let samples: Vec<u8> =
            raw.rgb.iter().flat_map(|v| ((v * 65535.0).round() as u16).to_be_bytes()).collect();
        let file = std::fs::File::create(&path).unwrap();
        let encoder = png::Encoder::with_info(file, info).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&samples).unwrap();
        writer.finish().unwrap();

        let decoded = read(&path);
        assert_eq!(decoded.metadata.icc.as_deref(), Some(&icc[..]));
        let again = folder.path().join("again.tif");
        write(&decoded, &again, Format::Tiff, EncodeOptions::like(&decoded), 7).unwrap();
        // File samples of the copy, read without colour management.
        let (profile, got) = pictures::tiff_samples(&again);
        assert_eq!(profile, icc);
        let want = samples.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let worst = got.iter().zip(want).map(|(a, b)| a.abs_diff(b)).max();
        assert!(worst <= Some(2), "{worst:?} of 65535");
    }
}

#[test]
fn a_grey_picture_stays_grey_with_its_profile_where_the_format_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut want = picture(33, 21, 16, false);
    want.rgb = want.rgb.chunks_exact(3).flat_map(|pixel| [pixel[0]; 3]).collect();
    want.grey = true;
    want.metadata.icc = Some(moxcms::ColorProfile::new_gray_with_gamma(1.8).encode().unwrap());
    for format in WITH_METADATA {
        let path = folder.path().join("grey");
        let warnings = write(&want, &path, format, EncodeOptions::like(&want), 6).unwrap();
        let got = read(&path);
        if format == Format::WebP {
            assert!(!got.grey && got.metadata.icc.is_none());
            assert!(warnings.iter().any(|w| matches!(w, Warning::ProfileDropped(_))));
            continue;
        }
        assert!(got.grey, "{format}");
        assert_eq!(got.metadata.icc, want.metadata.icc, "{format}");
        if format.has_16_bit() {
            assert!(largest_difference(&got.rgb, &want.rgb) < 1e-3, "{format}");
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_a_warning_and_not_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut want = picture(16, 16, 16, true);
    want.alpha = Some(vec![0.0; 256].into());
    let path = folder.path().join("out.jpg");
    let warnings = write(&want, &path, Format::Jpeg, EncodeOptions::like(&want), 4).unwrap();
    assert_eq!(
        warnings,
        [Warning::AlphaFlattened(Format::Jpeg), Warning::DepthReduced(Format::Jpeg)]
    );
    let got = read(&path);
    assert!(got.alpha.is_none());
    assert!(got.rgb.iter().all(|v| *v > 0.99), "transparent becomes white");

    let mut heavy = picture(8, 8, 8, false);
    heavy.metadata.exif = Some([b"II*\0\x08\0\0\0\0\0\0\0\0\0".as_slice(), &[0; 70_000]].concat());
    let warnings = write(&heavy, &path, Format::Jpeg, EncodeOptions::like(&heavy), 8).unwrap();
    assert_eq!(warnings, [Warning::MetadataDropped("EXIF", Format::Jpeg)]);
    read(&path);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string();
    entries.map(|e| name(e).unwrap()).collect()
}

#[test]
fn an_abandoned_or_unfinished_picture_leaves_nothing_and_the_old_file_untouched() {
    let want = picture(32, 32, 8, false);
    for format in Format::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let output = Output::Path(path.clone());
        for rows in [0, 5, 32] {
            let mut writer =
                Encoder::create(&output, format, 32, 32, EncodeOptions::default()).unwrap();
            writer.write_rows(&want.rgb[..rows * 96], None).unwrap();
            drop(writer);
            assert_eq!(names(folder.path()), [""; 0], "{format} after {rows} rows");
        }
        std::fs::write(&path, "the old picture").unwrap();
        let mut writer =
            Encoder::create(&output, format, 32, 32, EncodeOptions::default()).unwrap();
        writer.write_rows(&want.rgb[..96], None).unwrap();
        assert!(matches!(writer.finish(), Err(ImageError::Shape { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"the old picture");
        assert_eq!(names(folder.path()), ["out"], "{format}");

        write(&want, &path, format, EncodeOptions::default(), 32).unwrap();
        read(&path);
        assert_eq!(names(folder.path()), ["out"], "{format}");
    }
}

#[test]
fn rows_of_the_wrong_shape_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::Path(folder.path().join("out.png"));
    let options = EncodeOptions { alpha: true, ..EncodeOptions::default() };
    let mut writer = Encoder::create(&output, Format::Png, 4, 4, options).unwrap();
    for (rgb, alpha) in [
        (vec![0.0; 13], None),
        (vec![0.0; 12], None),
        (vec![0.0; 12], Some(vec![0.0; 3])),
        (vec![0.0; 60], Some(vec![0.0; 20])),
    ] {
        let refused = writer.write_rows(&rgb, alpha.as_deref());
        assert!(matches!(refused, Err(ImageError::Shape { .. })), "{}", rgb.len());
    }
    writer.write_rows(&[0.0; 48], Some(&[0.0; 16])).unwrap();
    writer.finish().unwrap();
}

#[test]
fn an_output_that_cannot_be_written_is_known_before_any_work_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let reason = |path: &Path| {
        let output = Output::Path(path.into());
        let early = output.check_writable().unwrap_err().to_string();
        let created = Encoder::create(&output, Format::Png, 4, 4, EncodeOptions::default());
        assert_eq!(early, created.unwrap_err().to_string());
        assert!(early.starts_with(&*path.to_string_lossy()) && !early.contains('\n'), "{early}");
        early
    };
    assert!(reason(&folder.path().join("missing/out.png")).contains("does not exist"));
    assert!(reason(folder.path()).contains("is a directory"));
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(reason(&file.join("out.png")).contains("not a folder"));
    let mut permissions = std::fs::metadata(&file).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&file, permissions).unwrap();
    assert!(reason(&file).contains("read-only"));
    let long = format!("{}.png", "x".repeat(252));
    assert!(reason(&folder.path().join(long)).contains("256 bytes of it the file's name"));
    let deep = format!("{}out.png", "d/".repeat(3000));
    assert!(reason(&folder.path().join(deep)).contains("the path is too long"));

    Output::Path(folder.path().join("new.png")).check_writable().unwrap();
    Output::Stdout.check_writable().unwrap();
    assert_eq!(names(folder.path()), ["file"]);
}

#[cfg(unix)]
#[test]
fn a_link_that_another_user_planted_in_a_shared_folder_is_not_followed() {
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (shared, target) = (folder.path().join("shared"), folder.path().join("target.png"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let link = shared.join("out.png");
    symlink(&target, &link).unwrap();
    let output = Output::Path(link.clone());
    output.check_writable().unwrap();
    // Only root can give a link away.
    if lchown(&link, Some(12345), None).is_ok() {
        let error = output.check_writable().unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
    }
}

#[test]
fn too_large_for_the_format_is_known_before_any_file_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::Path(folder.path().join("out.webp"));
    let error =
        Encoder::create(&output, Format::WebP, 20_000, 4, EncodeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("16383"), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_new_file_has_ordinary_permissions_and_a_replaced_one_keeps_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let want = picture(4, 4, 8, false);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "x").unwrap();
        let path = folder.path().join("new.png");
        write(&want, &path, Format::Png, EncodeOptions::default(), 4).unwrap();
        assert_eq!(mode(&path), mode(&plain));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        write(&want, &path, Format::Png, EncodeOptions::default(), 4).unwrap();
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn a_link_stays_a_link_and_what_it_points_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let want = picture(4, 4, 8, false);
        let (real, link) = (folder.path().join("real.png"), folder.path().join("link.png"));
        std::fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        write(&want, &link, Format::Png, EncodeOptions::default(), 4).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&real).width, 4);
    }

    #[test]
    fn a_full_device_is_an_error_in_every_format_and_a_device_is_never_replaced() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return; // only Linux has it
        }
        let want = picture(64, 64, 8, false);
        for format in Format::ALL {
            let error = write(&want, full, format, EncodeOptions::default(), 8).unwrap_err();
            assert!(matches!(error, ImageError::Write { .. }), "{format}: {error}");
            assert!(!error.is_broken_pipe());
        }
        let null = Path::new("/dev/null");
        for format in Format::ALL {
            write(&want, null, format, EncodeOptions::default(), 8).unwrap();
        }
        assert!(!std::fs::metadata(null).unwrap().is_file());
    }

    #[test]
    fn a_pipe_gets_the_same_bytes_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let want = picture(50, 31, 8, true);
        for format in Format::ALL {
            let pipe = folder.path().join(format!("pipe.{}", format.extension()));
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            if !made.is_ok_and(|status| status.success()) {
                return; // no mkfifo here
            }
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || std::fs::read(pipe).unwrap()
            });
            write(&want, &pipe, format, EncodeOptions::like(&want), 8).unwrap();
            let through_pipe = reader.join().unwrap();
            let file = folder.path().join("file");
            write(&want, &file, format, EncodeOptions::like(&want), 8).unwrap();
            assert_eq!(through_pipe, std::fs::read(&file).unwrap(), "{format}");
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_a_broken_pipe() {
        let folder = tempfile::tempdir().unwrap();
        for format in Format::ALL {
            let pipe = folder.path().join(format!("pipe.{}", format.extension()));
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            if !made.is_ok_and(|status| status.success()) {
                return; // no mkfifo here
            }
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || drop(std::fs::File::open(pipe).unwrap())
            });
            // Noise of more than any pipe's buffer.
            let want = picture(512, 512, 8, false);
            let error = write(&want, &pipe, format, EncodeOptions::default(), 32).unwrap_err();
            reader.join().unwrap();
            assert!(error.is_broken_pipe(), "{format}: {error}");
        }
    }
}

/// The chunks of a PNG before its pixels.
fn chunks(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let (mut at, mut chunks) = (8, Vec::new());
    loop {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let kind = String::from_utf8(bytes[at + 4..at + 8].to_vec()).unwrap();
        if kind == "IDAT" {
            return chunks;
        }
        chunks.push((kind, bytes[at + 8..at + 8 + length].to_vec()));
        at += 12 + length;
    }
}

#[test]
fn texts_go_to_where_each_format_has_a_place_and_come_back_to_a_png() {
    let folder = tempfile::tempdir().unwrap();
    let text = |keyword: &str, text: &str| Text::new(keyword.into(), text.into());
    let texts = [
        text("parameters", "a tree\nSteps: 40, Größe: 9"),
        text("workflow", &format!("{{\"nodes\":[\"木\"],\"more\":\"{}\"}}", "x".repeat(70_000))),
        text("Title", "My <title>"),
        text("Comment", "a comment"),
    ];
    let mut want = picture(8, 8, 8, false);
    want.metadata.texts = texts.to_vec();
    for format in WITH_METADATA {
        let path = folder.path().join("out");
        let mut options = EncodeOptions::like(&want);
        options.settings = Some(SETTINGS.into());
        assert_eq!(write(&want, &path, format, options, 8).unwrap(), [], "{format}");
        assert_eq!(read_settings(&path).unwrap().as_deref(), Some(SETTINGS), "{format}");
        let got = read(&path).metadata;
        if format == Format::Png {
            let software = |text: &Text| text.keyword == "Software";
            let (own, theirs): (Vec<_>, Vec<_>) = got.texts.into_iter().partition(software);
            assert_eq!((own.len(), theirs.as_slice()), (1, &texts[..]));
            // As the programs that look for it read it.
            assert!(chunks(&path).iter().any(|(kind, data)| kind == "tEXt"
                && data.starts_with(b"parameters\0a tree\n")));
            continue;
        }
        assert!(got.texts.contains(&texts[1]), "{format}");
        assert!(got.texts.contains(&texts[3]), "{format}");
        assert!(holds(&got.xmp, "<dc:title><rdf:Alt><rdf:li xml:lang=\"x-default\">My &lt;title"));
        let comment: Vec<u8> = "a tree".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let exif = got.exif.unwrap();
        assert!(exif.windows(comment.len()).any(|part| part == comment), "{format}");
    }
}

#[test]
fn colour_that_a_png_states_in_chunks_stays_so_and_is_a_profile_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let raw = picture(12, 9, 8, false);
    let path = folder.path().join("raw.png");
    let mut info = png::Info::with_size(12, 9);
    info.color_type = png::ColorType::Rgb;
    info.source_gamma = Some(png::ScaledFloat::new(1.0 / 1.8));
    let samples: Vec<u8> = raw.rgb.iter().map(|v| (v * 255.0).round() as u8).collect();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = png::Encoder::with_info(file, info).unwrap().write_header().unwrap();
    writer.write_image_data(&samples).unwrap();
    writer.finish().unwrap();

    let decoded = read(&path);
    let profile = decoded.metadata.icc.clone().unwrap();
    for format in [Format::Png, Format::Tiff, Format::WebP] {
        let again = folder.path().join("again");
        write(&decoded, &again, format, EncodeOptions::like(&decoded), 9).unwrap();
        let got = read(&again);
        assert!(largest_difference(&got.rgb, &decoded.rgb) < 1e-3, "{format}");
        assert_eq!(got.metadata.icc.as_ref(), Some(&profile), "{format}");
        if format == Format::Png {
            let kinds: Vec<String> = chunks(&again).into_iter().map(|(kind, _)| kind).collect();
            assert_eq!(kinds[..2], ["IHDR", "gAMA"]);
            assert!(!kinds.contains(&"iCCP".to_owned()));
        }
    }
}

#[test]
fn a_grey_picture_with_a_profile_for_rgb_gets_a_grey_one_with_the_same_curve() {
    let folder = tempfile::tempdir().unwrap();
    let mut want = picture(20, 10, 8, false);
    want.rgb = want.rgb.chunks_exact(3).flat_map(|pixel| [pixel[0]; 3]).collect();
    want.grey = true;
    let rgb = moxcms::ColorProfile::new_adobe_rgb().encode().unwrap();
    want.metadata.icc = Some(rgb.clone());
    for format in WITH_METADATA {
        let path = folder.path().join("grey");
        let warnings = write(&want, &path, format, EncodeOptions::like(&want), 10).unwrap();
        let got = read(&path);
        if format == Format::WebP {
            assert_eq!((got.metadata.icc, warnings), (Some(rgb.clone()), vec![]));
            continue;
        }
        assert_eq!(warnings, [Warning::GreyProfile], "{format}");
        let profile = moxcms::ColorProfile::new_from_slice(&got.metadata.icc.unwrap()).unwrap();
        assert_eq!(profile.color_space, moxcms::DataColorSpace::Gray);
        let bound = if format == Format::Jpeg { 0.12 } else { 0.004 };
        assert!(largest_difference(&got.rgb, &want.rgb) < bound, "{format}");
    }
}
