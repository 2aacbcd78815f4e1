//! Files of several pictures: pages and frames, each into a file of its own.

use std::fs;

use crate::common::{Shell, fixture, quick, size, stderr};

/// Brings a fixture of a format that is only read.
fn bring(shell: &Shell, name: &str) {
    fs::copy(fixture("image/inputs").join(name), shell.path(name)).unwrap();
}

#[test]
fn every_page_and_every_frame_becomes_a_file_and_one_can_be_picked() {
    let (shell, quick) = (Shell::new(), quick());
    bring(&shell, "pages.tif");
    bring(&shell, "frames.gif");
    let said = stderr(&shell.run(&format!("pages.tif --page all {quick}")));
    assert!(said.contains("3 done, 0 skipped, 0 failed"), "{said}");
    for page in 1..=3 {
        assert_eq!(size(&shell.path(&format!("pages_2x_000{page}.tif"))), (54, 42));
    }
    // What one of many gets is what it gets alone.
    shell.succeed(&format!("pages.tif --page 2 -o second.tif {quick}"));
    assert_eq!(shell.bytes("second.tif"), shell.bytes("pages_2x_0002.tif"));
    shell.succeed(&format!("pages.tif -o first.tif {quick}"));
    assert_eq!(shell.bytes("first.tif"), shell.bytes("pages_2x_0001.tif"));

    shell.succeed(&format!("frames.gif --frames -o film.webp {quick}"));
    for frame in 1..=4 {
        assert_eq!(size(&shell.path(&format!("film_000{frame}.webp"))), (48, 36));
    }
    let again =
        stderr(&shell.run(&format!("frames.gif --frames -o film.webp --skip-existing {quick}")));
    assert!(again.contains("0 done, 4 skipped"), "{again}");
    // `--frames` is for animations: a TIFF is one picture, with a note.
    let said = stderr(&shell.run(&format!("pages.tif --frames -o one.png {quick}")));
    assert!(said.contains("only the first picture of this TIFF file was read"), "{said}");
}

#[test]
fn pages_that_are_not_there_and_streams_are_refused() {
    let (shell, quick) = (Shell::new(), quick());
    bring(&shell, "pages.tif");
    let said = shell.fail(&format!("pages.tif --page 4 {quick}"), 1);
    assert!(said.contains("has no picture 4: there are 3 in this TIFF file"), "{said}");
    let said = shell.fail(&format!("pages.tif --page all -o - {quick}"), 2);
    assert!(said.contains("pages and frames go to files of their own"), "{said}");
    assert!(shell.fail("pages.tif --page 0", 2).contains("a number from 1, or `all`"));
    assert!(shell.fail("plan pages.tif --page all", 2).contains("--page N"));
}

#[test]
fn pictures_that_are_only_read_become_pngs_beside_those_of_their_name() {
    let (shell, quick) = (Shell::new(), quick());
    bring(&shell, "grey.bmp");
    shell.succeed(&format!("grey.bmp {quick}"));
    assert_eq!(size(&shell.path("grey_2x.png")), (54, 42));
    fs::create_dir(shell.path("shots")).unwrap();
    fs::rename(shell.path("grey_2x.png"), shell.path("shots/grey.png")).unwrap();
    fs::rename(shell.path("grey.bmp"), shell.path("shots/grey.bmp")).unwrap();
    shell.succeed(&format!("shots -o big {quick}"));
    assert_eq!(size(&shell.path("big/grey.png")), (108, 84));
    assert_eq!(size(&shell.path("big/grey.bmp.png")), (54, 42));
}
