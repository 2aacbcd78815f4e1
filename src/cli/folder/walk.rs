//! Search for the pictures below a folder, in a fixed order, without files that the program is still writing.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use cupscale::image::{Format, ImageError, InputKind, kind_of};

/// Bytes read from a file to recognise its format.
const HEAD: u64 = 64;

/// A picture by its content, or by its name only.
#[derive(Debug, PartialEq, Eq)]
pub struct FoundPicture {
    /// below the folder that was walked
    pub path: PathBuf,
    /// of its output, by its first bytes, else by its name (reading it then fails with the reason)
    pub format: Format,
}

/// Pictures and folders found below a folder.
#[derive(Debug, Default)]
pub struct Walk {
    /// in the order of their paths
    pub pictures: Vec<FoundPicture>,
    /// kinds of pictures and documents that are recognised but not read, with how many there are of each
    pub unsupported: Vec<(String, usize)>,
    /// folders that could not be read, each with the reason in one line
    pub unreadable: Vec<String>,
    /// links to folders around the one that is walked, which are not followed
    pub upward: Vec<PathBuf>,
}

/// Walks `root`, without hidden files (those of unfinished jobs among them), `.part` files, and the
/// folder `output`. Pictures are recognised by their first bytes; other files are ignored.
///
/// Links are followed, but every folder is walked once: at its own place, if that is below `root`. A link to a
/// folder around `root` is not followed: outputs of earlier runs stand there.
///
/// A picture that is not wanted (by its path below `root`) is judged by its name where that says all that its output's name
/// needs: of many shares each then opens its own pictures, and not those of all.
pub fn walk(root: &Path, output: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Walk {
    let mut walk = Walk::default();
    let mut seen: HashSet<PathBuf> = fs::canonicalize(output).into_iter().collect();
    let own = fs::canonicalize(root).ok();
    let is_around = |folder: &Path| {
        let (own, real) = (own.as_ref(), fs::canonicalize(folder));
        own.zip(real.ok()).is_some_and(|(own, real)| *own != real && own.starts_with(real))
    };
    let mut folders = vec![PathBuf::new()];
    let mut links = VecDeque::new();
    // Links wait until all real folders are known.
    while let Some(folder) = folders.pop().or_else(|| links.pop_front()) {
        let path = root.join(&folder);
        let entries = fs::canonicalize(&path).and_then(|real| {
            if !seen.insert(real) {
                return Ok(Vec::new());
            }
            fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()
        });
        let mut entries = entries.unwrap_or_else(|error| {
            walk.unreadable.push(format!("{}: cannot be read ({error})", path.display()));
            Vec::new()
        });
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let below = folder.join(&name);
            if name.as_encoded_bytes().starts_with(b".")
                || below.extension() == Some("part".as_ref())
            {
                continue;
            }
            let kind = entry.file_type().ok();
            if kind.is_some_and(|kind| kind.is_file())
                && let Some(format) = Format::from_extension(&below)
                && !is_wanted(&below)
            {
                walk.pictures.push(FoundPicture { path: below, format });
                continue;
            }
            let is_link = kind.is_some_and(|kind| kind.is_symlink());
            match fs::metadata(entry.path()) {
                Ok(found) if found.is_dir() && is_link && is_around(&entry.path()) => {
                    walk.upward.push(below);
                }
                Ok(found) if found.is_dir() && is_link => links.push_back(below),
                Ok(found) if found.is_dir() => folders.push(below),
                // Reading a pipe or a device would block.
                Ok(found) if !found.is_file() => {}
                _ => walk.file(root, below),
            }
        }
    }
    walk.pictures.sort_by(|a, b| a.path.cmp(&b.path));
    walk
}

impl Walk {
    fn file(&mut self, root: &Path, path: PathBuf) {
        match format_of_file(&root.join(&path)) {
            Ok(format) => self.pictures.push(FoundPicture { path, format }),
            Err(ImageError::UnsupportedFormat { kind, .. }) => {
                match self.unsupported.iter_mut().find(|(known, _)| known == kind) {
                    Some((_, count)) => *count += 1,
                    None => self.unsupported.push((kind.to_owned(), 1)),
                }
            }
            Err(_) => {}
        }
    }
}

