//! `integrate`: files are written where other programs look for them, renewed, and removed; never somebody else's.
#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::common::{Shell, stderr};

/// A user whose home is a folder of the test's.
struct User(Shell);

impl User {
    fn new() -> Self {
        let user = Self(Shell::new());
        fs::create_dir(user.home("")).unwrap();
        user
    }

    fn home(&self, path: &str) -> PathBuf {
        self.0.path("home").join(path)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.0.command(&format!("integrate {line}"));
        command
            .env("HOME", self.home(""))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME");
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fail(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        assert_eq!(stderr(&output).trim_end().lines().count(), 1, "{}", stderr(&output));
        stderr(&output)
    }

    /// All files of the user, in order.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.home(""), &mut found);
        let home = self.home("");
        let below = |path: PathBuf| path.strip_prefix(&home).unwrap().display().to_string();
        let mut names: Vec<_> = found.into_iter().map(below).collect();
        names.sort();
        names
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.home(path)).unwrap()
    }
}

const GIMP: [&str; 3] = [
    ".config/GIMP/3.0/plug-ins/cupscale/cupscale.py",
    ".config/GIMP/3.0/plug-ins/cupscale/cupscale_dialog.py",
    ".config/GIMP/3.0/plug-ins/cupscale/cupscale_program.py",
];

/// Every integration for this system.
fn names(user: &User) -> Vec<String> {
    let list = user.succeed("--list");
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_integration_is_written_listed_and_removed_without_a_trace() {
    let user = User::new();
    let all = names(&user);
    assert!(all.len() >= 11 && !all.contains(&"finder".to_owned()), "{all:?}");
    for name in &all {
        let dry = user.succeed(&format!("{name} --dry-run"));
        assert!(dry.starts_with("would write: "), "{dry}");
        assert!(user.files().is_empty(), "{name}: --dry-run writes nothing");
        let told = user.succeed(name);
        let files = user.files();
        assert!(!files.is_empty());
        for file in &files {
            let path = user.home(file);
            assert!(told.contains(&format!("wrote: {}\n", path.display())), "{told}");
            let text = user.text(file);
            assert!(!text.contains("@program@") && !text.contains("@script@"), "{file}");
            assert!(!text.contains("@version@") && !text.contains("@integration@"), "{file}");
            assert!(
                text.contains(&format!("cupscale-fast {}", env!("CARGO_PKG_VERSION"))),
                "{file}"
            );
            let is_script = text.starts_with("#!") || file.contains("servicemenus");
            let mode = path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if is_script { 0o755 } else { 0o644 }, "{file}");
        }
        let line = |list: &str| {
            list.lines().find(|line| line.starts_with(name.as_str())).unwrap().to_owned()
        };
        assert!(line(&user.succeed("--list")).contains(" installed "));
        assert!(user.succeed(name).contains("is there: "));
        assert!(user.succeed(&format!("{name} --remove --dry-run")).contains("would remove: "));
        assert_eq!(user.files(), files);
        assert!(user.succeed(&format!("{name} --remove")).contains("removed: "));
        assert_eq!(user.files(), [""; 0], "{name}");
        assert!(!line(&user.succeed("--list")).contains("installed"));
        assert!(user.succeed(&format!("{name} --remove")).contains("nothing to remove"));
    }
}

#[test]
fn files_go_to_every_place_where_the_other_program_has_been() {
    let user = User::new();
    let places = [".config/GIMP/3.0", ".config/GIMP/3.2", ".var/app/org.gimp.GIMP/config/GIMP/3.0"];
    for place in places {
        fs::create_dir_all(user.home(place)).unwrap();
    }
    fs::create_dir_all(user.home(".config/GIMP/2.10")).unwrap();
    user.succeed("gimp");
    let found = user.files();
    assert_eq!(found.len(), 9, "{found:?}");
    for place in places {
        assert!(found.contains(&format!("{place}/plug-ins/cupscale/cupscale.py")), "{found:?}");
    }
    user.succeed("gimp --remove");
    assert!(user.files().is_empty());
    for place in places {
        assert!(user.home(place).join("plug-ins").is_dir(), "a folder with another's name stays");
        assert!(!user.home(place).join("plug-ins/cupscale").exists());
    }
    // XDG's variables name other folders.
    fs::remove_dir_all(user.home(".var")).unwrap();
    let output =
        user.command("gimp").env("XDG_CONFIG_HOME", user.home("elsewhere")).output().unwrap();
    assert!(output.status.success());
    assert!(user.files().contains(&"elsewhere/GIMP/3.0/plug-ins/cupscale/cupscale.py".to_owned()));
}

