//! Kinds of JPEG and TIFF that decoders get wrong: each is read right, or refused by name.

use cupscale::image::{Format, ImageError, Input, Picture, ReadOptions, Warning, open};
use safetensors::SafeTensors;

use crate::common::tensors::stored;

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(crate::common::fixture("image").join(name)).unwrap()
}

fn read(bytes: &[u8]) -> Result<Picture, ImageError> {
    open(&Input::Bytes(bytes.into()), &ReadOptions::default())?.decode()
}

fn read_truncated(bytes: &[u8]) -> Result<Picture, ImageError> {
    let mut options = ReadOptions::default();
    options.allow_truncated = true;
    open(&Input::Bytes(bytes.into()), &options)?.decode()
}

fn said(picture: &Picture) -> String {
    picture.warnings.iter().map(|warning| format!("{warning}; ")).collect()
}

/// Greatest difference from what a fixture was made from, in 8-bit steps.
fn difference(name: &str, picture: &Picture) -> f32 {
    let bytes = bytes_of("kinds/pixels.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let shape = tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!([picture.height as usize, picture.width as usize, 3], shape[..], "{name}");
    let want = stored(&tensors, name);
    picture.rgb.iter().zip(&want).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) * 255.0
}

#[test]
fn rare_kinds_have_the_pixels_that_they_were_made_from() {
    for (name, tolerance) in [
        ("apart_2x2.jpg", 3.0),
        ("apart_1x2.jpg", 3.0),
        ("progressive_2x2.jpg", 3.1),
        ("restart_2x1.jpg", 3.1),
        ("rgb.jpg", 2.0),
        ("sample_4x1.jpg", 3.0),
        ("ycck.jpg", 3.0),
        ("twelve.jpg", 3.0),
        ("ycbcr_jpeg.tif", 3.1),
        ("group3.tif", 1e-3),
        ("group4_lsb.tif", 1e-3),
        ("preview_first.tif", 1e-3),
        ("webp.tif", 1e-3),
        ("float_tiles.tif", 1e-3),
        ("planes.tif", 1e-3),
    ] {
        let picture = read(&bytes_of(&format!("kinds/{name}"))).unwrap();
        let difference = difference(name, &picture);
        assert!(difference <= tolerance, "{name}: {difference} steps");
        assert_eq!(said(&picture), "", "{name}");
    }
    assert_eq!(read(&bytes_of("kinds/twelve.jpg")).unwrap().bit_depth, 16);
}

#[test]
fn kinds_that_are_not_read_are_named_with_what_converts_them() {
    let refusal = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    let arithmetic = refusal(&bytes_of("kinds/arithmetic.jpg"));
    assert!(arithmetic.contains("arithmetic-coded JPEG is not supported; "), "{arithmetic}");
    assert!(arithmetic.contains("jpegtran"), "{arithmetic}");
    let zstd = refusal(&Tiff::grey(&[0; 6], (3, 2)).with(259, 3, &[50_000]).bytes());
    assert!(zstd.contains("Zstandard") && zstd.contains("tiffcp"), "{zstd}");
    let raw = refusal(&Tiff::grey(&[0; 6], (3, 2)).with(262, 3, &[32_803]).bytes());
    assert!(raw.contains("camera raw") && raw.contains("darktable-cli"), "{raw}");
    let dng = refusal(&Tiff::grey(&[0; 6], (3, 2)).with(50_706, 1, &[1, 4, 0, 0]).bytes());
    assert!(dng.contains("camera raw (DNG)"), "{dng}");
}

/// A JPEG of this size whose only scan is empty.
fn empty_scan(side: u16) -> Vec<u8> {
    let mut bytes = b"\xff\xd8\xff\xdb\0\x43\0".to_vec();
    bytes.extend([1; 64]);
    bytes.extend(b"\xff\xc0\0\x0b\x08");
    bytes.extend([side.to_be_bytes(), side.to_be_bytes()].concat());
    bytes.extend(b"\x01\x01\x11\0");
    for class in [0, 0x10] {
        bytes.extend(b"\xff\xc4\0\x14");
        bytes.push(class);
        bytes.push(1);
        bytes.extend([0; 16]);
    }
    bytes.extend(b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\xff\xd9");
    bytes
}

#[test]
fn a_jpeg_without_its_data_is_refused_from_its_header() {
    for side in [64, 16384] {
        let bytes = empty_scan(side);
        let error = open(&Input::Bytes(bytes.as_slice().into()), &ReadOptions::default());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("truncated, "), "{message}");
        assert!(read_truncated(&bytes).is_err(), "not even a row");
    }
}

