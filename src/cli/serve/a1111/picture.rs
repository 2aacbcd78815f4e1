//! Pictures in A1111's requests: base64 with or without the head of a data URL, their sizes, and the cut that a resize to
//! another shape may ask for.

use std::{ops::Range, sync::Arc};

use axum::body::Bytes;
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use cupscale::image::{
    self, Buffer, EncodeOptions, Encoder, Format, Input, Output, Picture, ReadOptions,
};

use super::error::A1111Error;

/// Clients leave out the padding, or the bits behind the last byte are not 0.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Rows that are written at once.
const BAND: u32 = 64;

/// A picture that came with a request: its file, and its size, upright.
#[derive(Clone, Debug)]
pub struct Sent {
    bytes: Arc<[u8]>,
    pub width: u32,
    pub height: u32,
}

impl Sent {
    /// Reads a picture's base64 and the head of its file. `what` names it in errors.
    ///
    /// # Errors
    /// No base64, an address in its place, a file that is no picture, or more pixels than are taken.
    pub fn read(what: &str, text: &str, most_pixels: u64) -> Result<Self, A1111Error> {
        let bytes =
            decode(text).map_err(|reason| A1111Error::unfit(format!("{what}: {reason}")))?;
        let sent = Self::of(what, bytes.into())?;
        let pixels = u64::from(sent.width) * u64::from(sent.height);
        if pixels > most_pixels {
            return Err(A1111Error::too_large(format!(
                "{what}: {} × {} pixels, and this server takes {most_pixels} at most",
                sent.width, sent.height
            )));
        }
        Ok(sent)
    }

    fn of(what: &str, bytes: Arc<[u8]>) -> Result<Self, A1111Error> {
        let opened = image::open(&Input::Bytes(Arc::clone(&bytes)), &ReadOptions::default());
        let shape = opened.map_err(|error| unreadable(what, &error))?.shape();
        Ok(Self { bytes, width: shape.width, height: shape.height })
    }

    /// Its file, which is shared and not copied.
    pub fn file(&self) -> Bytes {
        Bytes::from_owner(Arc::clone(&self.bytes))
    }

    /// `true` if it has the shape of these sides within a pixel.
    pub fn has_shape(&self, (width, height): (u32, u32)) -> bool {
        middle((self.width, self.height), (width, height)) == ((0, self.width), (0, self.height))
    }

    /// The middle of the picture in the shape of these sides, as large as it can be; the picture itself if it has that shape
    /// within a pixel.
    ///
    /// # Errors
    /// A picture that cannot be read to its end.
    pub fn cut_to(self, what: &str, (width, height): (u32, u32)) -> Result<Self, A1111Error> {
        if self.has_shape((width, height)) {
            return Ok(self);
        }
        let (x, y) = middle((self.width, self.height), (width, height));
        let failed = |error: image::ImageError| unreadable(what, &error);
        let picture = image::decode_bytes(what, &self.bytes).map_err(failed)?;
        let bytes = png_of(&picture, x, y).map_err(failed)?;
        Self::of(what, bytes.into())
    }
}

/// First and behind the last column and row of the largest middle of `(width, height)` in the shape of `(to_width, to_height)`.
fn middle(
    (width, height): (u32, u32),
    (to_width, to_height): (u32, u32),
) -> ((u32, u32), (u32, u32)) {
    let (w, h) = (u64::from(width), u64::from(height));
    let (to_w, to_h) = (u64::from(to_width), u64::from(to_height));
    let rounded = |part: u64, of: u64| ((2 * part + of) / (2 * of)) as u32;
    let centred = |length: u32, whole: u32| {
        let length = length.clamp(1, whole);
        let start = (whole - length) / 2;
        (start, start + length)
    };
    if w * to_h > h * to_w {
        (centred(rounded(h * to_w, to_h), width), (0, height))
    } else {
        ((0, width), centred(rounded(w * to_h, to_w), height))
    }
}

/// A PNG of these columns and rows.
fn png_of(
    picture: &Picture,
    (left, right): (u32, u32),
    (top, bottom): (u32, u32),
) -> image::Result<Vec<u8>> {
    let buffer = Buffer::default();
    let (width, height) = (right - left, bottom - top);
    let options = EncodeOptions::like(picture);
    let output = Output::Buffer(buffer.clone());
    let mut writer = Encoder::create(&output, Format::Png, width, height, options)?;
    let rows = |plane: &[f32], channels: usize, rows: Range<u32>| -> Vec<f32> {
        let line = picture.width as usize * channels;
        let columns = left as usize * channels..right as usize * channels;
        rows.flat_map(|row| &plane[row as usize * line..][columns.clone()]).copied().collect()
    };
    for start in (top..bottom).step_by(BAND as usize) {
        let band = start..(start + BAND).min(bottom);
        let alpha = picture.alpha.as_ref().map(|alpha| rows(alpha, 1, band.clone()));
        writer.write_rows(&rows(&picture.rgb, 3, band), alpha.as_deref())?;
    }
    writer.finish()?;
    Ok(buffer.take())
}

