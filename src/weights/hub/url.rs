//! Addresses, as far as downloads need them: the origin, the target of a redirect, and a name's encoding. The
//! origin decides who gets the token, so it is worked out here and not left to the HTTP library.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Origin of an address, in lower case: `https://hub.example:8443`. A token belongs to one origin, never to
/// another.
pub fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    // The text before an @ would be a name and password, which no hub's address has.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if !host.chars().all(plain) {
        return None;
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()?),
        _ => (host.as_str(), default),
    };
    // The brackets of an address of the sixth version: without them its colons would be a port's.
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let inside = address.unwrap_or(name);
    if inside.is_empty() || inside.contains(['[', ']']) || address.is_none() && name.contains(':') {
        return None;
    }
    let port = if port == default { String::new() } else { format!(":{port}") };
    Some(format!("{scheme}://{name}{port}"))
}

/// `true` if an origin is this machine itself: what goes there passes no network.
pub fn is_loopback(origin: &str) -> bool {
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Target of a redirect from `url` to `location`.
pub fn join(url: &str, location: &str) -> Option<String> {
    // A scheme stands before anything else: a `://` within a path or query belongs to that.
    if location.find([':', '/', '?', '#']).is_some_and(|at| location[at..].starts_with(':')) {
        return Some(location.to_owned());
    }
    let (scheme, rest) = url.split_once("://")?;
    if let Some(other) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{other}"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if location.starts_with('/') {
        return Some(format!("{scheme}://{host}{location}"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if location.is_empty() || location.starts_with(['?', '#']) {
        return Some(format!("{scheme}://{host}{path}{location}"));
    }
    let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
    Some(format!("{scheme}://{host}{folder}{location}"))
}

/// Percent-encoded text: everything but letters, digits and `-._~` is written as `%XX`, and `/` too unless
/// `keep_slashes`.
pub fn encode(text: &str, keep_slashes: bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slashes && byte == b'/')
        {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (url, expected) in [
            ("https://Hub.example/a?b", Some("https://hub.example")),
            ("https://hub.example:443", Some("https://hub.example")),
            ("https://hub.example:0443/x", Some("https://hub.example")),
            ("https://hub.example:80", Some("https://hub.example:80")),
            ("https://hub.example:", None),
            ("https://hub.example:99999", None),
            ("https://hub.example:-1", None),
            ("http://:80/x", None),
            ("http://[::1", None),
            ("http://::1", None),
            ("http://a[b]:80", None),
            ("http://127.0.0.1:8080/x", Some("http://127.0.0.1:8080")),
            ("http://hub.example", Some("http://hub.example")),
            ("https://hub.example@evil.example/", None),
            ("http://[::1]:8080/x", Some("http://[::1]:8080")),
            ("http://localhost\\.evil.example/", None),
            ("http://hub.example\u{1b}[31m/", None),
            ("ftp://hub.example/", None),
            ("hub.example", None),
        ] {
            assert_eq!(origin(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn the_loopback_is_this_machine_whatever_it_is_called() {
        for loopback in [
            "http://localhost",
            "http://localhost:8080",
            "http://hub.localhost:1",
            "http://127.0.0.1:80",
            "http://127.9.8.7",
            "http://[::1]",
            "http://[::1]:8080",
            "http://[::ffff:127.0.0.1]:8080",
        ] {
            assert!(is_loopback(loopback), "{loopback}");
        }
        for other in [
            "http://hub.example",
            "http://127.0.0.1.hub.example",
            "http://localhost.hub.example",
            "http://notlocalhost",
            "http://0.0.0.0",
            "http://192.168.0.1",
            "http://[fe80::1]",
            "http://127.1",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let from = "https://hub.example/owner/name/resolve/main/file?download=1";
        for (location, expected) in [
            ("https://cdn.example/x?sig=1", "https://cdn.example/x?sig=1"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/api/x", "https://hub.example/api/x"),
            ("other", "https://hub.example/owner/name/resolve/main/other"),
            (
                "/cdn?from=https://other.example/y",
                "https://hub.example/cdn?from=https://other.example/y",
            ),
            ("cdn?u=s3://b/y", "https://hub.example/owner/name/resolve/main/cdn?u=s3://b/y"),
            ("?again=http://x", "https://hub.example/owner/name/resolve/main/file?again=http://x"),
            ("", "https://hub.example/owner/name/resolve/main/file"),
            ("HTTP://cdn.example/x", "HTTP://cdn.example/x"),
            ("mailto:x", "mailto:x"),
        ] {
            assert_eq!(join(from, location).as_deref(), Some(expected));
        }
    }

    #[test]
    fn names_are_written_so_that_an_address_can_hold_them() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ü.json", true), "a%20b/%C3%BC.json");
    }
}
