//! JPEG: segments that lie about lengths and sizes, kinds of coding that nobody reads, and scans that hold nothing.

use crate::{Case, End, all_right};

fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, marker][..], &length, data].concat()
}

/// A frame header: marker, bits, size, and for each component its number, sampling and table.
fn frame(marker: u8, bits: u8, (width, height): (u16, u16), parts: &[[u8; 3]]) -> Vec<u8> {
    let size = [height.to_be_bytes(), width.to_be_bytes()].concat();
    segment(marker, &[&[bits][..], &size, &[parts.len() as u8], &parts.concat()].concat())
}

/// A quantization table of ones.
fn table() -> Vec<u8> {
    segment(0xDB, &[&[0][..], &[1; 64]].concat())
}

/// Huffman tables with one code of one bit each, of class and number 0.
fn codes() -> Vec<u8> {
    let one = |class: u8| segment(0xC4, &[&[class, 1][..], &[0; 15], &[0]].concat());
    [one(0), one(0x10)].concat()
}

fn scan(parts: &[[u8; 2]], data: &[u8]) -> Vec<u8> {
    let head = [&[parts.len() as u8][..], &parts.concat(), &[0, 63, 0]].concat();
    [segment(0xDA, &head), data.to_vec()].concat()
}

fn file(parts: &[Vec<u8>]) -> Vec<u8> {
    [vec![0xFF, 0xD8], parts.concat(), vec![0xFF, 0xD9]].concat()
}

const GREY: &[[u8; 3]] = &[[1, 0x11, 0]];
const COLOUR: &[[u8; 3]] = &[[1, 0x22, 0], [2, 0x11, 0], [3, 0x11, 0]];
const INKS: &[[u8; 3]] = &[[1, 0x11, 0], [2, 0x11, 0], [3, 0x11, 0], [4, 0x11, 0]];

/// A grey picture of this size whose only scan holds these bytes.
pub fn grey(size: (u16, u16), data: &[u8]) -> Vec<u8> {
    file(&[table(), frame(0xC0, 8, size, GREY), codes(), scan(&[[1, 0]], data)])
}

