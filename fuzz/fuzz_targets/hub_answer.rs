//! What the hub answers: files with paths that stay inside, and digests that are digests.
#![no_main]

use cupscale::fuzzing::weights::{content_range, is_commit, is_inside, is_sha256, revision};
use cupscale_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|answer: &[u8]| {
    if let Ok(value) = std::str::from_utf8(answer) {
        let read = content_range(value);
        if let Some((first, Some(whole))) = read {
            assert_eq!(content_range(&format!("bytes {first}-/{whole}")), read);
        }
    }
    // A message about a path says which, so the path's length is the answer's.
    let Ok((commit, files)) = within(MIB + 64 * answer.len(), || revision(answer)) else { return };
    assert!(is_commit(&commit) && commit == commit.to_ascii_lowercase());
    let siblings: Vec<_> = (files.iter())
        .map(|(path, size, sha256)| {
            assert!(is_inside(path), "{path:?}");
            assert!(sha256.as_ref().is_none_or(|digest| is_sha256(digest)));
            json!({"rfilename": path, "size": size, "lfs": {"sha256": sha256}})
        })
        .collect();
    let anew = json!({"sha": commit, "siblings": siblings}).to_string();
    assert_eq!(revision(anew.as_bytes()), Ok((commit, files)));
});
