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

/// `true` if `path` is meant by `pattern`, in which a `*` stands for anything within one name.
pub fn matches(pattern: &str, path: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == path };
    let Some(rest) = path.strip_prefix(before) else { return false };
    let within = rest.find('/').unwrap_or(rest.len());
    (0..=within).filter(|&end| rest.is_char_boundary(end)).any(|end| matches(after, &rest[end..]))
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
            ("config.json", "config.json", true),
            ("config.json", "config.jsonx", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
