//! Journals of jobs. A line that begins with a space is a record without its checksum, which is put before it.
#![no_main]

use std::sync::LazyLock;

use cupscale::fuzzing::{journal, journal_append};
use cupscale_fuzz::{MIB, Scratch, told, within};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("journal"));

fuzz_target!(|bytes: &[u8]| {
    let mut file = Vec::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if let Some(record) = line.strip_prefix(b" ") {
            let json = record.strip_suffix(b"\n").unwrap_or(record);
            file.extend(format!("{:08x} ", crc32fast::hash(json)).bytes());
            file.extend(record);
        } else {
            file.extend(line);
        }
    }
    let path = FILE.write(&file);
    let done = match within(MIB + 8 * file.len(), || journal(path)) {
        Ok(done) => done,
        Err(error) => {
            told(error);
            assert_eq!(std::fs::read(path).expect("the journal"), file, "a refused journal stays");
            return;
        }
    };
    let [tiles, low_resolution, steps, regions, rows] = done;
    assert!(tiles <= 4 && low_resolution <= 1 && steps <= 3 && regions <= 5 && rows <= 64);
    // What is left is the whole lines, and is read as the same.
    let kept = std::fs::read(path).expect("the journal");
    assert!(file.starts_with(&kept) && (kept.is_empty() || kept.ends_with(b"\n")));
    assert_eq!(journal(path).expect("a journal that was read before"), done);
    // It goes on behind them.
    if tiles < 4 && steps == 0 {
        journal_append(path, tiles + 1, 0).expect("a journal that goes on");
        assert_eq!(journal(path).expect("the same with a record more")[0], tiles + 1);
    }
});
