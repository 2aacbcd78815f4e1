//! `status`: what the records of shares say together, in all states, whole and damaged, few and many.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::{Shell, stderr};

/// First line of a record.
fn begun(share: u32, of: u32, (pictures, list): (usize, usize), time: u64) -> String {
    let line = json!({
        "event": "run", "version": 1, "share": share, "of": of, "pictures": pictures,
        "list": list, "host": "node1", "pid": 7, "time": time, "settings": "aa", "program": "0.1.0",
    });
    format!("{line}\n")
}

fn picture(name: &str, state: &str, reason: Option<&str>) -> String {
    let mut line = json!({
        "event": "picture", "picture": format!("in/{name}"), "output": name, "state": state,
    });
    if let Some(reason) = reason {
        line["reason"] = reason.into();
    }
    format!("{line}\n")
}

const END: &str = "{\"event\":\"end\",\"code\":0,\"time\":9}\n";

fn write(shell: &Shell, name: &str, text: &str) {
    let folder = shell.path("big/.cupscale-shares");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

fn status(shell: &Shell, more: &str) -> (String, String, i32) {
    let output = shell.run(&format!("status big {more}"));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (text, stderr(&output), output.status.code().unwrap())
}

#[test]
fn what_is_done_failed_and_left_is_counted_and_failures_are_named() {
    let shell = Shell::new();
    let first = [
        begun(1, 3, (3, 8), 1),
        picture("a.png", "done", None),
        picture("b.png", "failed", Some("in/b.png: not a picture")),
        picture("c\u{1b}[2J.png", "failed", Some("the disk\nis full")),
        END.to_owned(),
    ];
    write(&shell, "001-of-003.aa.jsonl", &first.concat());
    // Killed within a line.
    let second = begun(2, 3, (2, 8), 2) + &picture("d.png", "begun", None);
    write(&shell, "002-of-003.bb.jsonl", &(second + "{\"event\":\"pict"));
    let (text, notes, code) = status(&shell, "");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((code, notes.as_str()), (1, ""));
    assert_eq!(lines[0], "8 pictures: 1 done, 2 failed, 0 running, 5 left");
    assert_eq!(lines[1], "1 of 3 shares have not begun");
    assert!(lines[2].starts_with("share  pictures  done  failed"), "{text}");
    assert!(
        lines[3].starts_with("1/3           3     1       2        0     0     1  node1"),
        "{text}"
    );
    assert!(lines[3].ends_with("ended with 0") && lines[4].ends_with("has not ended"), "{text}");
    assert_eq!(lines[5], "in/b.png: not a picture");
    assert_eq!(lines[6], r"in/c\u{1b}[2J.png: the disk\nis full");
    assert_eq!(lines.len(), 7);
    // An output that is there is done, whatever was written of it.
    fs::write(shell.path("big/d.png"), "").unwrap();
    fs::write(shell.path("big/b.png"), "").unwrap();
    let (text, _, code) = status(&shell, "--json");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 1);
    assert_eq!([&json["done"], &json["failed"], &json["left"], &json["not_begun"]], [3, 1, 4, 1]);
    assert_eq!(json["failures"][0]["reason"], "the disk\nis full");
    assert!(!text.contains('\u{1b}'), "{text}");

    // A later run mends it; all shares are there, and the sum is that of the shares.
    let mended = begun(1, 3, (3, 8), 5) + &picture("c\u{1b}[2J.png", "done", None) + END;
    write(&shell, "001-of-003.cc.jsonl", &mended);
    write(&shell, "003-of-003.dd.jsonl", &(begun(3, 3, (0, 8), 3) + END));
    let again = begun(2, 3, (2, 8), 6) + &picture("e.png", "exists", None) + END;
    write(&shell, "002-of-003.ee.jsonl", &again);
    let (text, notes, code) = status(&shell, "");
    assert!(text.starts_with("5 pictures: 5 done, 0 failed, 0 running, 0 left\nshare"), "{text}");
    assert_eq!((code, notes.as_str()), (0, ""));
}

