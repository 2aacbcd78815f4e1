//! The header against a file of llama.cpp's own package (tests/make_fixtures/make_gguf_fixtures.py), and
//! against files that are damaged or made to harm.

use std::path::Path;

use candle_core::{DType, Device, Shape, quantized::GgmlDType, safetensors};

use super::read::{Header, Value};
use super::write::{GgufWriter, Metadata, Planned};
use crate::backend::{Bytes, ParamSource as _};
use crate::weights::tensors::TensorMap;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn types() -> Vec<u8> {
    std::fs::read(fixture("types.gguf")).unwrap()
}

fn map(bytes: Vec<u8>) -> TensorMap {
    let header = Header::read(&bytes).unwrap();
    let mut tensors = TensorMap::default();
    let named = header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor));
    tensors.add_gguf("file".to_owned(), Bytes::Heap(bytes.into()), named);
    tensors
}

#[test]
fn every_type_of_tensor_reads_as_the_gguf_package_reads_it() {
    let tensors = map(types());
    let expected = safetensors::load(fixture("types.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(expected.len(), 14);
    for (name, expected) in expected {
        let ours = tensors.get(&name, expected.shape(), DType::F32, &Device::Cpu).unwrap();
        let flat = |x: &candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in flat(&ours).into_iter().zip(flat(&expected)) {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(0.01), "{name}: {a} for {b}");
        }
    }
}

#[test]
fn metadata_of_every_kind_is_read_and_long_arrays_are_passed_over() {
    // Version 2 is laid out as version 3.
    for version in [2u8, 3] {
        let mut bytes = types();
        bytes[4] = version;
        let header = Header::read(&bytes).unwrap();
        let integers =
            |list: &[i128]| Value::Array(list.iter().map(|&n| Value::Integer(n)).collect());
        for (key, expected) in [
            ("u8", Value::Integer(200)),
            ("i8", Value::Integer(-100)),
            ("u16", Value::Integer(60_000)),
            ("i16", Value::Integer(-30_000)),
            ("i32", Value::Integer(-2_000_000_000)),
            ("u64", Value::Integer(1 << 63)),
            ("i64", Value::Integer(-(1 << 62))),
            ("f32", Value::Float(0.5)),
            ("f64", Value::Float(0.1)),
            ("bool", Value::Bool(true)),
            ("string", Value::String("Grüße".to_owned())),
            ("short", integers(&[320, 4, 3, 3])),
            (
                "strings",
                Value::Array(["a", "", "é"].map(|text| Value::String(text.to_owned())).to_vec()),
            ),
            ("long", Value::PassedOver),
            ("long_strings", Value::PassedOver),
        ] {
            assert_eq!(header.metadata[&format!("kinds.{key}")], expected, "{key}");
        }
        assert_eq!(header.string("general.architecture"), Some("test"));
    }
}

#[test]
fn what_is_written_is_read_again() {
    let planned = [
        Planned { name: "a".to_owned(), dtype: GgmlDType::F32, shape: vec![3] },
        Planned { name: "b.c".to_owned(), dtype: GgmlDType::Q8_0, shape: vec![2, 64] },
        Planned { name: "d".to_owned(), dtype: GgmlDType::BF16, shape: vec![2, 3, 1, 1] },
    ];
    let metadata = [
        ("x".to_owned(), Metadata::U32(7)),
        ("y".to_owned(), Metadata::String("zwölf".to_owned())),
    ];
    let contents: Vec<Vec<u8>> =
        planned.iter().map(|tensor| (0..tensor.bytes()).map(|i| i as u8).collect()).collect();
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &planned).unwrap();
    for bytes in &contents {
        writer.tensor(bytes).unwrap();
    }
    let file = writer.finish().unwrap();
    let header = Header::read(&file).unwrap();
    assert_eq!(header.metadata["x"], Value::Integer(7));
    assert_eq!(header.string("y"), Some("zwölf"));
    for ((read, planned), contents) in header.tensors.iter().zip(planned).zip(contents) {
        assert_eq!(
            (&read.name, read.dtype, &read.shape),
            (&planned.name, planned.dtype, &planned.shape)
        );
        assert!(read.range.start.is_multiple_of(32));
        assert_eq!(file[read.range.clone()], contents);
    }
}

