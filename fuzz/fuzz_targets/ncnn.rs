//! Graphs of enlarging networks in ncnn's text, and their numbers: a graph that is taken is one of few networks, whose arrays
//! lie one behind the other in the file.
#![no_main]

use cupscale::fuzzing::weights::ncnn;
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    // The text ends where the numbers begin, behind a byte that no text has.
    let at = file.iter().position(|&byte| byte == 0).unwrap_or(file.len());
    let (param, bin) = (&file[..at], &file[(at + 1).min(file.len())..]);
    match within(4 * MIB + 256 * file.len(), || ncnn(param, bin)) {
        Err(error) => told(error),
        Ok((scale, arrays)) => {
            assert!((1..=8).contains(&scale), "{scale}");
            let mut end = 0;
            for (name, _, shape, range) in &arrays {
                assert!(!shape.is_empty() && range.start >= end && range.end <= bin.len(), "{name}");
                end = range.end;
            }
            assert_eq!(end.next_multiple_of(4), bin.len());
        }
    }
});
