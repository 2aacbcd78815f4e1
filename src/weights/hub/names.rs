//! Names that may become a path on disk. They come from files and from a server, so each is checked before anything
//! is opened under it.

/// `true` if this is `OWNER/NAME` or `NAME`, as the hub allows them.
pub fn is_repository(repository: &str) -> bool {
    repository.split('/').count() <= 2
        && repository.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
}

/// `true` if this is a commit: 40 hexadecimal digits.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `true` if this is a SHA-256: 64 hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `true` if a file of a repository can be stored under its own name: relative, downwards only, and
/// nothing that some system takes for more than a name.
pub fn is_inside(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.ends_with([' ', '.'])
                && !part.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c))
        })
}

/// `true` if this can be the name of one file or folder, without those above it.
pub fn is_name(name: &str) -> bool {
    is_inside(name) && !name.contains('/')
}

/// `true` if `path` is meant by `pattern`, in which a `*` stands for anything within one name. Takes time in
/// proportion to the two lengths.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut names) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) if matches_name(pattern, name) => {}
            _ => return false,
        }
    }
}

/// [`matches`] within one name: what stands between two `*` is found as early as it can be, which leaves most to the
/// rest of the pattern.
fn matches_name(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else {
        return false;
    };
    middle.split('*').all(|piece| match left.find(piece) {
        Some(at) => {
            left = &left[at + piece.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_inside_are_taken() {
        for good in ["a", "unet/config.json", "tokenizer/Vocab 2.json", "..a/b..c"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in
            ["", "/a", "a/../b", "..", "a//b", "./a", "a/", "C:\\x", "a\\..\\b", "a\nb", "a/."]
        {
            assert!(!is_inside(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert!(is_name("model-00001-of-00002.safetensors"));
        for bad in ["", ".", "..", "a/b", "/a", "a\\b", "C:x", "a\n", "a\u{1b}[31m"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let started = std::time::Instant::now();
        let path = "a".repeat(500);
        assert!(!matches(&"a*".repeat(60).replace("**", "*"), &"b".repeat(500)));
        assert!(!matches(&format!("{}b", "*a".repeat(60)), &path));
        assert!(matches(&"*a".repeat(60), &path));
        assert!(started.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn repositories_are_plain_words() {
        assert!(is_repository("stabilityai/stable-diffusion-xl-base-1.0") && is_repository("gpt2"));
        for bad in ["a/b/c", "a/..", "/a", "a/", "", "a b/c", ".hidden/x"] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_within_one_name() {
        for (pattern, path, expected) in [
            ("model-*.safetensors", "model-00001-of-00003.safetensors", true),
            ("*.json", "config.json", true),
            ("*.json", "unet/config.json", false),
            ("tokenizer/*", "tokenizer/vocab.json", true),
            ("tokenizer/*", "tokenizer_2/vocab.json", false),
            ("*a*b", "xaxbxb", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*abc*", "ababc", true),
            ("*ab*abc", "abc", false),
            ("**", "", true),
            ("ü*ü", "üxü", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/d/c", false),
            ("a/*", "a", false),
            ("config.json", "config.json", true),
            ("config.json", "config.jsonx", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
