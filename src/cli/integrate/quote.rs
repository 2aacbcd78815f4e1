//! Paths in files of other programs, each quoted as the file's language reads it back.

/// Language of a file, and what a path stands in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// A string in double quotes of Python, Lua or Scheme.
    Code,
    /// A word in single quotes of a shell.
    Shell,
    /// A word of a command in ImageMagick's list of delegates.
    Delegate,
    /// An argument in double quotes of a desktop entry's `Exec`.
    Desktop,
    /// A word in double quotes of a batch file of Windows.
    Batch,
    /// A whole word of a shell, in a text of XML.
    ShellInXml,
}

impl Quote {
    /// `path` as it stands in the file; `None` if the language has no way to write it.
    pub fn quote(self, path: &str) -> Option<String> {
        if path.contains(char::is_control) {
            return None;
        }
        let before = |text: &str, signs: &[char]| {
            text.chars()
                .flat_map(|sign| signs.contains(&sign).then_some('\\').into_iter().chain([sign]))
                .collect::<String>()
        };
        match self {
            Self::Code => Some(before(path, &['\\', '"'])),
            Self::Shell => Some(path.replace('\'', "'\\''")),
            Self::Delegate => {
                // It goes through a shell or not, as ImageMagick sees fit, and % is its own.
                let odd = ['"', '\'', '`', '$', '&', ';', '<', '>', '|', '%'];
                let is_odd = |sign| odd.contains(&sign) || cfg!(unix) && sign == '\\';
                (!path.contains(is_odd)).then(|| format!("&quot;{path}&quot;"))
            }
            // Quoted as an argument, and then as any string of a desktop entry.
            Self::Desktop => {
                let argument = before(path, &['"', '`', '$', '\\']);
                Some(argument.replace('\\', "\\\\").replace('%', "%%"))
            }
            Self::Batch => (!path.contains('"')).then(|| path.replace('%', "%%")),
            Self::ShellInXml => {
                let word = format!("'{}'", path.replace('\'', "'\\''"));
                Some(word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_the_language_of_the_file_reads_it() {
        let plain = "/opt/my tools/cupscale-fast";
        for (quote, path, expected) in [
            (Quote::Code, plain, plain),
            (Quote::Code, r#"C:\a"b"#, r#"C:\\a\"b"#),
            (Quote::Shell, "/it's $HOME", r"/it'\''s $HOME"),
            (Quote::Delegate, plain, "&quot;/opt/my tools/cupscale-fast&quot;"),
            (Quote::Desktop, r#"/50%/a"$b\c"#, r#"/50%%/a\\"\\$b\\\\c"#),
            (Quote::Batch, r"C:\50%\x.exe", r"C:\50%%\x.exe"),
            (Quote::ShellInXml, "/a & b's", r"'/a &amp; b'\''s'"),
        ] {
            assert_eq!(quote.quote(path).as_deref(), Some(expected), "{quote:?}");
        }
        for (quote, path) in [
            (Quote::Code, "/a\nb"),
            (Quote::Delegate, "/100%/x"),
            (Quote::Delegate, "/a;b"),
            (Quote::Batch, "a\"b"),
        ] {
            assert_eq!(quote.quote(path), None, "{quote:?} {path}");
        }
    }
}