#[test]
fn a_jpeg_that_ends_early_is_read_as_far_as_it_goes_when_that_is_allowed() {
    for (name, marked) in [("rgb.jpg", false), ("rgb.jpg", true), ("kinds/apart_2x2.jpg", true)] {
        let whole = bytes_of(name);
        // Ten or so bytes from the end, in the last rows; in the other file in the last component.
        let mut cut = whole[..whole.len() - 12].to_vec();
        if marked {
            cut.extend(b"\xff\xd9");
        }
        let refusal = read(&cut).unwrap_err().to_string();
        assert!(refusal.contains("truncated, "), "{name}: {refusal}");
        let (part, all) = (read_truncated(&cut).unwrap(), read(&whole).unwrap());
        let Some(Warning::Truncated { rows_read, rows }) = part.warnings.first() else {
            panic!("{name}: {:?}", part.warnings);
        };
        assert!(0 < *rows_read && rows_read < rows && *rows == all.height, "{name}");
        let width = 3 * part.width as usize;
        // The last rows that are there lean on chroma of rows that are not.
        let sure = (*rows_read as usize - 1) * width;
        let near = part.rgb[..sure].iter().zip(&all.rgb[..sure]).all(|(a, b)| (a - b).abs() < 0.02);
        assert!(near, "{name}");
        let last = &part.rgb[(*rows_read as usize - 1) * width..][..width];
        assert!(part.rgb[*rows_read as usize * width..].chunks(width).all(|row| row == last));
    }
}

#[test]
fn a_progressive_jpeg_that_ends_early_is_whole_but_coarser() {
    let whole = bytes_of("progressive.jpg");
    let cut = &whole[..whole.len() - 40];
    assert!(read(cut).unwrap_err().to_string().contains("lack their detail"));
    let picture = read_truncated(cut).unwrap();
    assert_eq!(picture.warnings, [Warning::DetailMissing(Format::Jpeg.into())]);
}

#[test]
fn a_jpeg_that_lacks_only_its_end_marker_is_read_with_a_note() {
    for name in ["rgb.jpg", "progressive.jpg"] {
        let whole = bytes_of(name);
        let picture = read(&whole[..whole.len() - 2]).unwrap();
        let rows = picture.height;
        assert_eq!(picture.warnings, [Warning::Truncated { rows_read: rows, rows }], "{name}");
    }
}

/// A little-endian TIFF with one strip, and with other directories behind it.
struct Tiff {
    entries: Vec<(u16, u16, Vec<u32>)>,
    data: Vec<u8>,
}

impl Tiff {
    fn grey(data: &[u8], (width, height): (u32, u32)) -> Self {
        let entry = |tag, value| (tag, 4, vec![value]);
        let entries = vec![
            entry(256, width),
            entry(257, height),
            entry(258, 8),
            entry(259, 1),
            entry(262, 1),
            entry(273, 0),
            entry(277, 1),
            entry(278, height),
            entry(279, data.len() as u32),
        ];
        Self { entries, data: data.to_vec() }
    }

    /// Sets an entry: of BYTE (1), SHORT (3) or LONG (4).
    fn with(mut self, tag: u16, kind: u16, values: &[u32]) -> Self {
        self.entries.retain(|entry| entry.0 != tag);
        self.entries.push((tag, kind, values.to_vec()));
        self.entries.sort();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let table = 8 + 2 + 12 * self.entries.len() as u32 + 4;
        let mut values = Vec::new();
        let mut out = b"II*\0\x08\0\0\0".to_vec();
        out.extend((self.entries.len() as u16).to_le_bytes());
        let mut offset_field = 0;
        for (tag, kind, numbers) in &self.entries {
            let size = match kind {
                1 => 1,
                3 => 2,
                _ => 4,
            };
            let packed: Vec<u8> =
                numbers.iter().flat_map(|n| n.to_le_bytes()[..size].to_vec()).collect();
            out.extend(tag.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((numbers.len() as u32).to_le_bytes());
            if *tag == 273 {
                offset_field = out.len();
            }
            let mut field = [0; 4];
            if packed.len() <= 4 {
                field[..packed.len()].copy_from_slice(&packed);
            } else {
                field = (table + values.len() as u32).to_le_bytes();
                values.extend(packed);
            }
            out.extend(field);
        }
        out.extend([0; 4]);
        out.extend(values);
        let at = (out.len() as u32).to_le_bytes();
        out[offset_field..offset_field + 4].copy_from_slice(&at);
        out.extend(&self.data);
        out
    }

    fn pixels(&self) -> Vec<[f32; 3]> {
        let picture = read(&self.bytes()).unwrap();
        picture.rgb.chunks_exact(3).map(|p| [p[0], p[1], p[2]].map(|v| v * 255.0)).collect()
    }
}

fn assert_near(got: &[[f32; 3]], want: &[[f32; 3]], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() <= tolerance, "{what}: {got} for {want}");
    }
}

