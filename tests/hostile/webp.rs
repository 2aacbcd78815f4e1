//! WebP: chunks that lie about their lengths, canvases that are not the picture's, streams cut short.

use std::fs;

use crate::{Case, End, all_right};

fn sample(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/image");
    fs::read(folder.join(name)).unwrap()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_le_bytes();
    [&kind[..], &length, data, &[0][..data.len() % 2]].concat()
}

fn file(chunks: &[u8]) -> Vec<u8> {
    [&b"RIFF"[..], &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", chunks].concat()
}

/// An extended header: flags and the canvas.
fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    chunk(b"VP8X", &[vec![flags, 0, 0, 0], side(width), side(height)].concat())
}

#[test]
fn pictures() {
    let refused =
        |name: &str, bytes| Case::picture(format!("webp {name}"), "webp", bytes, End::Refused);
    let mut cases = Vec::new();
    for name in ["lossless.webp", "lossy.webp"] {
        let good = sample(name);
        for cut in [12, 16, 20, 24, 30, good.len() / 2, good.len() - 2] {
            cases.push(refused(&format!("{name} cut at {cut}"), good[..cut].to_vec()));
        }
        // The container agrees with the cut, so that only the stream can tell.
        let body = &good[20..];
        let cut = chunk(good[12..16].try_into().unwrap(), &body[..body.len() / 3]);
        cases.push(refused(&format!("{name}, its stream cut"), file(&cut)));
        let mut damaged = good.clone();
        damaged[20] ^= 0xFF;
        cases.push(refused(&format!("{name} damaged at its head"), damaged));
        let mut long = good.clone();
        long[16..20].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
        cases.push(refused(&format!("{name} whose chunk claims 4 GiB"), long));
    }
    let good = sample("lossless.webp")[12..].to_vec();
    cases.push(refused("without chunks", file(b"")));
    cases.push(refused("of an unknown chunk", file(&chunk(b"ABCD", b"abcd"))));
    cases.push(refused(
        "of 2^24 x 2^24",
        file(&[extended(0, 1 << 24, 1 << 24), good.clone()].concat()),
    ));
    cases.push(refused("of a canvas alone", file(&extended(0, 16, 12))));
    cases.push(refused(
        "of 16384 x 16384 in a few bytes",
        file(&chunk(b"VP8L", b"\x2f\xff\xff\xff\x0f\x07\x10\xfd")),
    ));
    cases.push(refused(
        "animated without frames",
        file(&[extended(2, 16, 12), chunk(b"ANIM", &[0; 6])].concat()),
    ));
    let claims = [&b"EXIF"[..], &0xffff_fff0u32.to_le_bytes(), b"abc"].concat();
    for (name, flags, extra) in [
        ("EXIF that claims 4 GiB", 8, claims),
        ("EXIF of nothing", 8, chunk(b"EXIF", b"")),
        ("XMP of 48 MiB", 4, chunk(b"XMP ", &vec![b' '; 48 << 20])),
        ("a profile of 48 MiB", 32, chunk(b"ICCP", &vec![7; 48 << 20])),
        ("20000 unknown chunks", 0, (0..20_000).flat_map(|_| chunk(b"ABCD", b"")).collect()),
    ] {
        let (width, height) = size(&good);
        let bytes = file(&[extended(flags, width, height), good.clone(), extra].concat());
        cases.push(Case::picture(format!("webp with {name}"), "webp", bytes, End::Bounded));
    }
    all_right(cases, 25);
}

/// Size of a lossless stream in its chunk: 14 bits each after the signature.
fn size(chunk: &[u8]) -> (u32, u32) {
    let bits = u32::from_le_bytes([chunk[9], chunk[10], chunk[11], chunk[12]]);
    ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
}
