//! The protocol between the program and its captioning worker, in both directions. A picture is as large as the bytes
//! that are there, not as its header claims.
#![no_main]

use cupscale::caption::worker::protocol::{encode_request, read_reply, read_request, write_reply};
use cupscale_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let most = MIB + 64 * bytes.len();
    let mut input = bytes;
    while let Ok(Some((request, pixels))) = within(most, || read_request(&mut input)) {
        let written = encode_request(&request, &pixels);
        let read = read_request(&mut written.as_slice()).expect("what was read can be written");
        assert_eq!(read, Some((request, pixels)));
    }
    let mut input = bytes;
    while let Ok(Some(reply)) = within(most, || read_reply(&mut input)) {
        let mut written = b"loading\n".to_vec();
        write_reply(&mut written, &reply).expect("a reply in memory");
        assert_eq!(read_reply(&mut written.as_slice()).expect("a reply"), Some(reply));
    }
});
