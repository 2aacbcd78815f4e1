//! Properties of decoders: the header says what the pixels take, decoding twice gives the same, every sample is in
//! range, tolerance changes nothing in a whole file, and a decoded picture can be written and read again.

use cupscale::image::{
    self, Buffer, EncodeOptions, Encoder, Format, Input, InputKind, Output, Picture, ReadOptions,
};
use libfuzzer_sys::Corpus;

use crate::{KIB, MIB, told, within};

/// The most pixels that are decoded: the speed of a minute's fuzzing.
const MOST_PIXELS: u64 = 1 << 14;
/// Bytes of metadata.
const METADATA: u64 = 256 << 10;
/// What decoders hold besides what they say: rows, tables of codes, buffers of the file.
const ALLOWANCE: usize = 6 * MIB;

fn options(allow_truncated: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.allow_truncated = allow_truncated;
    options.max_metadata = METADATA;
    options
}

/// Decodes a file of one of these kinds; others are not kept in the corpus.
pub fn picture(kinds: &[InputKind], file: &[u8]) -> Corpus {
    let Some(kind) = image::kind_of("fuzz", file).ok().filter(|kind| kinds.contains(kind)) else {
        return Corpus::Reject;
    };
    let strict = decode(file, false);
    let again = decode(file, false);
    assert_eq!(strict, again, "decoded twice");
    let tolerant = decode(file, true);
    if let Some(strict) = strict {
        let tolerant = tolerant.expect("tolerance refuses a whole file");
        assert!(strict.rgb == tolerant.rgb && strict.alpha == tolerant.alpha, "tolerance");
        write_again(kind.output(), &strict);
    }
    Corpus::Keep
}

fn decode(file: &[u8], allow_truncated: bool) -> Option<Picture> {
    let input = Input::Bytes(file.into());
    let header = ALLOWANCE + 3 * METADATA as usize + 4 * file.len();
    let opened = match within(header, || image::open(&input, &options(allow_truncated))) {
        Ok(opened) => opened,
        Err(error) => {
            told(error);
            return None;
        }
    };
    let shape = opened.shape();
    let pixels = u64::from(shape.width) * u64::from(shape.height);
    assert!(pixels > 0 && pixels <= image::MAX_PIXELS, "{shape:?}");
    if pixels > MOST_PIXELS {
        return None;
    }
    // Planes, and those of a picture that is turned.
    let planes = 2 * pixels as usize * if shape.alpha { 16 } else { 12 };
    let most = planes + shape.decoder_bytes as usize + header;
    let picture = match within(most, || opened.decode()) {
        Ok(picture) => picture,
        Err(error) => {
            told(error);
            return None;
        }
    };
    assert_eq!((picture.width, picture.height), (shape.width, shape.height));
    assert_eq!(picture.alpha.is_some(), shape.alpha);
    assert_eq!(picture.rgb.len() as u64, 3 * pixels);
    let in_range = |samples: &[f32]| samples.iter().all(|value| (0.0..=1.0).contains(value));
    assert!(in_range(&picture.rgb), "colours out of range");
    if let Some(alpha) = &picture.alpha {
        assert_eq!(alpha.len() as u64, pixels);
        assert!(in_range(alpha), "alpha out of range");
    }
    picture.warnings.iter().for_each(told);
    Some(picture)
}

/// Writes a picture with its metadata, in the format of its outputs and as PNG, and reads that.
fn write_again(format: Format, picture: &Picture) {
    for format in [format, Format::Png] {
        let mut options = EncodeOptions::like(picture);
        options.settings = Some("{\"a\": \"<&>\"}".to_owned());
        let has_profile = options.icc.is_some() || !options.colour_chunks.is_empty();
        let buffer = Buffer::default();
        let output = Output::Buffer(buffer.clone());
        let (width, height) = (picture.width, picture.height);
        let writer = Encoder::create(&output, format, width, height, options);
        let mut writer = writer.expect("a picture of a size that is read can be written");
        writer.write_rows(&picture.rgb, picture.alpha.as_deref()).expect("rows of the picture");
        writer.finish().expect("a picture in memory").iter().for_each(told);
        let file = buffer.take();
        let input = Input::Bytes(file.as_slice().into());
        let read = image::open(&input, &ReadOptions::default()).and_then(|opened| opened.decode());
        let read = read.expect("what is written can be read");
        assert_eq!((read.width, read.height), (width, height));
        assert!(file.len() < 64 * KIB + 64 * picture.rgb.len() + 4 * METADATA as usize);
        // Light is cut in a PNG, and numbers of another kind in an OpenEXR.
        let is_lossless = !matches!(format, Format::Jpeg | Format::WebP | Format::Exr);
        if is_lossless && !has_profile && picture.light.is_none() {
            // farbfeld's depth is that of its samples.
            assert!(read.bit_depth == picture.bit_depth || format == Format::Farbfeld);
            same_samples(picture, &read);
        }
    }
}

/// Checks that visible pixels have kept their samples, rounded to the file's.
fn same_samples(written: &Picture, read: &Picture) {
    // Products of sixteen bits in f32 are off by up to 1/256 where they are rounded.
    let half = if written.bit_depth == 16 { 0.504 / 65535.0 } else { 0.5001 / 255.0 };
    let near = |a: &f32, b: &f32| (a - b).abs() <= half;
    let visible = |at: usize| read.alpha.as_ref().is_none_or(|alpha| alpha[at] > 0.0);
    for (at, (a, b)) in written.rgb.chunks(3).zip(read.rgb.chunks(3)).enumerate() {
        assert!(!visible(at) || a.iter().zip(b).all(|(a, b)| near(a, b)), "{a:?} became {b:?}");
    }
    if let (Some(a), Some(b)) = (&written.alpha, &read.alpha) {
        assert!(a.iter().zip(b.iter()).all(|(a, b)| near(a, b)), "alpha");
    }
}
