use std::fs::File;

use super::{super::journal::Record, *};

const LAYOUT: WorkLayout = WorkLayout {
    canvas: (8, 12, 4),
    history: 2,
    regions: (6, (8, 8)),
    enlarged: None,
    enlarging_bytes: 0,
    low_resolution: Some((4, 6)),
    rows: (32, 144),
    decoded_bytes: 0,
    map_bytes: 0,
    tiles: 1,
    steps: 3,
};
/// What such a job appends up to its second step.
const TWO_STEPS: [Record; 6] = [
    Record::Encoded { tiles: 1 },
    Record::LowResolution,
    Record::Predicted { regions: 6 },
    Record::Stepped { steps: 1 },
    Record::Predicted { regions: 6 },
    Record::Stepped { steps: 2 },
];

fn append(work: &mut WorkFolder, records: &[Record]) {
    records.iter().for_each(|&record| work.journal.append(record).unwrap());
}

fn open(output: &Path, work: &WorkOptions, job: &Value) -> Result<WorkFolder, Error> {
    let output = Output::Path(output.to_owned());
    WorkFolder::open(work, (&output, Format::Png), job, &LAYOUT)
}

fn job(seed: u64) -> Value {
    serde_json::json!({ "seed": seed, "input": "0".repeat(64) })
}

#[test]
fn work_that_is_left_is_taken_up_and_work_that_is_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    let used: u64 = ["zl", "z0", "z1", "history", "predictions", "low_resolution", "rows"]
        .map(|name| fs::metadata(work.path.join(name)).unwrap().len())
        .iter()
        .sum();
    assert_eq!(used, LAYOUT.bytes());
    work.files.z[1].as_mut_slice()[5] = 3.5;
    work.files.history.as_mut().unwrap().of_step(1).0[7] = 2.5;
    work.files.rows.as_mut().unwrap().write(31, &[7; 144]).unwrap();
    append(&mut work, &TWO_STEPS);
    assert_eq!(work.partial_name().unwrap(), ".a.png.cupscale.part");
    drop(work);

    let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    assert_eq!(work.journal.done().steps, 2);
    assert_eq!(work.files.z[1].as_slice()[5], 3.5);
    assert_eq!(work.files.history.as_mut().unwrap().of_step(2).1[0][7], 2.5);
    let rows = work.files.rows.as_mut().unwrap();
    assert_eq!(rows.read(30..32).unwrap()[144..], [7; 144]);
    work.remove();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn of_a_job_that_keeps_nothing_no_file_has_a_name_and_records_count_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::Path(folder.path().join("a.png"));
    let target = Some((&output, Format::Png));
    let mut work = WorkFolder::temporary(Some(folder.path()), target, &LAYOUT).unwrap();
    append(&mut work, &TWO_STEPS);
    work.keep_captions("{}").unwrap();
    assert_eq!(work.journal.done().steps, 2);
    assert_eq!((work.partial_name(), work.captions()), (None, None));
    assert!(work.files.rows.is_none());
    assert_eq!(work.leave(Left::Kept), None);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let huge = WorkLayout { canvas: (1 << 20, 1 << 20, 4), ..LAYOUT };
    let error = WorkFolder::temporary(Some(folder.path()), None, &huge).unwrap_err();
    assert!(matches!(error, Error::NoRoom { .. }), "{error}");
}

#[test]
fn another_job_is_refused_with_what_differs_and_a_fresh_one_begins() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    append(&mut work, &TWO_STEPS);
    drop(work);
    let error = open(&output, &WorkOptions::default(), &job(2)).unwrap_err().to_string();
    assert!(error.contains("seed: 1 there, 2 now"), "{error}");
    let other = serde_json::json!({ "seed": 1, "input": "1".repeat(64) });
    let error = open(&output, &WorkOptions::default(), &other).unwrap_err().to_string();
    assert!(error.contains("input differs"), "{error}");
    let fresh = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
    assert_eq!(open(&output, &fresh, &job(2)).unwrap().journal.done(), Done::default());
    assert_eq!(open(&output, &WorkOptions::default(), &job(2)).unwrap().journal.done().steps, 0);
}

#[test]
fn a_second_process_is_kept_out_and_nothing_to_resume_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    let required = WorkOptions { resume: Resume::Required, ..WorkOptions::default() };
    let error = open(&output, &required, &job(1)).unwrap_err();
    assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let held = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    assert!(matches!(open(&output, &WorkOptions::default(), &job(1)), Err(Error::Busy { .. })));
    drop(held);
    assert!(open(&output, &required, &job(1)).is_ok());
}

#[test]
fn a_folder_of_its_own_keeps_outputs_of_one_name_apart_and_strangers_files() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("work");
    let work = WorkOptions { folder: Some(elsewhere.clone()), ..WorkOptions::default() };
    for name in ["x", "y"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let [x, y] = ["x", "y"].map(|name| folder.path().join(name).join("a.png"));
    let first = open(&x, &work, &job(1)).unwrap();
    let second = open(&y, &work, &job(1)).unwrap();
    assert_ne!(first.path, second.path);
    let strange = first.path.join("mine.txt");
    fs::write(&strange, "").unwrap();
    second.remove();
    first.remove();
    assert!(strange.exists());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
}