/// Format of the output for a file, by its first bytes, else by its name; a file that cannot be opened is judged by its name alone.
///
/// # Errors
/// Neither says a format that is read.
pub fn format_of_file(path: &Path) -> Result<Format, ImageError> {
    let mut head = Vec::new();
    // What is read of a pipe is gone.
    if path.is_file() {
        let _ = File::open(path).map(|file| file.take(HEAD).read_to_end(&mut head));
    }
    let found = kind_of("", &head).or_else(|error| InputKind::from_extension(path).ok_or(error));
    found.map(InputKind::output)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        root
    }

    fn paths(walk: &Walk) -> Vec<&str> {
        walk.pictures.iter().map(|found| found.path.to_str().unwrap()).collect()
    }

    #[test]
    fn pictures_are_told_by_their_bytes_and_broken_ones_by_their_names() {
        let root = tree(&[
            ("b/deep/er/z.png", PNG),
            ("b/no extension", PNG),
            ("a.jpg", b"not a picture"),
            ("empty.tif", b""),
            ("notes.txt", b"some notes"),
            ("drawing.svg", b"<svg width=\"1\">"),
            ("moving.gif", b"GIF89a.."),
            ("B.PNG", PNG),
            ("c.png/x.webp", b"RIFF....WEBP"),
        ]);
        let walk = walk(root.path(), Path::new("nowhere"), &|_| true);
        let expected = [
            "B.PNG",
            "a.jpg",
            "b/deep/er/z.png",
            "b/no extension",
            "c.png/x.webp",
            "empty.tif",
            "moving.gif",
        ];
        assert_eq!(paths(&walk), expected);
        assert_eq!(walk.pictures[6].format, Format::Png);
        assert_eq!(walk.unsupported, [("SVG".to_owned(), 1)]);
        assert_eq!(walk.unreadable, [""; 0]);
        assert_eq!(walk.pictures[1].format, Format::Jpeg);
    }

    #[test]
    fn hidden_and_unfinished_files_and_the_output_are_not_walked() {
        let root = tree(&[
            ("a.png", PNG),
            (".hidden.png", PNG),
            (".a.png.cupscale/canvas.png", PNG),
            (".a.pngX1y2.part", PNG),
            ("a.png.part", PNG),
            ("big/a.png", PNG),
            ("more/big/b.png", PNG),
        ]);
        let walk = walk(root.path(), &root.path().join("more/../big"), &|_| true);
        assert_eq!(paths(&walk), ["a.png", "more/big/b.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_never_in_a_circle_and_no_folder_twice() {
        use std::os::unix::fs::symlink;

        let other = tree(&[("far.png", PNG), ("below/further.png", PNG)]);
        let root = tree(&[("real/deep/a.png", PNG)]);
        let at = |name: &str| root.path().join(name);
        symlink(root.path(), at("real/deep/up")).unwrap();
        symlink(root.path().parent().unwrap(), at("real/around")).unwrap();
        symlink(at("real/deep"), at("first")).unwrap();
        symlink(other.path(), at("out")).unwrap();
        symlink(root.path(), other.path().join("back")).unwrap();
        symlink(other.path().join("far.png"), at("linked.png")).unwrap();
        symlink(at("nothing"), at("dangling.png")).unwrap();
        assert!(
            std::process::Command::new("mkfifo").arg(at("pipe.png")).status().unwrap().success()
        );
        let expected = [
            "dangling.png",
            "linked.png",
            "out/below/further.png",
            "out/far.png",
            "real/deep/a.png",
        ];
        let found = walk(root.path(), Path::new("nowhere"), &|_| true);
        assert_eq!(paths(&found), expected);
        assert_eq!(found.upward, [Path::new("real/around")]);
        // A folder behind a link is recognised as the output, too.
        let without = walk(root.path(), other.path(), &|_| true);
        assert_eq!(paths(&without), ["dangling.png", "linked.png", "real/deep/a.png"]);
    }

    #[test]
    fn what_is_not_wanted_is_listed_all_the_same_and_opened_only_where_its_name_says_too_little() {
        let root = tree(&[
            ("a.png", PNG),
            ("b.png", b"<svg width=\"1\">"),
            ("c.gif", PNG),
            ("d", PNG),
            ("e.txt", b"some notes"),
        ]);
        let walk = walk(root.path(), Path::new("nowhere"), &|path| path == Path::new("a.png"));
        // Whoever wants b.png opens it, and finds that it is none.
        assert_eq!(paths(&walk), ["a.png", "b.png", "c.gif", "d"]);
        assert!(walk.pictures.iter().all(|found| found.format == Format::Png));
    }
}