#[test]
fn pictures() {
    let refused =
        |name: &str, bytes| Case::picture(format!("jpeg {name}"), "jpg", bytes, End::Refused);
    // One code of one bit a coefficient, so that 64 blocks are 16 bytes of zeros.
    let good = grey((64, 64), &[0; 16]);
    let mut cases = vec![Case::picture("jpeg that is good", "jpg", good.clone(), End::Done)];
    for cut in [2, 3, 4, 20, 71, 80, 90, 130, good.len() - 12] {
        cases.push(refused(&format!("cut at {cut}"), good[..cut].to_vec()));
    }
    for size in [(64, 64), (8192, 8192), (16_384, 16_384)] {
        cases.push(refused(&format!("of {size:?} with an empty scan"), grey(size, b"")));
        cases.push(refused(&format!("of {size:?} with a scan of 7 bytes"), grey(size, &[0; 7])));
    }
    for size in [(0, 64), (64, 0), (0, 0), (65_535, 65_535), (65_535, 4_100)] {
        cases.push(refused(&format!("of {size:?}"), grey(size, &[0; 16])));
    }
    let inks = |data: &[u8]| {
        let parts: Vec<_> = INKS.iter().map(|part| [part[0], 0]).collect();
        let adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\x02");
        file(&[adobe, table(), frame(0xC0, 8, (16_384, 16_384), INKS), codes(), scan(&parts, data)])
    };
    cases.push(refused("of inks with an empty scan", inks(b"")));
    cases.push(refused("of inks with a scan of 700 bytes", inks(&[0; 700])));
    for (name, marker) in [
        ("lossless", 0xC3),
        ("hierarchical", 0xC5),
        ("hierarchical progressive", 0xC6),
        ("hierarchical lossless", 0xC7),
        ("of arithmetic codes", 0xC9),
        ("progressive of arithmetic codes", 0xCA),
        ("lossless of arithmetic codes", 0xCB),
    ] {
        let parts = [table(), frame(marker, 8, (64, 64), GREY), codes(), scan(&[[1, 0]], &[0; 16])];
        cases.push(refused(name, file(&parts)));
    }
    let frames = |name: &str, frame: Vec<u8>| {
        refused(name, file(&[table(), frame, codes(), scan(&[[1, 0]], &[0; 16])]))
    };
    cases.push(frames("of 7 bits", frame(0xC0, 7, (64, 64), GREY)));
    cases.push(frames("of 0 bits", frame(0xC0, 0, (64, 64), GREY)));
    cases.push(frames("of no components", frame(0xC0, 8, (64, 64), &[])));
    cases.push(frames("of 5 components", frame(0xC0, 8, (64, 64), &[[1, 0x11, 0]; 5])));
    cases.push(frames("of 200 components", frame(0xC0, 8, (64, 64), &[[1, 0x11, 0]; 200])));
    cases.push(frames("of sampling 0", frame(0xC0, 8, (64, 64), &[[1, 0, 0]])));
    cases.push(frames(
        "of sampling 15",
        frame(0xC0, 8, (64, 64), &[[1, 0xFF, 0], [2, 0x11, 0], [3, 0x11, 0]]),
    ));
    cases.push(frames("of a table that is not there", frame(0xC0, 8, (64, 64), &[[1, 0x11, 3]])));
    cases.push(frames("of a frame of 2 bytes", segment(0xC0, &[8, 0])));
    for (name, parts) in [
        ("without a frame", vec![table(), codes(), scan(&[[1, 0]], &[0; 16])]),
        ("without a scan", vec![table(), frame(0xC0, 8, (64, 64), GREY), codes()]),
        ("without codes", vec![table(), frame(0xC0, 8, (64, 64), GREY), scan(&[[1, 0]], &[0; 16])]),
        (
            "whose scan is of another part",
            vec![table(), frame(0xC0, 8, (64, 64), GREY), codes(), scan(&[[9, 0]], &[0; 16])],
        ),
        (
            "with one scan of three",
            vec![table(), frame(0xC0, 8, (64, 64), COLOUR), codes(), scan(&[[1, 0]], &[0; 16])],
        ),
        (
            "with too many codes",
            vec![
                table(),
                segment(0xC4, &[&[0][..], &[255; 16], &[0; 60]].concat()),
                frame(0xC0, 8, (64, 64), GREY),
                scan(&[[1, 0]], &[0; 16]),
            ],
        ),
        (
            "with a table of kind 9",
            vec![
                segment(0xDB, &[0x99; 65]),
                frame(0xC0, 8, (64, 64), GREY),
                codes(),
                scan(&[[1, 0]], &[0; 16]),
            ],
        ),
    ] {
        cases.push(refused(name, file(&parts)));
    }
    let start = [&[0xFF, 0xD8, 0xFF, 0xE1, 0xFF, 0xFF][..], &[0; 40]].concat();
    cases.push(refused("with a segment that ends outside", start));
    cases.push(refused(
        "of markers alone",
        [0xFF, 0xD8].iter().copied().cycle().take(4000).collect(),
    ));
    cases.push(refused("of FF alone", [&[0xFF, 0xD8][..], &[0xFF; 4000]].concat()));

    // Metadata that lie.
    let with = |extra: Vec<u8>| {
        file(&[extra, table(), frame(0xC0, 8, (64, 64), GREY), codes(), scan(&[[1, 0]], &[0; 16])])
    };
    let exif = |data: &[u8]| segment(0xE1, &[b"Exif\0\0", data].concat());
    let part =
        |n: u8, of: u8| segment(0xE2, &[&b"ICC_PROFILE\0"[..], &[n, of], &[7; 60_000]].concat());
    let extended = |offset: u32| {
        let head = [&b"http://ns.adobe.com/xmp/extension/\0"[..], &[b'A'; 32]].concat();
        let sizes = [u32::MAX.to_be_bytes(), offset.to_be_bytes()].concat();
        segment(0xE1, &[head, sizes, vec![b'x'; 100]].concat())
    };
    for (name, extra) in [
        (
            "EXIF whose directories go round",
            exif(b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"),
        ),
        ("EXIF of nothing", exif(b"")),
        ("255 parts of a profile", (1..=255).flat_map(|n| part(n, 255)).collect()),
        ("a profile's part 0 of 0", part(0, 0)),
        ("extended XMP of 4 GiB", extended(u32::MAX - 50)),
        ("2000 empty comments", (0..2000).flat_map(|_| segment(0xFE, b"")).collect()),
        ("6,000,000 empty segments", segment(0xE5, b"").repeat(6_000_000)),
        ("an Adobe segment of 3 bytes", segment(0xEE, b"Ado")),
    ] {
        cases.push(Case::picture(format!("jpeg with {name}"), "jpg", with(extra), End::Bounded));
    }
    all_right(cases, 45);
}
