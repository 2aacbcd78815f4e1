//! PNG: chunks that lie about lengths, sizes and kinds, streams that end early or late, and metadata that inflate.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};

use crate::{Case, End, all_right};

pub fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(kind);
    crc.update(data);
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&length, &kind[..], data, &crc.finalize().to_be_bytes()].concat()
}

pub fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// This many zero bytes, made without holding them.
pub fn inflates_to(bytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Size, bits per sample, colour type, interlacing.
fn header(width: u32, height: u32, depth: u8, colour: u8, interlaced: u8) -> Vec<u8> {
    let fields = [depth, colour, 0, 0, interlaced];
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &fields].concat())
}

/// Rows of 16 × 12 RGB pixels, each with its filter byte.
fn rows() -> Vec<u8> {
    (0..12u8).flat_map(|y| (0..49u8).map(move |x| if x == 0 { 0 } else { x * 5 + y })).collect()
}

fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    [MAGIC.to_vec(), chunks.concat()].concat()
}

/// A good picture of 16 × 12 with more chunks before its pixels.
pub fn with(extra: &[u8]) -> Vec<u8> {
    let pixels = chunk(b"IDAT", &deflated(&rows()));
    file(&[header(16, 12, 8, 2, 0), extra.to_vec(), pixels, chunk(b"IEND", b"")])
}

/// The same with another header.
fn headed(header: Vec<u8>) -> Vec<u8> {
    file(&[header, chunk(b"IDAT", &deflated(&rows())), chunk(b"IEND", b"")])
}

/// A text chunk of a keyword whose compressed text is this.
fn text(keyword: &str, packed: &[u8]) -> Vec<u8> {
    chunk(b"iTXt", &[keyword.as_bytes(), b"\0\x01\0\0\0", packed].concat())
}

/// An EXIF block of one directory, of which every entry holds the whole block.
fn shared_exif(entries: u16, size: u32) -> Vec<u8> {
    let mut block = [&b"II*\0\x08\0\0\0"[..], &entries.to_le_bytes()].concat();
    for index in 0..entries {
        let tag = 40_000 + index % 20_000;
        block.extend([tag.to_le_bytes(), 7u16.to_le_bytes()].concat());
        block.extend([size.to_le_bytes(), 0u32.to_le_bytes()].concat());
    }
    block.extend([0; 4]);
    block.resize(block.len().max(size as usize), 0);
    block
}