#[test]
fn bits_bytes_and_signs_of_a_tiff_are_read_as_they_are_meant() {
    let grey = |v: f32| [v; 3];
    let tiff = |data: &[u8], size| Tiff::grey(data, size);
    // One bit, the lowest first; ten and twelve bits; signed; a palette.
    let lsb = tiff(&[0b0000_0101], (3, 1)).with(258, 3, &[1]).with(266, 3, &[2]);
    assert_near(&lsb.pixels(), &[grey(255.0), grey(0.0), grey(255.0)], 0.0, "fill order");
    let ten = tiff(&[0xFF, 0xC0, 0x10, 0], (3, 1)).with(258, 3, &[10]);
    let want = [grey(255.0), grey(255.0 / 1023.0), grey(0.0)];
    assert_near(&ten.pixels(), &want, 1e-3, "ten bits");
    let signed = tiff(&[0x80, 0xFF, 0x7F], (3, 1)).with(339, 3, &[2]);
    assert_near(&signed.pixels(), &[grey(0.0), grey(127.0), grey(255.0)], 1e-3, "signed");
    let above = tiff(&[0, 0x7F], (2, 1)).with(339, 3, &[2]);
    assert_near(&above.pixels(), &[grey(0.0), grey(255.0)], 1e-3, "signed, none below 0");
    let counted = tiff(&[51, 0, 0, 0, 255, 0, 0, 0], (2, 1)).with(258, 3, &[32]);
    assert_near(&counted.pixels(), &[grey(51.0), grey(255.0)], 1e-3, "32 bits up to 255");
    let palette = [0, 65535, 257, 0, 0, 514, 0, 0, 771];
    let mut map = vec![0u32; 3 * 16];
    for (i, &v) in palette.iter().enumerate() {
        map[i / 3 * 16 + i % 3] = v;
    }
    let indexed = tiff(&[0x12], (2, 1)).with(258, 3, &[4]).with(262, 3, &[3]).with(320, 3, &map);
    let want = [[255.0, 0.0, 0.0], [1.0, 2.0, 3.0]];
    assert_near(&indexed.pixels(), &want, 1e-3, "palette");
    assert_eq!(read(&indexed.bytes()).unwrap().bit_depth, 8);
    let upper: Vec<u32> = map.iter().map(|v| v / 257 * 256).collect();
    assert_near(&indexed.with(320, 3, &upper).pixels(), &want, 1e-3, "palette in upper bytes");
}

#[test]
fn ycbcr_and_lab_of_a_tiff_become_rgb() {
    // Red as JFIF's YCbCr, plain and with two by two pixels that share their chroma.
    let red = [254.0, 0.0, 0.0];
    let three = |data: &[u8], size| {
        Tiff::grey(data, size).with(258, 3, &[8, 8, 8]).with(277, 3, &[3]).with(262, 3, &[6])
    };
    let plain = three(&[76, 85, 255, 76, 85, 255], (2, 1)).with(530, 3, &[1, 1]);
    assert_near(&plain.pixels(), &[red; 2], 1.5, "4:4:4");
    let shared = three(&[76, 76, 76, 76, 85, 255], (2, 2)).with(530, 3, &[2, 2]);
    assert_near(&shared.pixels(), &[red; 4], 1.5, "4:2:0");
    // L* 53.24, a* 80.09, b* 67.20 seen from D65 are 54.29, 80.82, 69.88 from D50.
    let lab = three(&[138, 81, 70], (1, 1)).with(262, 3, &[8]);
    assert_near(&lab.pixels(), &[[255.0, 0.0, 0.0]], 4.0, "L*a*b*");
}

#[test]
fn floats_beyond_one_and_channels_without_meaning_are_said() {
    let floats = |values: &[f32], width| {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tiff::grey(&data, (width, 1)).with(258, 3, &[32]).with(339, 3, &[3])
    };
    let highlights = read(&floats(&[0.25, 0.5, 0.75, 3.0], 4).bytes()).unwrap();
    assert!(highlights.light.is_some_and(|light| !light.linear && light.peak > 3.0));
    assert!((highlights.rgb[9] - 1.0).abs() < 1e-6 && (highlights.rgb[3] - 0.5).abs() < 1e-6);
    let counted = floats(&[51.0, 102.0, 255.0], 3);
    assert_near(&counted.pixels(), &[[51.0; 3], [102.0; 3], [255.0; 3]], 1e-3, "to 255");
    assert!(said(&read(&counted.bytes()).unwrap()).contains("255 is taken as white"));
    assert_eq!(said(&read(&floats(&[0.5, 1.0], 2).bytes()).unwrap()), "");
    let extra = Tiff::grey(&[1, 2, 3, 4], (1, 1))
        .with(258, 3, &[8; 4])
        .with(277, 3, &[4])
        .with(262, 3, &[2])
        .with(338, 3, &[0]);
    let picture = read(&extra.bytes()).unwrap();
    assert!(picture.alpha.is_none() && said(&picture).contains("was left out"));
}

#[test]
fn a_tiff_that_ends_early_is_read_as_far_as_it_goes_when_that_is_allowed() {
    let data: Vec<u8> = (0..64).collect();
    let whole = Tiff::grey(&data, (8, 8)).bytes();
    let cut = &whole[..whole.len() - 20];
    assert!(read(cut).unwrap_err().to_string().contains("truncated"));
    let picture = read_truncated(cut).unwrap();
    assert_eq!(picture.warnings, [Warning::Truncated { rows_read: 5, rows: 8 }]);
    assert_eq!(picture.rgb[3 * 32..3 * 40], picture.rgb[3 * 56..3 * 64]);
    // Data that stop inside the file are found when they are read.
    let short = Tiff::grey(&data[..60], (8, 8)).bytes();
    let refusal = read(&short).unwrap_err().to_string();
    assert!(refusal.contains("truncated, 7 of 8 rows are there"), "{refusal}");
}
