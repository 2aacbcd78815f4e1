//! Foreign files: well-known formats that are not read, and files that are no pictures though they are often named like
//! one, by their first bytes, so that a refusal says what the file is and what helps.

/// A file that cannot be read as a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// A picture: its format, and what makes a readable one of it.
    Picture(&'static str, &'static str),
    /// No picture: what it is, with an article, and what helps.
    Other(&'static str, &'static str),
}

const MAGICK: &str = "`magick IN out.png` converts it";
const MAGICK_FIRST: &str = "`magick 'IN[0]' out.png` converts its first picture";
const RENDER: &str = "render it as a PNG at the size you want (`rsvg-convert -o out.png IN`)";
const PAGES: &str = "render a page of it as a PNG (`pdftoppm -png -r 300 IN page`)";
const HDR: &str = "it may hold light beyond white: `magick IN out.exr` keeps that";
const RAW: &str = "develop it first (`darktable-cli IN out.tif`)";
const DOWNLOAD: &str = "the address it was saved from leads to a page; download the picture itself";
const FRAME: &str = "`ffmpeg -i IN -frames:v 1 out.png` takes a frame of it";
const UNPACK: &str = "unpack it first";

/// What else than a picture that is read these first bytes (1,024 are enough) begin.
pub(crate) fn foreign(head: &[u8]) -> Option<Foreign> {
    of_magic(head).or_else(|| of_brand(head)).or_else(|| of_text(head)).or_else(|| of_header(head))
}

/// Formats with fixed first bytes.
fn of_magic(head: &[u8]) -> Option<Foreign> {
    use Foreign::{Other, Picture};
    let known: [(&[u8], Foreign); 18] = [
        (b"PF\n", Picture("PFM", HDR)),
        (b"Pf\n", Picture("PFM", HDR)),
        (b"gimp xcf", Picture("GIMP (XCF)", "export it from GIMP as a PNG or TIFF")),
        (b"\x8aMNG", Picture("MNG", MAGICK_FIRST)),
        (b"BPG\xfb", Picture("BPG", "`bpgdec -o out.png IN` converts it")),
        (b"SIMPLE  =", Picture("FITS", HDR)),
        (b"II\xbc\x01", Picture("JPEG XR", "`JxrDecApp -i IN -o out.tif` converts it")),
        (b"FUJIFILMCCD-RAW", Picture("camera raw (RAF)", RAW)),
        (b"IIU\0", Picture("camera raw (RW2)", RAW)),
        (b"IIRO", Picture("camera raw (ORF)", RAW)),
        (b"IIRS", Picture("camera raw (ORF)", RAW)),
        (b"FOVb", Picture("camera raw (X3F)", RAW)),
        (b"%PDF", Picture("PDF", PAGES)),
        (b"%!PS", Picture("PostScript", PAGES)),
        (b"version https://git-lfs.github.com/", Other("a Git LFS pointer", "run `git lfs pull`")),
        (b"\x1a\x45\xdf\xa3", Other("a video (Matroska)", FRAME)),
        (b"PK\x03\x04", Other("a ZIP archive", UNPACK)),
        (b"\x1f\x8b", Other("a gzip archive", UNPACK)),
    ];
    known.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, found)| found)
}

/// Containers of ISO's base media format, by their brand.
fn of_brand(head: &[u8]) -> Option<Foreign> {
    let brand = head.get(4..12)?.strip_prefix(b"ftyp")?;
    // The brands after the first say what a general one holds.
    let brands = head.get(16..64.min(head.len())).unwrap_or_default();
    let is_avif = brands.chunks_exact(4).any(|brand| brand == b"avif");
    Some(match brand {
        b"avif" | b"avis" => Foreign::Picture("AVIF", "`avifdec IN out.png` converts it"),
        b"mif1" | b"msf1" if is_avif => {
            Foreign::Picture("AVIF", "`avifdec IN out.png` converts it")
        }
        b"mif1" | b"msf1" => Foreign::Picture("HEIC", "`heif-convert IN out.png` converts it"),
        b"crx " => Foreign::Picture("camera raw (CR3)", RAW),
        brand if brand.starts_with(b"he") => {
            Foreign::Picture("HEIC", "`heif-convert IN out.png` converts it")
        }
        _ => Foreign::Other("a video (MP4 or QuickTime)", FRAME),
    })
}

/// Formats that are text.
fn of_text(head: &[u8]) -> Option<Foreign> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins =
        |tag: &[u8]| text.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag));
    let holds = |tag: &[u8]| text.windows(tag.len()).any(|window| window.eq_ignore_ascii_case(tag));
    let is_markup = text.first() == Some(&b'<');
    if is_markup && holds(b"<svg") && !holds(b"<html") {
        return Some(Foreign::Picture("SVG", RENDER));
    }
    let pages: [&[u8]; 5] = [b"<!doctype html", b"<html", b"<head", b"<body", b"<script"];
    if pages.iter().any(|tag| begins(tag)) || (is_markup && holds(b"<html")) {
        return Some(Foreign::Other("an HTML page", DOWNLOAD));
    }
    if begins(b"<?xml") {
        return Some(Foreign::Other("an XML text", DOWNLOAD));
    }
    None
}

/// Formats whose header is only likely.
fn of_header(head: &[u8]) -> Option<Foreign> {
    if let [10, 0..=5, 0 | 1, 1 | 2 | 4 | 8, ..] = head
        && head.len() >= 68
        && head[64] == 0
    {
        return Some(Foreign::Picture("PCX", MAGICK));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_people_have_is_named() {
        let mut pcx = vec![10, 5, 1, 8];
        pcx.resize(128, 0);
        for (head, kind) in [
            (&pcx[..], "PCX"),
            (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
            (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avif", "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
            (b"<?xml version=\"1.0\"?>\n<!-- x -->\n<svg xmlns=\"\">", "SVG"),
            (b"<svg width=\"1\">", "SVG"),
            (b"%PDF-1.7", "PDF"),
        ] {
            let found = foreign(head);
            assert!(matches!(found, Some(Foreign::Picture(name, _)) if name == kind), "{kind}");
        }
        for (head, kind) in [
            (&b"\xef\xbb\xbf\n <!DOCTYPE html><html><svg></svg></html>"[..], "an HTML page"),
            (b"<!-- saved --><HTML><body>", "an HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "an XML text"),
            (b"\0\0\0\x18ftypisom\0\0\0\0", "a video (MP4 or QuickTime)"),
        ] {
            let found = foreign(head);
            assert!(matches!(found, Some(Foreign::Other(name, _)) if name == kind), "{kind}");
        }
        for head in [&b"hello, world, this is text that is long enough"[..], &[0; 64], b"Photo"] {
            assert_eq!(foreign(head), None);
        }
    }
}
