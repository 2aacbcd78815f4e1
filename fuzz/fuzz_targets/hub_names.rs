//! Names and addresses from the hub, one a line: paths stay inside their folder, patterns match what they mean, and an
//! origin is the host that the HTTP library would connect to.
#![no_main]

use std::path::{Component, Path};

use cupscale::fuzzing::weights::{
    encode, is_commit, is_inside, is_loopback, is_name, is_repository, is_sha256, join, matches,
    origin,
};
use libfuzzer_sys::{Corpus, fuzz_target};
use ureq::http::Uri;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let lines: Vec<&str> = text.split('\n').take(8).collect();
    for line in &lines {
        path(line);
        address(line);
        for other in &lines {
            if line.len() * other.len() < 1 << 16 {
                assert_eq!(matches(line, other), means(line, other), "{line:?} {other:?}");
            }
            redirect(line, other);
        }
    }
    Corpus::Keep
});

fn path(name: &str) {
    if is_inside(name) {
        let normal = |part| matches!(part, Component::Normal(_));
        assert!(Path::new(name).components().all(normal), "{name:?} leads elsewhere");
        assert_eq!(Path::new(name).components().count(), name.split('/').count());
    }
    assert!(!is_name(name) || is_inside(name));
    assert!(!is_repository(name) || !name.contains("..") && name.split('/').count() <= 2);
    assert!(!is_commit(name) || name.len() == 40 && is_name(name));
    assert!(!is_sha256(name) || name.len() == 64 && is_name(name));
    for keep in [false, true] {
        let encoded = encode(name, keep);
        assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(decoded(&encoded), name.as_bytes());
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let digits = |a: Option<u8>, b: Option<u8>| {
            let digits = [a.expect("a digit"), b.expect("a digit")];
            u8::from_str_radix(std::str::from_utf8(&digits).expect("ASCII"), 16).expect("hex")
        };
        out.push(if byte == b'%' { digits(bytes.next(), bytes.next()) } else { byte });
    }
    out
}

/// Whether `pattern` means `path`, tried in every way.
fn means(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    // `row[j]`: the pattern so far means the first `j` bytes.
    let mut row = vec![false; path.len() + 1];
    row[0] = true;
    for &sign in pattern {
        let mut next = vec![false; path.len() + 1];
        for at in 0..=path.len() {
            next[at] = if sign == b'*' {
                row[at] || at > 0 && next[at - 1] && path[at - 1] != b'/'
            } else {
                at > 0 && row[at - 1] && path[at - 1] == sign
            };
        }
        row = next;
    }
    row[path.len()]
}

fn address(url: &str) {
    let Some(found) = origin(url) else { return };
    assert_eq!(origin(&found).as_ref(), Some(&found));
    assert_eq!(found, found.to_ascii_lowercase());
    let _ = is_loopback(&found);
    let Ok(uri) = url.parse::<Uri>() else { return };
    let Some(host) = uri.host() else { panic!("{url:?} has an origin and no host") };
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let port = match (scheme.as_str(), uri.port_u16()) {
        ("http", None | Some(80)) | ("https", None | Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
        (_, None) => panic!("{url:?}: another scheme"),
    };
    let host = host.to_ascii_lowercase();
    assert_eq!(found, format!("{scheme}://{host}{port}"), "{url:?}");
}

fn redirect(from: &str, to: &str) {
    let (Some(asked), Some(target)) = (origin(from), join(from, to)) else { return };
    let is_path = !to.contains(':') && !to.starts_with("//");
    if is_path {
        assert_eq!(origin(&target), Some(asked), "{from:?} to {to:?}");
    }
}