#[test]
fn a_writer_takes_exactly_what_was_planned() {
    let planned = [Planned { name: "a".to_owned(), dtype: GgmlDType::F32, shape: vec![3] }];
    let writer = || GgufWriter::new(Vec::new(), &[], &planned).unwrap();
    assert!(writer().tensor(&[0; 11]).is_err());
    assert!(writer().finish().is_err());
}

/// A file with one tensor, `a`, f32 `[2]`, whose header ends in the bytes that `rest` gives.
fn crafted(tensors: u64, metadata: u64, rest: &[&[u8]]) -> Result<Header, String> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend(metadata.to_le_bytes());
    file.extend(rest.concat());
    file.resize(file.len().next_multiple_of(32) + 32, 0);
    Header::read(&file)
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut info = text(name);
    info.extend((dimensions.len() as u32).to_le_bytes());
    info.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
    info.extend(kind.to_le_bytes());
    info.extend(offset.to_le_bytes());
    info
}

#[test]
fn lengths_that_lie_are_refused_without_being_believed() {
    const HUGE: u64 = u64::MAX;
    let huge = HUGE.to_le_bytes();
    let key = text("k");
    let good = tensor("a", &[2], 0, 0);
    assert_eq!(crafted(1, 0, &[&good]).unwrap().tensors[0].shape, [2]);
    for (what, file) in [
        ("65537 tensors", crafted(65_537, 0, &[])),
        ("metadata", crafted(0, HUGE, &[])),
        ("cut short", crafted(9, 0, &[&good])),
        ("cut short", crafted(0, 1, &[&huge])),
        ("cut short", crafted(0, 1, &[&(1u64 << 40).to_le_bytes()])),
        ("cut short", crafted(0, 1, &[&key, &[8, 0, 0, 0], &huge])),
        ("an array of", crafted(0, 1, &[&key, &[9, 0, 0, 0, 12, 0, 0, 0], &huge])),
        ("cut short", crafted(0, 1, &[&key, &[9, 0, 0, 0, 8, 0, 0, 0], &huge])),
        (
            "arrays within",
            crafted(
                0,
                1,
                &[&key, &[9, 0, 0, 0].repeat(2), &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0].repeat(6)],
            ),
        ),
        ("unknown kind 99", crafted(0, 1, &[&key, &[99, 0, 0, 0]])),
        ("not UTF-8", crafted(0, 1, &[&1u64.to_le_bytes(), &[0xff]])),
        ("5 dimensions", crafted(1, 0, &[&tensor("a", &[1; 5], 0, 0)])),
        ("impossible shape", crafted(1, 0, &[&tensor("a", &[0], 0, 0)])),
        ("no possible shape", crafted(1, 0, &[&tensor("a", &[HUGE, HUGE], 0, 0)])),
        ("no possible shape", crafted(1, 0, &[&tensor("a", &[HUGE], 0, 0)])),
        ("cut short", crafted(1, 0, &[&tensor("a", &[1 << 40], 0, 0)])),
        ("no possible shape", crafted(1, 0, &[&tensor("a", &[2], 0, HUGE - 31)])),
        ("no multiple", crafted(1, 0, &[&tensor("a", &[2], 0, 4)])),
        ("no whole blocks", crafted(1, 0, &[&tensor("a", &[48, 2], 8, 0)])),
        ("type 9 is not supported", crafted(1, 0, &[&tensor("a", &[32], 9, 0)])),
        ("tensor `a` is there twice", crafted(2, 0, &[&good, &good])),
        ("`b` and `a` share bytes", crafted(2, 0, &[&good, &tensor("b", &[1], 0, 0)])),
        ("`k` is there twice", crafted(0, 2, &[&key, &[7, 0, 0, 0, 1], &key, &[7, 0, 0, 0, 1]])),
        (r"`a\u{1b}[31m` is no tensor's name", crafted(1, 0, &[&tensor("a\x1b[31m", &[2], 0, 0)])),
        ("is no tensor's name", crafted(1, 0, &[&tensor(&"x".repeat(513), &[2], 0, 0)])),
        (
            "general.alignment",
            crafted(0, 1, &[&text("general.alignment"), &[4, 0, 0, 0], &[3, 0, 0, 0]]),
        ),
    ] {
        let error = file.expect_err(what);
        assert!(error.contains(what), "{what}: {error}");
        assert!(!error.contains('\n') && error.len() < 300, "{error}");
    }
}