/// The file of a small picture as a PNG, which clients of A1111 take previews for.
///
/// # Errors
/// A file that is no picture.
pub fn as_png(bytes: &[u8]) -> image::Result<Vec<u8>> {
    let picture = image::decode_bytes("preview", bytes)?;
    png_of(&picture, (0, picture.width), (0, picture.height))
}

/// The base64 of a file.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The file whose base64 this is.
///
/// # Errors
/// The reason, without the text.
pub fn decode(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("no picture: send its file as base64".to_owned());
    }
    if ["http:", "https:", "file:"].iter().any(|scheme| starts_with(text, scheme)) {
        return Err(
            "an address: this server fetches nothing; send the picture itself as base64".to_owned()
        );
    }
    let text = match text.split_once(',') {
        Some((head, data)) if starts_with(head, "data:") => data,
        _ => text,
    };
    let wrong = |error: base64::DecodeError| format!("no base64: {error}");
    if text.bytes().any(|sign| sign.is_ascii_whitespace()) {
        let dense: String = text.split_ascii_whitespace().collect();
        return LENIENT.decode(dense).map_err(wrong);
    }
    LENIENT.decode(text).map_err(wrong)
}

fn starts_with(text: &str, head: &str) -> bool {
    text.get(..head.len()).is_some_and(|start| start.eq_ignore_ascii_case(head))
}

fn unreadable(what: &str, error: &image::ImageError) -> A1111Error {
    let reason = error.to_string();
    // A file that came as bytes has a name of its own in errors, which says nothing here.
    let own = [format!("{what}: "), format!("{}: ", Input::Bytes(Arc::default()).name())];
    let reason = own.iter().find_map(|name| reason.strip_prefix(name.as_str())).unwrap_or(&reason);
    A1111Error::unfit(format!("{what}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let samples =
            (0..width * height).flat_map(|at| [(at % width) as u8, (at / width) as u8, 9]);
        let picture = Picture::from_rgb8(width, height, &samples.collect::<Vec<_>>()).unwrap();
        png_of(&picture, (0, width), (0, height)).unwrap()
    }

    #[test]
    fn base64_comes_with_and_without_a_head_and_padding() {
        let file = png(5, 3);
        let plain = encode(&file);
        let spaced: String = plain.chars().flat_map(|sign| [sign, '\n']).collect();
        for text in [
            plain.clone(),
            plain.trim_end_matches('=').to_owned(),
            format!("data:image/png;base64,{plain}"),
            format!(" DATA:image/png;base64,{plain}\r\n"),
            spaced,
        ] {
            assert_eq!(decode(&text).as_deref(), Ok(&*file));
        }
        let sent = Sent::read("image", &plain, 15).unwrap();
        assert_eq!((sent.width, sent.height), (5, 3));
        let error = Sent::read("image", &plain, 14).unwrap_err().to_string();
        assert!(error.contains("5 × 3 pixels") && error.contains("14 at most"), "{error}");
        for (text, said) in [
            ("", "no picture"),
            ("http://example.org/a.png", "fetches nothing"),
            ("File:///etc/passwd", "fetches nothing"),
            ("~~~~", "no base64"),
            ("data:image/png;base64,", ""),
            ("aGVsbG8=", ""),
        ] {
            let error = Sent::read("init_images[0]", text, 1 << 20).unwrap_err().to_string();
            assert!(error.starts_with("init_images[0]: ") && error.contains(said), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn a_cut_keeps_the_middle_in_the_shape_that_is_asked_for() {
        assert_eq!(middle((100, 50), (10, 10)), ((25, 75), (0, 50)));
        assert_eq!(middle((50, 100), (20, 10)), ((0, 50), (37, 62)));
        assert_eq!(middle((64, 48), (128, 96)), ((0, 64), (0, 48)));
        assert_eq!(middle((3, 1000), (4000, 1)), ((0, 3), (499, 500)));
        // 100 × 75 at 133 × 100: the same shape within a pixel.
        assert_eq!(middle((100, 75), (133, 100)), ((0, 100), (0, 75)));
        let sent = Sent::read("image", &encode(&png(9, 4)), 36).unwrap();
        let whole = sent.clone().cut_to("image", (18, 8)).unwrap();
        assert_eq!(whole.bytes, sent.bytes);
        let cut = sent.cut_to("image", (40, 40)).unwrap();
        assert_eq!((cut.width, cut.height), (4, 4));
        let picture = image::decode_bytes("cut", &cut.bytes).unwrap();
        assert_eq!((picture.rgb[0] * 255.0).round(), 2.0);
    }
}
