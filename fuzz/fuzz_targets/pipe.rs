//! What an editor sends to `pipe`: frames, requests, and settings that become words of a command line.
#![no_main]

use cupscale::pipe::{
    frame::{self, read_head, read_payload, skip_payload},
    request::{Request, words},
};
use cupscale_fuzz::{MIB, told, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let most = MIB + 64 * bytes.len();
    let mut input = bytes;
    while let Ok(Some(head)) = within(most, || read_head(&mut input)) {
        let mut behind = input;
        let skipped = skip_payload(&mut behind, head.payload);
        let Ok(payload) = within(most, || read_payload(&mut input, head.payload)) else {
            assert!(skipped.is_err());
            break;
        };
        assert!(skipped.is_ok() && behind == input);
        let mut written = Vec::new();
        let length = payload.len() as u64;
        frame::write(&mut written, &head.header, (&mut payload.as_slice(), length))
            .expect("a frame in memory");
        assert_eq!(
            read_head(&mut written.as_slice()).expect("what was written"),
            Some(head.clone())
        );
        match within(most, || Request::parse(&head.header)) {
            Err((_, reason)) => told(reason),
            Ok(Request::Upscale { settings, .. } | Request::Plan { settings, .. }) => {
                match words(&settings) {
                    Err(reason) => told(reason),
                    // Each is an option by itself, whatever its value says.
                    Ok(words) => {
                        assert!(words.iter().all(|word| word.starts_with("--") && word.len() > 2))
                    }
                }
            }
            Ok(_) => {}
        }
    }
});
