//! What a picture keeps, from every format to every format: profile, EXIF with a maker note, XMP, IPTC, resolution,
//! transparency, depth, grey. `tools/check_metadata.py` has the same cells read by other programs.

use cupscale::image::{
    Buffer, EncodeOptions, Encoder, Format, Output, Picture, Warning, decode_bytes,
};

const FORMATS: [Format; 4] = [Format::Png, Format::Jpeg, Format::WebP, Format::Tiff];

/// An EXIF block in which a maker note, as Canon's, points to a text by its place in the block.
fn exif() -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0".to_vec();
    let entry = |tag: u16, kind: u16, count: u32, value: u32| {
        let mut entry = [tag.to_le_bytes(), kind.to_le_bytes()].concat();
        entry.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        entry
    };
    // The artist at 56, the EXIF directory at 38, the note at 64.
    block.extend([2, 0]);
    block.extend(entry(315, 2, 8, 56));
    block.extend(entry(0x8769, 4, 1, 38));
    block.extend([0; 4]);
    block.extend([1, 0]);
    block.extend(entry(0x927C, 7, 18, 64));
    block.extend([0; 4]);
    block.extend(b"Someone\0");
    block.extend([1, 0]);
    block.extend(entry(6, 2, 12, 82));
    block.extend([0; 4]);
    block.extend(b"at its place");
    block
}

/// IPTC's title and city as Photoshop's resource.
fn resources() -> Vec<u8> {
    let records = b"\x1c\x02\x05\0\x05title\x1c\x02\x5a\0\x06Vienna";
    let mut block = b"8BIM\x04\x04\0\0".to_vec();
    block.extend((records.len() as u32).to_be_bytes());
    block.extend(records);
    block.extend(&[0][..records.len() % 2]);
    block
}

fn xmp() -> Vec<u8> {
    br#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>"#.to_vec()
}

/// The profile of a fixture.
fn profile() -> Vec<u8> {
    let path = crate::common::fixture("image/rgb.jpg");
    let bytes = std::fs::read(path).unwrap();
    decode_bytes("rgb.jpg", &bytes).unwrap().metadata.icc.unwrap()
}

/// The bytes of a file with rows of one colour, and what was said of it.
fn written(format: Format, options: EncodeOptions) -> (Vec<u8>, Vec<Warning>) {
    let (buffer, alpha) = (Buffer::default(), options.alpha);
    let mut writer =
        Encoder::create(&Output::Buffer(buffer.clone()), format, 8, 6, options).unwrap();
    let rgb: Vec<f32> = (0..8 * 6 * 3).map(|at| 0.2 + at as f32 / 300.0).collect();
    writer.write_rows(&rgb, alpha.then(|| vec![0.5; 48]).as_deref()).unwrap();
    let warnings = writer.finish().unwrap();
    (buffer.take(), warnings)
}

