//! What is no picture at all, captions files, and command lines that cannot work.

use crate::{Case, End, all_right, png};

fn good() -> Vec<(String, Vec<u8>)> {
    vec![("in.png".to_owned(), png::with(b""))]
}

#[test]
fn what_is_no_picture() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let cases = [
        ("empty", &b""[..], "empty"),
        ("one byte", b"\x89", ""),
        ("zeros", &[0; 4096], ""),
        ("text", b"not a picture at all\n", ""),
        ("HTML", b"<!DOCTYPE html><html><head><title>404</title>", "HTML"),
        ("Git LFS pointer", pointer, "LFS"),
        ("GIF", b"GIF89a\x10\0\x0c\0\x80\0\0\0\0\0\xff\xff\xff", "GIF"),
        ("BMP", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x10\0\0\0", "BMP"),
        ("PPM", b"P6\n16 12\n255\n", "PPM"),
        ("PAM", b"P7\nWIDTH 16\nHEIGHT 12\nDEPTH 3\nMAXVAL 255\nENDHDR\n", "PAM"),
        ("QOI", b"qoif\0\0\0\x10\0\0\0\x0c\x03\0", "QOI"),
        ("ICO", b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0", "ICO"),
        ("DDS", b"DDS \x7c\0\0\0\x07\x10\0\0", "DDS"),
        ("Radiance", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 12 +X 16\n", "Radiance"),
        ("OpenEXR", b"\x76\x2f\x31\x01\x02\0\0\0", "OpenEXR"),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        ("AVIF", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        ("HEIC", b"\0\0\0\x20ftypheic\0\0\0\0mif1heic", "HEIC"),
        ("PSD", b"8BPS\0\x01\0\0\0\0\0\0\0\x03", "PSD"),
        ("SVG", b"<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\">", "SVG"),
        ("PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        ("iPhone PNG", b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50\0\x20\x06\x2c\xb8\x77\x66", "PNG"),
        ("program", b"\x7fELF\x02\x01\x01\0\0\0\0\0", ""),
        ("archive", b"PK\x03\x04\x14\0\0\0\x08\0", ""),
    ]
    .map(|(name, bytes, says)| Case::picture(name, "png", bytes.to_vec(), End::Refused).says(says));
    all_right(cases.into(), 25);
}

/// A captions file for the grid of `good` at twice its size, with something replaced.
fn captions(replace: &str, by: &str) -> Vec<u8> {
    let text = r#"{"version":1,"grid":{"rows":1,"cols":1,"region":48,"overlap":24,"width":32,"height":24},
        "captioner":"x","prompt":"","regions":[{"row":0,"col":0,"x":0,"y":0,"width":32,"height":24,"caption":"word"}]}"#;
    assert!(text.contains(replace), "{replace}");
    text.replacen(replace, by, 1).into_bytes()
}

#[test]
fn captions_files() {
    let deep = [&b"["[..]; 100_000].concat();
    let long = format!("\"caption\":\"{}\"", "word ".repeat(3 << 20));
    let escape = r#""caption":"\u001b]0;owned\u0007""#;
    let cases = [
        ("empty", Vec::new(), End::Refused),
        ("no JSON", b"captions".to_vec(), End::Refused),
        ("100000 brackets", deep, End::Refused),
        (
            "of version 2^60",
            captions("\"version\":1", "\"version\":1152921504606846976"),
            End::Refused,
        ),
        ("of no regions", captions("\"rows\":1", "\"rows\":0"), End::Refused),
        (
            "of 2^40 regions",
            captions("\"rows\":1,\"cols\":1", "\"rows\":1048576,\"cols\":1048576"),
            End::Refused,
        ),
        ("of another grid", captions("\"region\":48", "\"region\":64"), End::Done),
        ("of a region outside", captions("\"row\":0", "\"row\":7"), End::Refused),
        ("of a row of -1", captions("\"row\":0", "\"row\":-1"), End::Refused),
        ("of a caption that is a number", captions("\"word\"", "7"), End::Refused),
        ("of a caption of 15 MB", captions("\"caption\":\"word\"", &long), End::Bounded),
        ("of a caption for the terminal", captions("\"caption\":\"word\"", escape), End::Bounded),
        ("that are bytes", vec![0xFF; 5000], End::Refused),
    ]
    .map(|(name, bytes, end)| {
        let mut files = good();
        files.push(("captions.json".to_owned(), bytes));
        let arguments =
            "in.png -o out.png --scale 2 --denoise-steps 1 --model MODEL --captions captions.json";
        Case::command(format!("captions {name}"), files, arguments, end)
    });
    all_right(cases.into(), 13);
}

#[test]
fn command_lines() {
    let long = "n".repeat(300);
    let job = "in.png --scale 2 --denoise-steps 1 --model MODEL";
    let cases = [
        ("output of a name of 300 bytes", format!("{job} -o {long}.png")),
        ("output in a file", format!("{job} -o in.png/out.png")),
        ("output that cannot be made", format!("{job} -o /proc/out.png")),
        ("input that is not there", "nothing.png -o out.png".to_owned()),
        ("input with control characters", "no\u{1b}]0;x\u{7}\nthing.png -o out.png".to_owned()),
        (
            "model with control characters",
            "in.png -o out.png --model no\u{1b}[2J\u{7}model".to_owned(),
        ),
        ("scale of nothing", format!("{job} -o out.png --scale 0")),
        ("scale of -1", format!("{job} -o out.png --scale=-1")),
        ("scale of NaN", format!("{job} -o out.png --scale NaN")),
        ("scale of 10^30", format!("{job} -o out.png --scale 1e30")),
        ("size of 0 x 0", "in.png -o out.png --size 0x0 --model MODEL".to_owned()),
        ("size of 2^31", "in.png -o out.png --size 2147483648x2147483648 --model MODEL".to_owned()),
        ("steps of 2^60", format!("{job} -o out.png --steps 1152921504606846976")),
        ("timesteps of 2^40", format!("{job} -o out.png --timesteps 1099511627776,1")),
        ("no memory", format!("{job} -o out.png --max-memory 1")),
        ("work folder in a file", format!("{job} -o out.png --work-dir in.png")),
        (
            "a prompt of 200 kB and a bad option",
            format!("{job} --prompt {} --strength 7", "x".repeat(100_000)),
        ),
        ("an option of 100 kB", format!("{job} --{}", "x".repeat(100_000))),
        ("a value of 100 kB", format!("{job} --sampler {}", "x".repeat(100_000))),
        ("a LoRA that is a picture", format!("{job} -o out.png --lora in.png")),
        ("a model that is a picture", "in.png -o out.png --model in.png".to_owned()),
    ]
    .map(|(name, arguments)| Case::command(name, good(), arguments, End::Refused));
    all_right(cases.into(), 21);
}
