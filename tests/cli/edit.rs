//! `edit`: files are replaced in one step, with what the file system knows of them; whatever goes wrong, the original is
//! what it was.

use std::{
    fs::{self, FileTimes},
    time::{Duration, SystemTime},
};

use crate::common::{Shell, quick, size, stderr};

fn edit(more: &str) -> String {
    format!("edit {} {more}", quick())
}

#[test]
fn a_file_takes_the_place_of_the_original_and_nothing_else_is_left() {
    let shell = Shell::new();
    let before = fs::read(shell.picture("a.jpg", 24, 16)).unwrap();
    shell.succeed(&edit("a.jpg"));
    assert_eq!(size(&shell.path("a.jpg")), (48, 32));
    assert_eq!(shell.names(), ["a.jpg"]);
    assert_ne!(shell.bytes("a.jpg"), before);
    assert!(shell.bytes("a.jpg").starts_with(b"\xff\xd8\xff"));
    // At its own size, and in its own format whatever it is called.
    fs::rename(shell.path("a.jpg"), shell.path("a.png")).unwrap();
    shell.succeed(&format!(
        "edit a.png --scale 1 --denoise-steps 1 --captioner none --model {}",
        crate::common::tiny().display()
    ));
    assert!(shell.bytes("a.png").starts_with(b"\xff\xd8\xff"));
}

#[test]
fn a_page_about_an_edit_is_beside_the_file_and_names_it() {
    let shell = Shell::new();
    shell.picture("a.png", 24, 16);
    let output = shell.run(&edit("a.png --report"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(shell.names(), ["a.png", "a.png.html"]);
    let told = stderr(&output);
    assert!(told.contains("a.png: 48 × 32") && told.contains("a.png.html"), "{told}");
    assert!(!told.contains("cupscale-edit"), "{told}");
    let page = String::from_utf8(shell.bytes("a.png.html")).unwrap();
    assert!(page.contains("a.png") && !page.contains("cupscale-edit"));
    // A page that cannot be is refused before there is a backup.
    shell.fail(&edit("a.png --backup --report=a.png"), 2);
    assert_eq!(shell.names(), ["a.png", "a.png.html"]);
}

#[test]
fn a_backup_has_the_bytes_of_the_original_and_is_never_written_over() {
    let shell = Shell::new();
    let before = fs::read(shell.picture("a.png", 24, 16)).unwrap();
    shell.succeed(&edit("a.png --backup"));
    assert_eq!(shell.names(), ["a.png", "a.png~"]);
    assert_eq!(shell.bytes("a.png~"), before);
    let edited = shell.bytes("a.png");
    let message = shell.fail(&edit("a.png --backup"), 1);
    assert!(message.contains("another file"), "{message}");
    assert_eq!((shell.bytes("a.png"), shell.bytes("a.png~")), (edited, before));
    shell.succeed(&edit("a.png --backup=.old"));
    assert_eq!(shell.names(), ["a.png", "a.png.old", "a.png~"]);
    assert!(shell.fail(&edit("a.png --backup=/x"), 2).contains("suffix"));
}

#[test]
fn a_mask_keeps_its_part_of_an_edited_file() {
    let shell = Shell::new();
    shell.picture("a.png", 24, 16);
    let half = pictures::RgbImage::from_fn(48, 32, |x, _| {
        pictures::Rgb([if x < 20 { 0 } else { 255 }; 3])
    });
    pictures::save(half.into(), &shell.path("mask.png"));
    shell.succeed(&format!("a.png -o plain.png {} --blend 0", quick()));
    shell.succeed(&edit("a.png --mask mask.png"));
    let (edited, plain) = (shell.path("a.png"), shell.path("plain.png"));
    let (edited, plain) = (pictures::open(edited).to_rgb8(), pictures::open(plain).to_rgb8());
    let is_plain = |x, y| edited.get_pixel(x, y) == plain.get_pixel(x, y);
    assert!((0..32).all(|y| (0..20).all(|x| is_plain(x, y))));
    assert!((0..32).filter(|&y| is_plain(40, y)).count() < 16);
}

#[test]
fn what_cannot_be_written_back_is_refused_before_any_work() {
    let shell = Shell::new();
    shell.picture("a.png", 24, 16);
    let gif =
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    fs::write(shell.path("b.gif"), gif).unwrap();
    fs::create_dir(shell.path("folder")).unwrap();
    for (line, code) in [
        ("b.gif", 1),
        ("nothing.png", 1),
        ("folder", 2),
        ("-", 2),
        ("a.png -o b.png", 2),
        ("a.png --format jpeg", 2),
        ("a.png --skip-existing", 2),
        ("a.png --dry-run", 2),
    ] {
        shell.fail(&edit(line), code);
    }
    let message = shell.fail(&edit("b.gif"), 1);
    assert!(message.contains("GIF is not written"), "{message}");
    assert_eq!(shell.names(), ["a.png", "b.gif", "folder"]);
    assert_eq!(size(&shell.path("a.png")), (24, 16));
}

#[test]
fn several_files_go_on_after_one_that_fails() {
    let shell = Shell::new();
    shell.picture("a.png", 24, 16);
    shell.picture("c.png", 24, 16);
    fs::write(shell.path("b.png"), b"\x89PNG\r\n\x1a\nno picture").unwrap();
    let output = shell.run(&edit("a.png b.png c.png a.png --backup"));
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("2 done, 0 skipped, 1 failed") && message.contains("b.png"),
        "{message}"
    );
    assert_eq!(shell.names(), ["a.png", "a.png~", "b.png", "c.png", "c.png~"]);
    for name in ["a.png", "c.png"] {
        assert_eq!(size(&shell.path(name)), (48, 32));
    }
    // What is refused is no reason to stop either.
    fs::write(shell.path("a.png~"), "another file").unwrap();
    fs::remove_file(shell.path("c.png~")).unwrap();
    let output = shell.run(&edit("a.png c.png --backup"));
    assert!(stderr(&output).contains("1 done, 0 skipped, 1 failed"), "{}", stderr(&output));
    assert_eq!((size(&shell.path("a.png")), size(&shell.path("c.png"))), ((48, 32), (96, 64)));
}

#[test]
fn times_are_kept_where_that_is_asked_for() {
    let shell = Shell::new();
    let path = shell.picture("a.png", 24, 16);
    let then = SystemTime::now() - Duration::from_secs(1_000_000);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_times(FileTimes::new().set_modified(then)).unwrap();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    let then = modified();
    shell.succeed(&edit("a.png --keep-times"));
    assert_eq!(modified(), then);
    shell.succeed(&edit("a.png"));
    assert!(modified() > then);
}

#[cfg(unix)]
#[test]
fn mode_attributes_and_links_stay() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    let shell = Shell::new();
    let path = shell.picture("a.png", 24, 16);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Not every disk has them.
    let has_attributes = xattr::set(&path, "user.rating", b"5").is_ok();
    symlink("a.png", shell.path("link.png")).unwrap();
    shell.succeed(&edit("link.png"));
    assert!(fs::symlink_metadata(shell.path("link.png")).unwrap().is_symlink());
    assert_eq!(size(&path), (48, 32));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    if has_attributes {
        assert_eq!(xattr::get(&path, "user.rating").unwrap().as_deref(), Some(&b"5"[..]));
    }
    fs::hard_link(&path, shell.path("other.png")).unwrap();
    let output = shell.run(&edit("a.png"));
    assert!(stderr(&output).contains("1 name more (hard links)"), "{}", stderr(&output));
    assert_eq!((size(&path), size(&shell.path("other.png"))), ((96, 64), (48, 32)));
}