fn read(bytes: &[u8]) -> Picture {
    decode_bytes("picture", bytes).unwrap()
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

#[test]
fn blocks_of_every_format_are_kept_in_every_format() {
    let icc = profile();
    for source in FORMATS {
        let options = EncodeOptions {
            icc: Some(icc.clone()),
            exif: Some(exif()),
            xmp: Some(xmp()),
            photoshop: Some(resources()),
            dpi: Some((300.0, 200.0)),
            ..EncodeOptions::default()
        };
        let (file, warnings) = written(source, options);
        assert_eq!(warnings, [], "{source}");
        let picture = read(&file);
        // A TIFF's own directory is in the way of a block with places.
        let has_note = source != Format::Tiff;
        let left_out = picture.warnings.iter().any(|w| w.to_string().contains("maker note"));
        assert_eq!(left_out, !has_note, "{source}: {:?}", picture.warnings);
        for target in FORMATS {
            let (file, warnings) = written(target, EncodeOptions::like(&picture));
            assert_eq!(warnings, [], "{source} to {target}");
            let back = read(&file);
            let metadata = &back.metadata;
            let case = format!("{source} to {target}");
            assert_eq!(metadata.icc.as_ref(), Some(&icc), "{case}");
            assert!(holds(metadata.exif.as_ref().unwrap(), b"Someone\0"), "{case}");
            let packet = String::from_utf8(metadata.xmp.clone().unwrap()).unwrap();
            assert!(packet.contains("xmp:Rating=\"4\""), "{case}: {packet}");
            let (x, y) = metadata.dpi.unwrap();
            assert!((x - 300.0).abs() < 0.5 && (y - 200.0).abs() < 0.5, "{case}: {x} {y}");
            if source != Format::WebP && target != Format::WebP {
                assert_eq!(metadata.photoshop.as_ref(), Some(&resources()), "{case}");
            }
            if source != Format::WebP && [Format::WebP, Format::Png].contains(&target) {
                let city = "<photoshop:City>Vienna</photoshop:City>";
                assert!(
                    packet.contains(city) && packet.contains(">title</rdf:li>"),
                    "{case}: {packet}"
                );
            }
            // What the note points to has the place that it had.
            if has_note && target == Format::Tiff {
                assert_eq!(&file[82..94], b"at its place", "{case}");
                assert_eq!(&file[64..66], [1, 0], "{case}");
            } else if has_note {
                assert_eq!(&metadata.exif.as_ref().unwrap()[82..94], b"at its place", "{case}");
            }
        }
    }
}

#[test]
fn transparency_depth_and_grey_are_kept_where_the_format_has_them() {
    for source in FORMATS {
        for target in FORMATS {
            let of = |options| read(&written(source, options).0);
            let through =
                |picture: &Picture| read(&written(target, EncodeOptions::like(picture)).0);
            let case = format!("{source} to {target}");
            let has_alpha = |format: Format| format != Format::Jpeg;
            let picture = of(EncodeOptions { alpha: true, ..EncodeOptions::default() });
            assert_eq!(picture.alpha.is_some(), has_alpha(source), "{case}");
            let kept = has_alpha(source) && has_alpha(target);
            assert_eq!(through(&picture).alpha.is_some(), kept, "{case}");
            let is_deep = |format| [Format::Png, Format::Tiff].contains(&format);
            let picture = of(EncodeOptions { bit_depth: 16, ..EncodeOptions::default() });
            let depth = if is_deep(source) && is_deep(target) { 16 } else { 8 };
            assert_eq!(through(&picture).bit_depth, depth, "{case}");
            let has_grey = |format| format != Format::WebP;
            let picture = of(EncodeOptions { grey: true, ..EncodeOptions::default() });
            assert_eq!(through(&picture).grey, has_grey(source) && has_grey(target), "{case}");
        }
    }
}

#[test]
fn a_note_in_an_order_of_bytes_that_a_tiff_here_never_has_is_left_out_and_said() {
    // The same block, big-endian.
    let mut block = b"MM\0*\0\0\0\x08".to_vec();
    block.extend(b"\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0");
    block.extend(b"\0\x01\x92\x7c\0\x07\0\0\0\x08\0\0\0\x2c\0\0\0\0");
    block.extend(b"SONY DSC");
    let options = || EncodeOptions { exif: Some(block.clone()), ..EncodeOptions::default() };
    let (file, warnings) = written(Format::Tiff, options());
    assert!(warnings.len() == 1 && warnings[0].to_string().contains("maker note"), "{warnings:?}");
    assert!(!holds(&file, b"SONY DSC"));
    // Of a maker whose notes hold no such places it stays.
    let apple = block.len() - 8;
    block[apple..].copy_from_slice(b"FUJIFILM");
    let options = EncodeOptions { exif: Some(block), ..EncodeOptions::default() };
    let (file, warnings) = written(Format::Tiff, options);
    assert!(warnings.is_empty() && holds(&file, b"FUJIFILM"), "{warnings:?}");
}
