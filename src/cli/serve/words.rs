//! Messages without places of the server's disk: what the library says for the one who runs the program names files by their
//! paths, which are nobody else's business.

use std::path::{Path, PathBuf};

use super::store::{GIVEN, INPUT, MASK};

/// Takes paths out of messages.
#[derive(Debug, Default)]
pub struct Words {
    /// Folders of the program's own files, the longest first: their names go, and what lies in them is named from there.
    own: Vec<String>,
    /// Other folders, the longest first: of what lies in them the name of the file is left.
    others: Vec<String>,
}

/// Signs that end a path within a message.
const ENDS: [char; 5] = [' ', ':', ')', ',', ';'];

impl Words {
    /// Knows these folders, whose paths may have spaces and may be relative; other absolute paths are found by their looks.
    pub fn new(
        own: impl IntoIterator<Item = PathBuf>,
        others: impl IntoIterator<Item = PathBuf>,
    ) -> Self {
        Self { own: shown(own), others: shown(others) }
    }

    /// The message without paths.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for folder in &self.own {
            for separator in ["/", "\\"] {
                text = text.replace(&format!("{folder}{separator}"), "");
            }
        }
        for folder in &self.others {
            while let Some(at) = start_below(&text, folder) {
                let rest = &text[at + folder.len() + 1..];
                let path = &rest[..rest.find(ENDS).unwrap_or(rest.len())];
                let kept = path.rfind(['/', '\\']).map_or(0, |separator| separator + 1);
                text.replace_range(at..=at + folder.len() + kept, "");
            }
        }
        let words = text.split(' ').map(|word| {
            let start = word.find(|sign: char| !"(\"'`[".contains(sign)).unwrap_or(0);
            let (marks, path) = word.split_at(start);
            let drive = path.as_bytes();
            let is_path = path.len() > 1 && path.starts_with('/')
                || matches!(drive, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
            match path.rfind(['/', '\\']).filter(|_| is_path) {
                Some(at) => format!("{marks}{}", &path[at + 1..]),
                None => word.to_owned(),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// The message about the job in `folder`, whose picture has this name.
    pub fn of_job(&self, text: &str, folder: &Path, name: &str) -> String {
        let mut text = text.to_owned();
        for (file, said) in [
            (INPUT, name),
            (MASK, "the mask"),
            (GIVEN, "the captions"),
            ("captions.json", "the captions"),
            ("result", "the result"),
            ("work", "its work folder"),
        ] {
            let path = folder.join(file).display().to_string();
            while let Some(at) = text.find(&path) {
                // What follows in the same word belongs to the path: an extension, a file in a folder.
                let rest = &text[at + path.len()..];
                let length = rest.find(ENDS).unwrap_or(rest.len());
                text.replace_range(at..at + path.len() + length, said);
            }
        }
        self.clean(&text)
    }
}

/// Paths of folders as messages show them, real and as they are given, the longest first.
fn shown(folders: impl IntoIterator<Item = PathBuf>) -> Vec<String> {
    let real = |folder: PathBuf| [folder.canonicalize().ok(), Some(folder)];
    let mut folders: Vec<String> = folders
        .into_iter()
        .flat_map(real)
        .flatten()
        .map(|folder| folder.display().to_string())
        .filter(|folder| folder.len() > 1)
        .collect();
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
    folders.dedup();
    folders
}

/// Where a path begins that lies in the folder.
fn start_below(text: &str, folder: &str) -> Option<usize> {
    let mut places = text.match_indices(folder).map(|(at, _)| at);
    places.find(|at| text[at + folder.len()..].starts_with(['/', '\\']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_leave_messages_and_names_stay() {
        let folder = Path::new("/var/my jobs/0123");
        let own = [PathBuf::from("/var/my jobs"), PathBuf::from("models/own")];
        let words = Words::new(own, [PathBuf::from("/srv/at work")]);
        for (text, said) in [
            (
                "/var/my jobs/0123/input: not a readable image (PNG: bad CRC)",
                "a b.png: not a readable image (PNG: bad CRC)",
            ),
            ("the mask: /var/my jobs/0123/mask: empty file", "the mask: the mask: empty file"),
            (
                concat!(
                    "going on with what is done in /var/my jobs/0123/work",
                    "/.result.png.ab.cupscale"
                ),
                "going on with what is done in its work folder",
            ),
            (
                "/var/my jobs/0123/result.png: cannot be written (full)",
                "the result: cannot be written (full)",
            ),
            ("models/own/unet/config.json: no JSON", "unet/config.json: no JSON"),
            ("/srv/at work/x/unet/config.json: no JSON", "config.json: no JSON"),
            ("(/srv/at work/a.gguf) and /srv/at work/b/", "(a.gguf) and "),
            ("weights (/home/me/x.safetensors) are cut", "weights (x.safetensors) are cut"),
            ("C:\\models\\x.gguf: damaged", "x.gguf: damaged"),
            ("f32 and/or 1 / 2: a/b", "f32 and/or 1 / 2: a/b"),
        ] {
            assert_eq!(words.of_job(text, folder, "a b.png"), said);
        }
    }
}