#[test]
fn the_program_and_its_script_are_named_as_the_language_reads_them() {
    let user = User::new();
    let program = assert_cmd::cargo::cargo_bin!("cupscale-fast").canonicalize().unwrap();
    let program = program.display();
    user.succeed("gimp");
    assert!(user.text(GIMP[2]).contains(&format!("INSTALLED = \"{program}\"")));
    user.succeed("nautilus");
    let script = user.text(".local/share/nautilus/scripts/Enlarge with Cupscale");
    assert!(script.contains(&format!("program='{program}'")), "{script}");
    user.succeed("thunar");
    let script = user.home(".local/share/cupscale/thunar.sh");
    let desktop = user.text(".local/share/Thunar/sendto/cupscale.desktop");
    assert!(desktop.contains(&format!("Exec=sh \"{}\" %F", script.display())), "{desktop}");
    user.succeed("imagemagick");
    let delegates = user.text(".config/ImageMagick/delegates.xml");
    assert!(delegates.contains(&format!("command=\"&quot;{program}&quot; ")), "{delegates}");
}

#[test]
fn a_file_of_another_version_is_renewed_and_one_that_was_changed_stays() {
    let user = User::new();
    user.succeed("gimp");
    let now = user.text(GIMP[0]);
    // A program elsewhere writes another path into its files: what it finds is as that other one wrote it.
    let elsewhere = user.0.path("moved");
    fs::copy(assert_cmd::cargo::cargo_bin!("cupscale-fast"), &elsewhere).unwrap();
    let mut moved = Command::new(&elsewhere);
    moved.args(["integrate", "gimp"]).env("HOME", user.home("")).env_remove("XDG_CONFIG_HOME");
    let output = moved.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains(&format!("renewed: {}", user.home(GIMP[2]).display())), "{told}");
    assert!(told.contains(&format!("is there: {}", user.home(GIMP[0]).display())), "{told}");
    assert!(user.succeed("--list").contains("gimp         to renew"));
    user.succeed("gimp");

    fs::write(user.home(GIMP[0]), now.replace("MARGIN = 64", "MARGIN = 32")).unwrap();
    assert!(user.succeed("--list").contains("gimp         changed"));
    let line = user.fail("gimp", 1);
    assert!(line.contains("cupscale.py") && line.contains("--force writes it"), "{line}");
    assert!(user.text(GIMP[0]).contains("MARGIN = 32"));
    let line = user.fail("gimp --remove", 1);
    assert!(line.contains("cupscale.py") && line.contains("--force removes it"), "{line}");
    assert_eq!(user.files(), [GIMP[0]]);
    user.succeed("gimp --force");
    assert_eq!(user.text(GIMP[0]), now);
    fs::write(user.home(GIMP[0]), now.replace("MARGIN = 64", "MARGIN = 32")).unwrap();
    user.succeed("gimp --remove --force");
    assert!(user.files().is_empty());
}

#[test]
fn a_file_of_somebody_elses_is_neither_written_over_nor_removed() {
    let user = User::new();
    let path = user.home(GIMP[1]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "print('mine')\n").unwrap();
    for line in ["gimp", "gimp --force"] {
        let line = user.fail(line, 1);
        assert!(line.contains("cupscale_dialog.py: is not this program's"), "{line}");
        assert_eq!(user.files(), [GIMP[1]], "nothing else was written");
    }
    assert!(user.succeed("gimp --remove --force").contains("nothing to remove"));
    assert_eq!(user.text(GIMP[1]), "print('mine')\n");
    // A link is nobody's file of ours, wherever it leads.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(user.0.path("target"), &path).unwrap();
    user.fail("gimp --force", 1);
    assert!(!user.0.path("target").exists());

    // Of a list that programs share, what to add is told.
    for (name, path, mine, added) in [
        ("darktable", ".config/darktable/luarc", "require \"mine\"\n", "  require \"cupscale\"\n"),
        (
            "imagemagick",
            ".config/ImageMagick/delegates.xml",
            "<delegatemap/>\n",
            "  <delegate decode=",
        ),
    ] {
        fs::create_dir_all(user.home(path).parent().unwrap()).unwrap();
        fs::write(user.home(path), mine).unwrap();
        let told = user.succeed(name);
        assert!(
            told.contains("is yours and stays; add to it:\n") && told.contains(added),
            "{told}"
        );
        user.succeed(&format!("{name} --remove"));
        assert_eq!(user.text(path), mine);
    }
}

#[test]
fn what_python_compiled_of_a_plug_in_goes_with_it() {
    let user = User::new();
    user.succeed("krita");
    let cache = user.home(".local/share/krita/pykrita/cupscale/__pycache__");
    fs::create_dir(&cache).unwrap();
    for name in ["__init__", "dialog", "cupscale_program"] {
        fs::write(cache.join(format!("{name}.cpython-313.pyc")), "x").unwrap();
    }
    user.succeed("krita --remove");
    assert!(user.files().is_empty(), "{:?}", user.files());
    assert!(!cache.parent().unwrap().exists());
}

#[test]
fn wrong_usage_is_told_in_a_line() {
    let user = User::new();
    let line = user.fail("gmp", 2);
    assert!(line.contains("gimp"), "{line}");
    user.fail("", 2);
    user.fail("gimp --list", 2);
    assert!(user.fail("finder", 1).contains("finder is not of this system"));
    assert!(user.0.fail("in.png integrate", 2).contains("a verb comes first"));
    assert!(user.files().is_empty());
}