#[test]
fn pictures() {
    let refused =
        |name: &str, bytes| Case::picture(format!("png {name}"), "png", bytes, End::Refused);
    let mut cases = Vec::new();
    let whole = with(b"");
    for cut in [8, 12, 20, 33, 40, 60, whole.len() - 13, whole.len() - 12, whole.len() - 4] {
        cases.push(refused(&format!("cut at {cut}"), whole[..cut].to_vec()));
    }
    for at in [16, 24, 25, 29, 50] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        cases.push(refused(&format!("bit flipped at {at}"), bytes));
    }
    for (width, height) in [
        (0, 12),
        (16, 0),
        (u32::MAX, u32::MAX),
        (0x7fff_ffff, 0x7fff_ffff),
        (0x7fff_ffff, 1),
        (1, 0x7fff_ffff),
        (65_536, 65_536),
        (16_385, 16_385),
    ] {
        let bytes = headed(header(width, height, 8, 2, 0));
        cases.push(refused(&format!("of {width} x {height}"), bytes));
    }
    for (depth, colour) in
        [(3, 0), (8, 1), (8, 5), (4, 2), (16, 3), (0, 0), (32, 0), (8, 7), (2, 6)]
    {
        let bytes = headed(header(16, 12, depth, colour, 0));
        cases.push(refused(&format!("of depth {depth} and kind {colour}"), bytes));
    }
    let end = || chunk(b"IEND", b"");
    let pixels = |data: &[u8]| chunk(b"IDAT", data);
    let good = || header(16, 12, 8, 2, 0);
    // Rows of 16 indices of 4 bits, all of the first colour.
    let indices = || pixels(&deflated(&[0; 12 * 9]));
    let indexed =
        |palette: &[u8]| vec![header(16, 12, 4, 3, 0), chunk(b"PLTE", palette), indices(), end()];
    for (name, chunks) in [
        ("interlacing of kind 7", vec![header(16, 12, 8, 2, 7), pixels(&deflated(&rows())), end()]),
        (
            "palette without colours",
            vec![header(16, 12, 8, 3, 0), pixels(&deflated(&rows())), end()],
        ),
        ("palette of 16 colours and a third", indexed(&[7; 49])),
        ("palette of 257 colours", indexed(&[7; 771])),
        ("palette of nothing", indexed(b"")),
        ("no pixels", vec![good(), end()]),
        ("pixels of nothing", vec![good(), pixels(b""), end()]),
        ("half of its rows", vec![good(), pixels(&deflated(&rows()[..290])), end()]),
        ("pixels that are no stream", vec![good(), pixels(&[0x55; 80]), end()]),
        ("filter of kind 9", vec![good(), pixels(&deflated(&[9; 588])), end()]),
        ("a stream cut", vec![good(), pixels(&deflated(&rows())[..20]), end()]),
        ("no header", vec![pixels(&deflated(&rows())), end()]),
        ("a header of 5 bytes", vec![chunk(b"IHDR", &[0; 5]), end()]),
        ("unknown critical chunk", vec![good(), chunk(b"ABCD", b"x"), end()]),
        (
            "a stream of 1 GiB for 588 bytes",
            vec![header(16384, 16384, 16, 6, 0), pixels(&inflates_to(1 << 26)), end()],
        ),
    ] {
        cases.push(refused(name, file(&chunks)));
    }
    let mut bytes = whole.clone();
    bytes[33..37].copy_from_slice(&0xffff_fff0u32.to_be_bytes());
    cases.push(refused("a chunk of 4 GiB", bytes));

    // Damage, or weight, that has nothing to do with the pixels.
    let bounded = |name: &str, extra: &[u8]| {
        Case::picture(format!("png {name}"), "png", with(extra), End::Bounded)
    };
    let bomb = inflates_to(512 << 20);
    for keyword in ["XML:com.adobe.xmp", "parameters", "Title", "cupscale"] {
        cases.push(bounded(&format!("text {keyword} of 512 MiB"), &text(keyword, &bomb)));
    }
    let packed = [b"Comment\0\0", &bomb[..]].concat();
    cases.push(bounded("packed text of 512 MiB", &chunk(b"zTXt", &packed)));
    cases.push(bounded("profile of 512 MiB", &chunk(b"iCCP", &[b"p\0\0", &bomb[..]].concat())));
    let many: Vec<u8> = (0..64).flat_map(|_| text("Comment", &inflates_to(16 << 20))).collect();
    cases.push(bounded("64 texts of 16 MiB", &many));
    // Each of the titles asks whether the packet has one.
    let packet = format!("<x><rdf:RDF>{}</rdf:RDF></x>", "dc:titlX".repeat(3 << 20));
    let mut titles = text("XML:com.adobe.xmp", &deflated(packet.as_bytes()));
    titles.extend(chunk(b"tEXt", b"Title\0b").repeat(4000));
    cases.push(Case::command(
        "png 4000 titles and a packet of 24 MiB",
        vec![("in.png".to_owned(), with(&titles))],
        "in.png -o out.webp --scale 2 --denoise-steps 1 --model MODEL",
        End::Done,
    ));
    let empty: Vec<u8> = (0..20_000).flat_map(|_| chunk(b"tEXt", b"a\0b")).collect();
    cases.push(bounded("20000 texts", &empty));
    for (entries, size) in [(5_000, 200_000), (65_535, 786_434)] {
        let name = format!("{entries} EXIF entries of {size}");
        cases.push(bounded(&name, &chunk(b"eXIf", &shared_exif(entries, size))));
    }
    let loops = b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0";
    for (name, data) in [
        ("of nothing", &b""[..]),
        ("of 3 bytes", b"II*"),
        ("whose directories go round", loops),
        ("whose directory is outside", b"II*\0\xff\xff\xff\xff"),
        ("of a million entries", b"MM\0*\0\0\0\x08\xff\xff\xff\xff"),
    ] {
        cases.push(bounded(&format!("EXIF {name}"), &chunk(b"eXIf", data)));
    }
    cases.push(bounded("density of 0", &chunk(b"pHYs", &[0; 9])));
    cases.push(bounded("gamma of 0", &chunk(b"gAMA", &[0; 4])));
    cases.push(bounded("whites of 0", &chunk(b"cHRM", &[0; 32])));
    cases.push(bounded("colours of kind 255", &chunk(b"cICP", &[255; 4])));
    cases.push(bounded("an animation of 2^31 frames", &chunk(b"acTL", &[0x7f; 8])));
    all_right(cases, 60);
}

/// What the header says decides before a pixel is decoded.
#[test]
fn a_large_picture_is_refused_by_its_header() {
    let rows = inflates_to(16_385 * 16_384);
    let bytes =
        file(&[header(16_384, 16_384, 8, 0, 0), chunk(b"IDAT", &rows), chunk(b"IEND", b"")]);
    let options = "plan in.png --scale 1 --max-memory 200MiB --model MODEL";
    let files = vec![("in.png".to_owned(), bytes)];
    let case = Case::command("png of 2^28 pixels", files, options, End::Bounded);
    all_right(vec![case], 1);
}