#[test]
fn a_later_line_counts_but_what_is_done_stays_done() {
    let shell = Shell::new();
    for (lines, done, failed) in [
        (&["failed", "begun"][..], 0, 0),
        (&["failed", "waiting"], 0, 1),
        (&["failed", "locked"], 0, 1),
        (&["done", "failed"], 1, 0),
        (&["exists", "begun"], 1, 0),
        (&["begun", "done", "waiting"], 1, 0),
        (&["waiting", "failed"], 0, 1),
        (&["begun", "failed", "begun", "done"], 1, 0),
    ] {
        let text: String = lines.iter().map(|state| picture("a.png", state, None)).collect();
        write(&shell, "001-of-001.aa.jsonl", &(begun(1, 1, (1, 1), 1) + &text));
        let json: Value = serde_json::from_str(&status(&shell, "--json").0).unwrap();
        assert_eq!([&json["done"], &json["failed"]], [done, failed], "{lines:?}");
        assert_eq!(json["left"], 1 - done - failed, "{lines:?}");
    }
}

#[test]
fn damaged_and_foreign_records_are_passed_over_and_said() {
    let shell = Shell::new();
    let good = begun(1, 2, (1, 2), 1) + "no line\n" + &picture("a.png", "done", None) + END;
    write(&shell, "001-of-002.aa.jsonl", &good);
    write(&shell, "002-of-002.bb.jsonl", "");
    write(&shell, "002-of-002.cc.jsonl", "{\"event\":\"run\",\"version\":1,");
    write(&shell, "002-of-002.dd.jsonl", "something else\n");
    write(
        &shell,
        "002-of-002.ee.jsonl",
        &begun(2, 2, (1, 2), 1).replace("\"version\":1", "\"version\":9"),
    );
    write(&shell, "notes.txt", "of the user");
    let (text, notes, code) = status(&shell, "");
    assert!(text.starts_with("2 pictures: 1 done, 0 failed, 0 running, 1 left\n1 of 2"), "{text}");
    assert_eq!(code, 3);
    assert!(notes.contains("1 line of the records cannot be read"), "{notes}");
    assert_eq!(notes.matches("is no record that is read here").count(), 2, "{notes}");
    assert_eq!(notes.lines().count(), 3, "{notes}");

    // Runs that do not go together.
    let other = begun(4, 7, (1, 3), 5).replace("\"aa\"", "\"bb\"").replace("0.1.0", "0.2.0");
    write(&shell, "004-of-007.ff.jsonl", &(other + &picture("b.png", "done", None) + END));
    let (text, notes, code) = status(&shell, "");
    assert!(text.starts_with("3 pictures: 2 done"), "{text}");
    assert!(text.contains("6 of 7 shares have not begun"), "{text}");
    for said in
        ["different lists: of 2, of 7", "settings differ: 1 run had", "differ: 0.1.0, 0.2.0"]
    {
        assert!(notes.contains(said), "{notes}");
    }
    assert_eq!(code, 3);
}

#[test]
fn a_folder_without_shares_is_no_folder_that_is_done() {
    let shell = Shell::new();
    fs::create_dir(shell.path("empty")).unwrap();
    for (folder, said) in
        [("empty", "empty: no share was begun"), ("nowhere", "nowhere: no such folder")]
    {
        let line = shell.fail(&format!("status {folder}"), 2);
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn a_hundred_thousand_pictures_are_summed_up_in_a_moment() {
    let shell = Shell::new();
    for share in 1..=50 {
        let mut text = begun(share, 50, (2000, 100_000), u64::from(share));
        for number in 0..2000 {
            let name = format!("2026/day {share}/IMG_{number:05}.png");
            text += &picture(&name, "begun", None);
            let state = if number % 500 == 7 { "failed" } else { "done" };
            let _ = write!(text, "{}", picture(&name, state, Some("a reason")));
        }
        write(&shell, &format!("{share:03}-of-050.aa.jsonl"), &text);
    }
    let begun = Instant::now();
    let (text, _, code) = status(&shell, "");
    // Some three times that without optimisation.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    println!("{:?}", begun.elapsed());
    assert_eq!(code, 1);
    assert!(
        text.starts_with("100000 pictures: 99800 done, 200 failed, 0 running, 0 left"),
        "{}",
        &text[..200]
    );
    // So many shares are listed on request.
    assert_eq!(text.lines().count(), 201);
    assert_eq!(status(&shell, "--shares").0.lines().count(), 252);
}
