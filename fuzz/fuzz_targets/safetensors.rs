//! Headers of safetensors files: tensors lie in the file one behind the other, and a header written of them is read as
//! the same.
#![no_main]

use cupscale::fuzzing::weights::{safetensors, single_file};
use cupscale_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|file: &[u8]| {
    // Most of a file's bytes are its header: with any length before it nothing else would be tried.
    let length = (file.len() as u64).to_le_bytes();
    let headed = [&length[..], file].concat();
    for file in [file, &headed[..]] {
        check(file);
    }
});

fn check(file: &[u8]) {
    let Some((tensors, notes)) = within(MIB + 64 * file.len(), || safetensors(file)) else {
        return;
    };
    let data = file.len() - tensors.iter().map(|(.., range)| range.len()).sum::<usize>();
    let mut end = data;
    for (name, _, _, range) in &tensors {
        assert_eq!(range.start, end, "{name}");
        end = range.end;
    }
    assert_eq!(end, file.len());

    let mut header = serde_json::Map::new();
    for (name, dtype, shape, range) in &tensors {
        let place = [range.start - data, range.end - data];
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": place});
        assert!(header.insert(name.clone(), tensor).is_none(), "{name} is there twice");
    }
    header.insert("__metadata__".to_owned(), json!(notes));
    let header = serde_json::Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let written = [&length[..], header.as_bytes(), &file[data..]].concat();
    let (read, read_notes) = safetensors(&written).expect("what was read can be written");
    assert_eq!(read_notes, notes);
    let moved = |tensors: Vec<(String, String, Vec<usize>, std::ops::Range<usize>)>, data| {
        let mut tensors: Vec<_> = (tensors.into_iter())
            .map(|(name, dtype, shape, range)| {
                (name, dtype, shape, range.start - data, range.end - data)
            })
            .collect();
        tensors.sort();
        tensors
    };
    assert_eq!(moved(read, 8 + header.len()), moved(tensors, data));
    within(8 * MIB + 256 * file.len(), || single_file(file));
}