#[test]
fn a_failure_leaves_the_original_and_takes_the_backup_back() {
    let shell = Shell::new();
    shell.picture("a.png", 24, 16);
    let before = shell.bytes("a.png");
    shell.fail("edit a.png --backup --model nowhere", 1);
    assert_eq!(shell.names(), ["a.png"]);
    assert_eq!(shell.bytes("a.png"), before);
}

#[test]
fn a_killed_edit_has_left_the_original_and_goes_on() {
    let shell = Shell::new();
    shell.picture("a.png", 48, 32);
    shell.picture("b.png", 48, 32);
    let before = shell.bytes("a.png");
    let line = "-s 4 --denoise-steps 4 --captioner none";
    let mut child = shell.command(&format!("edit a.png --backup {line}")).spawn().unwrap();
    let journal = shell.path(".a.png.cupscale-edit.cupscale/journal");
    while fs::metadata(&journal).map_or(0, |found| found.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it was too fast");
        crate::common::pause();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shell.bytes("a.png") == before);
    shell.succeed(&format!("edit a.png --backup {line}"));
    shell.succeed(&format!("b.png -o c.png {line}"));
    assert!(shell.bytes("a.png") == shell.bytes("c.png"));
    assert!(shell.bytes("a.png~") == before);
    assert_eq!(shell.names(), ["a.png", "a.png~", "b.png", "c.png"]);
}