#[test]
fn a_killed_beginning_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
    let path = folder.path().join(".a.png.cupscale");
    fs::remove_file(path.join(JOB)).unwrap();
    fs::write(path.join(JOURNAL), "no journal").unwrap();
    fs::remove_file(path.join("zl")).unwrap();
    let work = open(&output, &WorkOptions::default(), &job(2)).unwrap();
    assert_eq!(work.journal.done(), Done::default());
}

#[test]
fn long_names_and_missing_room_are_dealt_with() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(format!("{}.png", "n".repeat(251)));
    let work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    assert!(work.partial_name().unwrap().len() < 64);
    drop(work);
    let huge = WorkLayout { rows: (1 << 30, 1 << 30), ..LAYOUT };
    let output = Output::Path(folder.path().join("b.png"));
    let error = WorkFolder::open(&WorkOptions::default(), (&output, Format::Png), &job(1), &huge)
        .unwrap_err();
    assert!(matches!(error, Error::NoRoom { maps: 0, .. }), "{error}");
    assert!(!folder.path().join(".b.png.cupscale").exists());
    // Of a job that goes on the maps alone are missing.
    let open = |map_bytes: u64| {
        let layout = WorkLayout { map_bytes, ..LAYOUT };
        let output = (&output, Format::Png);
        WorkFolder::open(&WorkOptions::default(), output, &job(1), &layout)
    };
    for _ in 0..2 {
        let error = open(1 << 60).unwrap_err();
        assert!(matches!(error, Error::NoRoom { maps, .. } if maps == 1 << 60), "{error}");
        drop(open(0).unwrap());
    }
}

#[test]
fn work_that_cannot_go_on_is_begun_anew_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    let required = WorkOptions { resume: Resume::Required, ..WorkOptions::default() };
    let path = folder.path().join(".a.png.cupscale");
    let lie = b"00000000 {\"stepped\":{\"steps\":3}}\n";
    for (file, wrong) in
        [("z1", &b"short"[..]), ("rows", b"short"), (JOURNAL, lie), (JOB, b"{"), ("zl", b"")]
    {
        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        append(&mut work, &TWO_STEPS);
        drop(work);
        fs::write(path.join(file), wrong).unwrap();
        let error = open(&output, &required, &job(1)).unwrap_err();
        assert!(matches!(error, Error::DamagedWork { .. }), "{file}: {error}");
        let work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        assert_eq!(work.journal.done(), Done::default(), "{file}");
        let note = work.notes.concat();
        assert!(note.contains(file) || file == JOB && note.contains("job.json"), "{note}");
        assert!(note.ends_with("begun anew"), "{note}");
        work.remove();
    }
    drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
    fs::remove_file(path.join("z0")).unwrap();
    assert!(open(&output, &WorkOptions::default(), &job(1)).unwrap().notes.len() == 1);
}

#[test]
fn what_a_failed_job_leaves_goes_on_and_refuses_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    let begun = |records: &[Record], left: Left| {
        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        append(&mut work, records);
        work.leave(left)
    };
    drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
    // An empty folder refuses nobody.
    open(&output, &WorkOptions::default(), &job(2)).unwrap().remove();
    // Nothing done, or nothing to go on with.
    for (records, left) in [(&[][..], Left::Kept), (&TWO_STEPS, Left::Removed)] {
        assert_eq!(begun(records, left), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    let path = folder.path().join(".a.png.cupscale");
    assert_eq!(begun(&TWO_STEPS, Left::Replaceable).as_ref(), Some(&path));
    let work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    assert_eq!(work.journal.done().steps, 2);
    assert_eq!(work.leave(Left::Replaceable).as_ref(), Some(&path));
    let required = WorkOptions { resume: Resume::Required, ..WorkOptions::default() };
    let error = open(&output, &required, &job(2)).unwrap_err();
    assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
    let mut work = open(&output, &WorkOptions::default(), &job(2)).unwrap();
    assert!(work.notes.concat().contains("failed"));
    append(&mut work, &TWO_STEPS[..1]);
    assert!(work.leave(Left::Kept).is_some());
    let error = open(&output, &WorkOptions::default(), &job(1)).unwrap_err();
    assert!(matches!(error, Error::OtherJob { .. }), "{error}");
}

#[test]
fn a_job_file_that_no_job_wrote_is_not_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.png");
    drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
    let file = File::options().write(true).open(folder.path().join(".a.png.cupscale/job.json"));
    file.unwrap().set_len(1 << 40).unwrap();
    let error = open(&output, &WorkOptions::default(), &job(1)).unwrap_err();
    assert!(error.to_string().contains("larger than 16.0 MiB"), "{error}");
    let fresh = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
    open(&output, &fresh, &job(1)).unwrap().remove();
}

#[cfg(unix)]
#[test]
fn a_link_that_bears_the_folders_name_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (output, elsewhere) = (folder.path().join("a.png"), folder.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("zl"), "precious").unwrap();
    let path = folder.path().join(".a.png.cupscale");
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let error = open(&output, &WorkOptions::default(), &job(1)).unwrap_err();
    assert!(matches!(error, Error::NotOwn { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    // A link within the folder.
    let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
    append(&mut work, &TWO_STEPS[..1]);
    drop(work);
    fs::remove_file(path.join("zl")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("zl"), path.join("zl")).unwrap();
    assert!(open(&output, &WorkOptions::default(), &job(1)).is_err());
    let fresh = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
    open(&output, &fresh, &job(1)).unwrap().remove();
    assert_eq!(fs::read(elsewhere.join("zl")).unwrap(), b"precious");
}