#[test]
fn arrays_within_arrays_take_no_more_than_their_share() {
    // 64 × 64 arrays of 64 bytes each take thirty times their bytes; there may be many keys of them.
    let bytes = [&[0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0][..], &[1; 64]].concat();
    let array = |of: &[u8]| [&[9, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0][..], &of.repeat(64)].concat();
    let value = [&[9, 0, 0, 0][..], &array(&array(&bytes))].concat();
    let entries: Vec<_> =
        (0..8).map(|key| [text(&key.to_string()), value.clone()].concat()).collect();
    let rest: Vec<_> = entries.iter().map(Vec::as_slice).collect();
    assert!(crafted(0, 1, &rest[..1]).is_ok());
    let error = crafted(0, 8, &rest).unwrap_err();
    assert!(error.ends_with("more than 2097152 values"), "{error}");
}

#[test]
fn no_cut_and_no_flipped_bit_of_a_header_does_worse_than_an_error() {
    let bytes = types();
    let header = Header::read(&bytes).unwrap();
    let data = header.tensors.iter().map(|tensor| tensor.range.start).min().unwrap();
    // The last tensor's padding carries nothing.
    let end = header.tensors.iter().map(|tensor| tensor.range.end).max().unwrap();
    for length in (0..data).chain(end - 200..end) {
        assert!(Header::read(&bytes[..length]).is_err(), "{length} bytes");
    }
    for byte in 0..data {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 1 << bit;
            // Some bits are part of a name, a number or nothing.
            if let Ok(header) = Header::read(&damaged) {
                assert!(header.tensors.iter().all(|tensor| tensor.range.end <= damaged.len()));
            }
        }
    }
}

#[test]
fn other_files_are_refused_for_what_they_are() {
    for (bytes, what) in [
        (&b""[..], "cut short"),
        (b"PK\x03\x04whatever", "does not begin with `GGUF`"),
        (b"GGUF\x01\0\0\0", "version 1"),
        (b"GGUF\0\0\0\x03", "most significant byte first"),
    ] {
        let error = Header::read(bytes).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn shapes_match_but_for_dimensions_of_one() {
    let planned = [Planned { name: "w".to_owned(), dtype: GgmlDType::F32, shape: vec![4, 6] }];
    let mut writer = GgufWriter::new(Vec::new(), &[], &planned).unwrap();
    writer.tensor(&[0; 96]).unwrap();
    let tensors = map(writer.finish().unwrap());
    let get = |shape: &[usize]| {
        let tensor = tensors.get("w", &Shape::from(shape), DType::F32, &Device::Cpu);
        tensor.map(|tensor| tensor.dims().to_vec())
    };
    assert_eq!(get(&[4, 6, 1, 1]).unwrap(), [4, 6, 1, 1]);
    assert_eq!(get(&[4, 6]).unwrap(), [4, 6]);
    let error = get(&[6, 4]).unwrap_err().to_string();
    assert!(error.starts_with("file: tensor `w` is [4, 6]"), "{error}");
}
